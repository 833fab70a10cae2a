"""GUI-R1: one verifiable reward for every kind of action on a screen (arXiv:2504.10458).

Mechanism: R = 0.8 R_accuracy + 0.2 R_format, both 0 or 1. The accuracy branches by what the step asks for: a click
must lie inside the box, a text must share its words, a scroll its direction; another kind of action than asked for is
wrong. GRPO straight on it, with a KL loss of coefficient 0.01.

Without it: the accuracy knows clicks only; steps that ask for typing or scrolling pay their format and nothing else.
Format, tasks and budget are the same.

Differences: screens are drawn here (icons, a word on a button, a field and a list) instead of 3 thousand logged ones,
actions are JSON or plain words instead of a list of one mapping with placeholders for what is unused, and there is no
history in the prompt. The tiny size writes no thought, sees one icon at a time and starts from a supervised warm-up,
where the paper starts from a pretrained model. The warm-up ends with a demonstrator who clicks anywhere, types any word
and scrolls any way half of the time: most likely actions are right before, what is learned is to leave the others out.
Five members a group, batches of 512 and their four parts are the published code's.
"""

from saccade.advantages.group import GroupNorm
from saccade.core.policy import Sampling
from saccade.core.schedule import Constant, Linear
from saccade.envs.screens import Screens, ScreenTasks
from saccade.evaluate.episodes import Grounding, StepSuccess, TypeMatch
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import KLToReference
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Train, pick, recipe
from saccade.recipes.vla.screen import ANSWER, THOUGHT, look, policy, warm_up
from saccade.rewards.gui import ActionFormat, UnifiedAction


@recipe(paper="2504.10458", pillar="vla")
def gui_r1(size: Size = "tiny") -> Recipe:
    sampling = Sampling(max_actions=pick(size, tiny=8, base=1024))
    tags = pick(size, tiny=("tool",), base=("think", "answer"))
    tasks = ScreenTasks(count=1024, words=0.0, typing=0.25, scrolling=0.25, look=look(size), buttons=1, answer=ANSWER)
    return Recipe(
        policy=policy(size),
        env=Screens(tasks, template=pick(size, tiny="{prompt}", base=THOUGHT)),
        rewards={"action": UnifiedAction(accuracy=0.8, format=0.2, tags=tags)},
        advantage=GroupNorm(eps=1e-6, ddof=1),
        average="action",
        objective={"pg": PPOClip(low=0.2, high=0.2), "kl": KLToReference(coef=0.01)},
        feed=OnPolicy(sampling=sampling),
        train=Train(
            steps=pick(size, tiny=80, base=90),
            groups=pick(size, tiny=16, base=512),
            group_size=pick(size, tiny=8, base=5),
            minibatches=pick(size, tiny=1, base=4),
            lr=pick(size, tiny=5e-4, base=1e-6),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=warm_up(size, 500, distracted=60),
        evaluation=Evaluation(
            sampling=sampling,
            limit=600,
            metrics={
                "step": StepSuccess(),
                "kind": TypeMatch(),
                "clicks": Grounding(),
                "words": Grounding(kinds=("type", "scroll")),
                "format": Mean(ActionFormat(tags=tags)),
            },
        ),
        ablation=Ablation(
            metric="step",
            without={"rewards.action.of": {"class": "saccade.rewards.gui.ClickAccuracy"}},
            margin=0.05,
        ),
    )
