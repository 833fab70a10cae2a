"""GTA1: a click that lands is the only reward, and at test time a judge chooses among several (arXiv:2507.05791).

Mechanism: GRPO without KL and without thought on 1[the answer is one point and it lies in the target's box]. At test
time N proposals are drawn and a judge says which one is carried out: best-of-N, ``eval/judged_<N>``.

Without it: supervised learning of the middle of the box on the same screens, as many steps of as many trajectories at
the same rate, each a demonstration of its own. Every place but the middle is then wrong, however well it would have
hit; but it names the place, where a hit says yes or no.

Differences: proposals are the grounding policy's own clicks, since there is no planner above it; an episode is one
step. The judge compares two proposals at a time and is right in 70 of 100 pairs of which one hits (``judged``) or in
half of them (``tossed``); of two alike it prefers either. Wins against all others count, the first of equals is chosen.
The paper asks a large model about all proposals at once. N = 8 is inferred. Boxes are exact, so that no sample is
cleaned away. The tiny size sees one icon on a screen and starts from a supervised warm-up that ends with a demonstrator
who clicks anywhere half of the time; there is more for a judge to do before training than after it. The base size has 3
billion weights instead of 7 and reads ``grounding.jsonl``, where ``answer`` is the box.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from saccade.advantages.group import GroupNorm
from saccade.core.errors import ConfigError
from saccade.core.metric import Metric, Models, Row
from saccade.core.policy import Sampling
from saccade.core.reward import Reward
from saccade.core.schedule import Constant, Linear
from saccade.core.trajectory import Group, Trajectory
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.envs.screens import Screens, ScreenTasks
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean, PassAtK, totals
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.token.hf import HFVisionLanguage
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Train, pick, recipe
from saccade.recipes.vla.screen import ANSWER, CHECKPOINT, look, policy, warm_up
from saccade.rewards.combine import scores
from saccade.rewards.gui import ClickInBox
from saccade.rewards.learned import Comparator, PairwiseJudge

POINT = "{prompt}\nAnswer with the point to click in pixels of the picture, (x,y), and nothing else."


@dataclass(frozen=True)
class Fallible(Comparator):
    """Prefers what the reward prefers with probability ``accuracy``, else the other; of equal totals either.

    Every pair is decided by itself, in either order alike, from what names the two: their seeds, texts and task. So
    with accuracy 1/2 each of n is as likely to be put first, whatever the others say.
    """

    reward: Reward
    accuracy: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ConfigError(f"accuracy must be in [0, 1], got {self.accuracy}")

    def compare(self, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> list[float]:
        known = {id(one): one for pair in pairs for one in pair}
        paid = dict(zip(known, (score.total for score in scores(self.reward, list(known.values()))), strict=True))
        return [self._verdict(one, other, paid[id(one)], paid[id(other)]) for one, other in pairs]

    def _verdict(self, one: Trajectory, other: Trajectory, a: float | None, b: float | None) -> float:
        names = [(found.seed, found.text) for found in (one, other)]
        if a is None or b is None or names[0] == names[1]:
            return 0.5
        said = repr((one.task.id, *sorted(names)))
        drawn = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big") / 2**64
        if a == b:
            return float((names[0] < names[1]) == (drawn < 0.5))
        return float((a > b) == (drawn < self.accuracy))


@dataclass(frozen=True)
class BestOfN(Metric):
    """Mean total of the one among a task's first n rollouts that the judge puts first; of equals the earliest.

    Raises:
        ConfigError: a task has fewer than n rollouts; ``evaluation.n`` is too small.
    """

    reward: Reward
    judge: Comparator
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n must be >= 1, got {self.n}")

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        for group, found in zip(groups, totals(self.reward, groups), strict=True):
            if len(group) < self.n:
                raise ConfigError(f"evaluation.n must be >= {self.n} for BestOfN(n={self.n}), got {len(group)}")
            wins = [score.total or 0.0 for score in PairwiseJudge(comparator=self.judge)(group[: self.n])]
            if (paid := found[wins.index(max(wins))]) is not None:
                rows.append(Row(group[0].task.id, paid))
        return rows


@recipe(paper="2507.05791", pillar="vla")
def gta1(size: Size = "tiny") -> Recipe:
    sampling = Sampling(max_actions=pick(size, tiny=8, base=128))
    hit = ClickInBox(tag=pick(size, tiny="tool", base=""), field=pick(size, tiny="box", base="answer"))
    if size == "tiny":
        tasks = ScreenTasks(count=1024, words=0.0, typing=0.0, scrolling=0.0, look=look(size), answer=ANSWER)
        model, env = policy(size), Screens(tasks)
    else:
        model = HFVisionLanguage(CHECKPOINT, dtype="bfloat16", freeze_vision=True)
        env = SingleTurn(JsonlTasks("grounding.jsonl"), template=POINT)
    judged = {f"judged_{n}": BestOfN(hit, Fallible(hit), n) for n in (2, 4, 8)}
    return Recipe(
        policy=model,
        env=env,
        rewards={"hit": hit},
        advantage=GroupNorm(ddof=1),
        average="trajectory",
        objective={"pg": PPOClip(low=0.2, high=0.2)},
        feed=OnPolicy(sampling=sampling),
        train=Train(
            steps=pick(size, tiny=40, base=1000),
            groups=16,
            group_size=8,
            lr=pick(size, tiny=1e-3, base=1e-6),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=warm_up(size, 400, distracted=60),
        evaluation=Evaluation(
            sampling=sampling,
            limit=200,
            n=8,
            metrics={
                "hit": Mean(hit),
                **judged,
                "tossed_8": BestOfN(hit, Fallible(hit, accuracy=0.5), 8),
                "any_8": PassAtK(hit, k=8),
            },
        ),
        ablation=Ablation(
            metric="hit",
            without={
                "feed": {
                    "class": "saccade.feeds.demonstrations.Demonstrations",
                    "script": {"class": "saccade.recipes.vla.screen.Snapped"},
                },
                "objective.pg": {"class": "saccade.objectives.regression.NLL"},
            },
            margin=0.05,
            note="A demonstration names the place that a hit only confirms; a pilot of one seed found the arms equal.",
        ),
    )
