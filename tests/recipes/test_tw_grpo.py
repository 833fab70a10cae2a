"""TW-GRPO: token weights, graded reward, inverted questions, two steps."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saccade.core import config
from saccade.core.batch import finish, pack
from saccade.core.content import Text, frames_of, text_of
from saccade.core.errors import ConfigError
from saccade.core.policy import LogProbs
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.envs.datasets.choices import ColourChoices
from saccade.experiment import start_policy
from saccade.learn.loop import Run, train
from saccade.objectives.policy_gradient import PPOClip
from saccade.recipe import Size
from saccade.recipes.vlm.tw_grpo import ExactSet, FocusedClip, Hesitant, focus, tw_grpo
from saccade.rewards.parse import items, tagged
from saccade.rewards.verify import SetOverlap


def recipe_of(size: Size = "tiny") -> Any:
    return tw_grpo(size)


def said(task: Task, text: str = "", length: int = 1, answer: int = 0) -> Trajectory:
    """A turn of ``length`` actions, the last ``answer`` of them inside the answer."""
    segment = torch.tensor([0] * (length - answer) + [1] * answer)
    turn = Turn((Text(text),), None, torch.zeros(length), torch.ones(length, dtype=torch.bool), segment)
    return Trajectory(Prompt(task, task.prompt), [turn])


def table(*groups, answer=0) -> Any:
    """A batch of groups, each a list of lengths."""
    made = []
    for g, lengths in enumerate(groups):
        prompt = Prompt(Task(f"t{g}", ()), ())
        made.append([replace(said(prompt.task, length=n, answer=min(n, answer)), prompt=prompt) for n in lengths])
    return finish(pack(made), "action")


def masked(batch, distribution):
    return torch.where(batch.mask[..., None], distribution, 0.0)


def test_weights_of_two_members_by_hand():
    """Two words, two members of lengths 3 and 2.

    t = 0: both (1/2, 1/2), so d = 0. t = 1: (0.8, 0.2) and (0.2, 0.8); the mean log-probability is log 0.4 twice,
    exp(x) is 1/2 and 2 in some order for both, d = 1/2 + 2 - log(1) - 2 = 1/2. t = 2: (0.8, 0.2) and, having ended,
    (1/2, 1/2); the means are log sqrt(0.4) and log sqrt(0.1), so the first has exp(x) = 0.790569 and 1.581139, whose
    product is 1.25: 2.371708 - log 1.25 - 2 = 0.148564; the second 1.264911 and 0.632456 with product 0.8: 1.897367 +
    log 1.25 - 2 = 0.120510; d = 0.134537. Over the largest, 1/2: 0, 1, 0.269074, and w = 1 + 0.7 of that.
    """
    p = torch.tensor([[[0.5, 0.5], [0.8, 0.2], [0.8, 0.2]], [[0.5, 0.5], [0.2, 0.8], [1.0, 1.0]]])
    batch = table([3, 2])
    weight = focus(masked(batch, p.log()), batch, 1.7)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 1.7, 1.188352], [1.0, 1.7, 0.0]]), atol=1e-5, rtol=0)


def test_weights_agree_with_a_loop_over_the_equation():
    torch.manual_seed(0)
    sizes = ([4, 6, 2], [3], [5, 5])
    batch = table(*sizes)
    logp = torch.log_softmax(4 * torch.randn(*batch.mask.shape, 7, dtype=torch.float64), -1)
    found = focus(masked(batch, logp), batch, 1.7)
    row = 0
    for lengths in sizes:
        d = []
        for t in range(max(lengths)):
            l = [
                [logp[row + i, t, v].item() if t < lengths[i] else -math.log(7) for v in range(7)]
                for i in range(len(lengths))
            ]
            mean = [sum(one[v] for one in l) / len(l) for v in range(7)]
            total = 0.0
            for one in l:
                for v in range(7):
                    x = max(-11.0, min(11.0, mean[v] - one[v]))
                    total += math.exp(x) - x - 1
            d.append(total / len(l))
        for i, length in enumerate(lengths):
            for t in range(length):
                expected = 1 + 0.7 * (d[t] - min(d)) / (max(d) - min(d) + 1e-8)
                assert found[row + i, t].item() == pytest.approx(expected, abs=1e-6)
        row += len(lengths)


def test_divergence_is_clamped():
    """Log-probabilities of -60 and 0 in two members: x = +-30 becomes +-11, d stays below exp(11)."""
    extreme = torch.tensor([[[-60.0, 0.0], [-0.7, -0.7]], [[0.0, -60.0], [-0.7, -0.7]]])
    weight = focus(extreme, table([2, 2]), 1.7)
    torch.testing.assert_close(weight, torch.tensor([[1.7, 1.0], [1.7, 1.0]]))


def test_weights_do_not_depend_on_other_groups_or_padding():
    torch.manual_seed(1)
    alone, beside = table([2, 3]), table([2, 3], [9, 8])
    logp = torch.log_softmax(torch.randn(4, 9, 5), -1)
    whole = focus(masked(beside, logp), beside, 1.7)
    part = focus(masked(alone, logp[:2, :3]), alone, 1.7)
    torch.testing.assert_close(whole[:2, :3], part)


def test_unscored_members_take_no_part():
    torch.manual_seed(2)
    logp = torch.log_softmax(torch.randn(3, 4, 5), -1)
    three, two = table([4, 4, 4]), table([4, 4])
    three.mask[2], three.scored[2] = False, False
    torch.testing.assert_close(focus(masked(three, logp), three, 1.7)[:2], focus(logp[:2], two, 1.7))


def test_alpha_one_is_the_plain_clipped_surrogate():
    torch.manual_seed(3)
    batch = table([3, 5], [4, 4])
    batch.advantage = torch.where(batch.mask, torch.randn(batch.mask.shape), 0.0)
    logp = torch.where(batch.mask, 0.5 * torch.randn(batch.mask.shape), 0.0)
    out = LogProbs(logp=logp, distribution=masked(batch, torch.log_softmax(torch.randn(4, 5, 6), -1)))
    plain = PPOClip(low=0.2, high=0.2)(batch, out).value
    torch.testing.assert_close(FocusedClip(alpha=1.0)(batch, out).value, plain)
    assert FocusedClip(alpha=1.7)(batch, out).value != plain


def test_loss_multiplies_the_surrogate_by_the_weights_and_reports_them():
    """The members of the first test, advantages 1 and -1, ratio 1: -(1 + 1.7 + 1.188352 - 1 - 1.7) / 5 = -0.237670.

    The last action of each member is its answer: (1.188352 + 1.7) / 2 inside, (1.35 + 1) / 2 outside.
    """
    batch = table([3, 2], answer=1)
    batch.advantage = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]])
    p = torch.tensor([[[0.5, 0.5], [0.8, 0.2], [0.8, 0.2]], [[0.5, 0.5], [0.2, 0.8], [1.0, 1.0]]])
    loss = FocusedClip(alpha=1.7)(batch, LogProbs(logp=batch.old_logp, distribution=masked(batch, p.log())))
    assert loss.value.item() == pytest.approx(-0.237670, abs=1e-5)
    assert loss.stats["weight/answer"].item() == pytest.approx((1.188352 + 1.7) / 2, abs=1e-5)
    assert loss.stats["weight/rest"].item() == pytest.approx((1.35 + 1.0) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("answer", "graded", "exact"),
    [
        ("A,C,D", 1.0, 1.0),
        ("D, A, C", 1.0, 1.0),
        ("A,C", 2 / 3, 0.0),
        ("A", 1 / 3, 0.0),
        ("A,B", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_graded_reward_pays_subsets_and_binary_reward_does_not(answer, graded, exact):
    trajectory = said(Task("t", (), {"answer": "A,C,D"}), f"<answer>{answer}</answer>")
    assert SetOverlap(field="answer")([trajectory])[0] == pytest.approx(graded)
    assert ExactSet(field="answer")([trajectory])[0] == exact


def test_without_the_mechanism_reward_is_binary_and_weights_are_one():
    recipe = recipe_of()
    without = config.overlay(recipe, recipe.ablation.without)
    assert without.rewards["accuracy"] == ExactSet(field="answer")
    assert without.objective["pg"] == FocusedClip(alpha=1.0)
    assert replace(without, rewards=recipe.rewards, objective=recipe.objective) == recipe


def test_gold_gets_the_most():
    recipe = recipe_of()
    for task in ColourChoices()[:40]:
        gold = said(task, text_of(task.gold[0]))
        assert [reward([gold])[0] for reward in recipe.rewards.values()] == [1.0, 1.0]


def test_inverted_questions_have_the_complement_as_answer():
    for task in ColourChoices()[:60]:
        shown = {i for i, colour in enumerate(task.info["offered"]) if colour in task.info["shown"]}
        right = {"ABCDEF".index(letter) for letter in task.target["answer"].split(",")}
        assert right == (set(range(5)) - shown if task.info["inverted"] else shown)
        assert len(right) == (4 if task.info["inverted"] else 1)
        assert ("not" in text_of(task.prompt).split()) == task.info["inverted"]
    assert 0.3 < np.mean([task.info["inverted"] for task in ColourChoices()[:200]]) < 0.7
    assert not any(task.info["inverted"] for task in ColourChoices(inverted=0.0)[:20])


def test_several_options_may_appear():
    several = ColourChoices(appear=(2, 3), inverted=0.0)[:60]
    assert {len(task.target["answer"].split(",")) for task in several} == {2, 3}


def test_colours_that_appear_are_in_the_clip():
    """Without noise, ink is far more saturated than the dark background."""
    for task in ColourChoices(noise=0.0)[:40]:
        frames = np.stack(frames_of(task.prompt))
        assert frames.shape == (2, 32, 32, 3)
        reds = (frames[..., 0] > 200) & (frames[..., 1] < 90) & (frames[..., 2] < 90)
        assert reds.any() == ("red" in task.info["shown"])


def test_tasks_are_repeatable_and_parts_are_disjoint():
    here, there = ColourChoices(), ColourChoices().split("test")
    first, again, other = (np.stack(frames_of(tasks[5].prompt)) for tasks in (here, ColourChoices(), there))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert {task.id for task in here[:50]}.isdisjoint(task.id for task in there[:50])


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"options": 7},
        {"frames": 0},
        {"appear": (0, 1)},
        {"others": 4},
        {"side": 31},
        {"inverted": 1.5},
        {"noise": -1.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ColourChoices(**wrong)


@pytest.mark.parametrize("wrong", [{"alpha": 0.9}, {"low": 1.5}, {"high": -0.1}])
def test_wrong_objective_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FocusedClip(**wrong)


def test_hesitant_demonstrations_keep_the_thought_and_err_in_the_answer():
    """On average 2.5 of 5 options are right: 2.5 * 0.6 + 2.5 * 0.1 = 1.75 letters."""
    tasks, random = ColourChoices()[:400], np.random.default_rng(0)
    script = Hesitant(overlooked=0.4, imagined=0.1)
    shown = [text_of(script(task, random)[0]) for task in tasks]
    assert all(tagged(s, "think") == tagged(text_of(t.gold[0]), "think") for s, t in zip(shown, tasks, strict=True))
    assert np.mean([len(items(tagged(text, "answer") or "")) for text in shown]) == pytest.approx(1.75, abs=0.15)
    assert Hesitant(overlooked=0.0, imagined=0.0)(tasks[0], random)[0] == tasks[0].gold[0]


def test_cut_down_recipe_trains():
    small = {"train.steps": 2, "train.groups": 2, "train.group_size": 3}
    stages = {f"stages.{name}.train.{key}": 2 for name in ("see", "hesitate") for key in ("steps", "groups")}
    recipe = config.overlay(recipe_of(), small | stages)
    state = train(recipe, Run(), policy=start_policy(recipe, torch.device("cpu")))
    assert state.step == 2
    assert 1 <= state.last["pg/weight/rest"] <= 1.7


def test_base_size_has_the_settings_of_the_published_script():
    recipe = recipe_of("base")
    assert recipe.policy.model == "Qwen/Qwen2.5-VL-7B-Instruct" and recipe.policy.freeze_vision
    assert (recipe.train.steps, recipe.train.group_size, recipe.train.lr, recipe.train.max_grad_norm) == (
        500,
        8,
        1e-6,
        20.0,
    )
    plain = config.to_dict(replace(recipe, ablation=None))
    assert config.to_dict(config.from_dict(plain)) == plain
