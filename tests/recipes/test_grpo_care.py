"""GRPO-CARE: the bonus, the demonstrations, the metric, two steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.advantages.group import GroupCentre, GroupNorm
from saccade.core import config
from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.errors import ConfigError, ContractError
from saccade.core.reference import EMA
from saccade.core.reward import Score
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.experiment import start_policy
from saccade.learn.loop import Run, train
from saccade.recipes.vlm.grpo_care import Consistency, ConsistencyBonus, Muddled, ThoughtOut, grpo_care
from saccade.rewards.parse import tagged
from saccade.rewards.verify import ExactMatch

# A row is <think> thought </think> <answer>, up to 2 answer tokens, </answer>; segment 1 is strictly inside the tag.
SEGMENT = (0, 0, 0, 0, 1, 1, 0)


def table(groups, *, weight=1.0):
    """A batch from groups of (accuracy or None, log-likelihoods of the answer tokens); all other tokens get -9."""
    made, ref = [], []
    for rows in groups:
        prompt = Prompt(Task(f"t{len(made)}", ()), ())
        group = []
        for accuracy, answer in rows:
            segment = torch.tensor((*SEGMENT[: 4 + len(answer)], 0))
            n = len(segment)
            turn = Turn((), None, torch.full((n,), -1.0), torch.ones(n, dtype=torch.bool), segment)
            scores = {"accuracy": Score(accuracy), "format": Score(1.0)}
            group.append(Trajectory(prompt, [turn], scores=scores))
            ref.append([-9.0] * 4 + list(answer) + [-9.0])
        made.append(group)
    batch = pack(made, {"accuracy": weight, "format": 1.0})
    filled = torch.zeros(batch.mask.shape)
    for i, row in enumerate(ref):
        filled[i, : len(row)] = torch.tensor(row)
    batch.ref_logp = torch.where(batch.mask, filled, 0.0)
    return batch


def by_hand(groups, weight=0.5, margin=0.01, cap=0.95):
    """The bonus of the paper in plain loops; rows with accuracy None or without answer tokens count for nothing."""
    found = []
    for rows in groups:
        scored = [accuracy for accuracy, _ in rows if accuracy is not None]
        c = [min(math.exp(sum(a) / len(a)), cap) if a else None for _, a in rows]
        right = [
            i
            for i, (acc, a) in enumerate(rows)
            if acc is not None and a and acc > 0.1 and acc >= math.fsum(scored) / len(scored) - 1e-12
        ]
        mean = math.fsum(c[i] for i in right) / max(1, len(right))
        found += [
            weight * rows[i][0] if i in right and c[i] >= mean - margin - 1e-12 else 0.0 for i in range(len(rows))
        ]
    return found


def test_bonus_of_one_group():
    """Right rollouts have likelihoods .9, .5 and, over two tokens of .4 and .9, .6: mean .667, only the first earns.

    The wrong one is as likely as can be and earns nothing. Likelihoods of the tags (exp(-9)) play no part.
    """
    two = (math.log(0.4), math.log(0.9))
    rows = [(1.0, [math.log(0.9)]), (1.0, [math.log(0.5)]), (1.0, two), (0.0, [0.0])]
    batch = table([rows])
    assert ConsistencyBonus().bonus(batch).tolist() == pytest.approx([0.5, 0.0, 0.0, 0.0])
    assert math.exp(sum(two) / 2) == pytest.approx(0.6)


def test_margin_and_cap_forgive_small_differences():
    """.99 counts as .95. The mean of .95 and .932 is .941, and .941 - .01 <= .932: both earn. .92 < .935 - .01."""
    near = table([[(1.0, [math.log(0.99)]), (1.0, [math.log(0.932)])], [(1.0, [0.0]), (1.0, [math.log(0.92)])]])
    assert ConsistencyBonus().bonus(near).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0])
    assert ConsistencyBonus(margin=0.0).bonus(near).tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0])


def test_graded_accuracy_scales_the_bonus_and_less_than_the_mean_is_not_right():
    """Accuracies .8, .4, .1: mean .433, so only .8 is right. Alone in its group, .1 is not above the least accuracy."""
    batch = table([[(0.8, [-3.0]), (0.4, [0.0]), (0.1, [0.0])], [(0.1, [0.0])]])
    assert ConsistencyBonus().bonus(batch).tolist() == pytest.approx([0.4, 0.0, 0.0, 0.0])


def test_equal_accuracies_are_not_below_their_mean():
    """The mean of three times 0.7 need not be 0.7 in floating point."""
    batch = table([[(0.7, [-1.0])] * 3])
    assert ConsistencyBonus().bonus(batch).tolist() == pytest.approx([0.35] * 3)


def test_unscored_rows_and_rows_without_answer_take_no_part():
    """Unscored likelihood 1 and accuracy missing: the mean over the right ones stays that of .6 and .6 alone."""
    rows = [(1.0, [math.log(0.6)]), (1.0, [math.log(0.6)]), (None, [0.0]), (1.0, [])]
    assert ConsistencyBonus().bonus(table([rows])).tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0])


def test_bonus_equals_the_loops():
    random = np.random.default_rng(0)
    for _ in range(30):
        groups = [
            [
                (
                    None if random.random() < 0.1 else float(random.choice([0.0, 0.05, 0.5, 1.0])),
                    np.log(random.uniform(0.05, 1, random.integers(0, 3))).tolist(),
                )
                for _ in range(random.integers(1, 6))
            ]
            for _ in range(3)
        ]
        for rows in groups:
            rows[0] = (1.0, rows[0][1])
        found = ConsistencyBonus(margin=0.05).bonus(table(groups)).tolist()
        assert found == pytest.approx(by_hand(groups, margin=0.05), abs=1e-6)


def test_inner_advantage_sees_the_bonus_whatever_accuracy_weighs():
    """Outcomes with format 1 and accuracy weight 2: 3.5, 3, 1; centred by 2.5. The bonus itself is not weighted."""
    rows = [(1.0, [0.0]), (1.0, [-2.0]), (0.0, [0.0])]
    batch = table([rows], weight=2.0)
    advantage = ConsistencyBonus(GroupCentre())(batch)
    assert advantage[:, 0].tolist() == pytest.approx([1.0, 0.5, -1.5])
    assert "care" not in batch.rewards


def test_weight_zero_is_the_inner_advantage():
    batch = table([[(1.0, [-0.1]), (1.0, [-2.0]), (0.0, [-1.0]), (None, [-1.0])]])
    inner = GroupNorm(ddof=1)
    assert torch.equal(ConsistencyBonus(inner, weight=0.0)(batch), inner(batch))
    assert not torch.equal(ConsistencyBonus(inner)(batch), inner(batch))
    off = config.overlay(grpo_care("tiny"), grpo_care("tiny").ablation.without)
    assert off.advantage == replace(grpo_care("tiny").advantage, weight=0.0)


def test_reference_is_asked_for_and_accuracy_must_exist():
    assert ConsistencyBonus().requires == {"ref_logp"}
    with pytest.raises(ContractError, match="'exact', only accuracy, format"):
        ConsistencyBonus(accuracy="exact")(table([[(1.0, [0.0])]]))


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"margin": -0.1}, {"cap": 0.0}, {"cap": 1.5}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ConsistencyBonus(**wrong)


def said(task, text):
    empty = torch.zeros(1)
    return Trajectory(Prompt(task, ()), [Turn((Text(text),), None, empty, empty.bool(), empty.long())])


def test_consistency_looks_at_right_answers_only():
    task = Task("t", (), {"answer": "7"})
    texts = [
        "<think>7</think><answer>7</answer>",
        "<think>3 no 7</think><answer>7</answer>",
        "<think>3</think><answer>7</answer>",
        "<answer>7</answer>",
        "<think>3</think><answer>3</answer>",
    ]
    rows = Consistency().rows([[said(task, text) for text in texts]], None)
    assert [row.value for row in rows] == [1.0, 1.0, 0.0, 0.0]


def test_gold_earns_most_and_names_the_number():
    rewards = grpo_care("tiny").rewards
    for task in ThoughtOut()[:20]:
        gold = said(task, task.gold[0][0].text)
        assert [reward([gold])[0] for reward in rewards.values()] == [1.0, 1.0]
        assert Consistency().rows([[gold]], None)[0].value == 1.0


def test_muddled_thoughts_are_wrong_in_four_of_ten_and_answers_never():
    tasks, random = ThoughtOut()[:500], np.random.default_rng(0)
    shown = [said(task, Muddled()(task, random)[0][0].text) for task in tasks]
    assert all(ExactMatch().score(one) == 1.0 for one in shown)
    wrong = [tagged(one.text, "think") != one.task.target["answer"] for one in shown]
    # standard error of a share of .4 among 500: .022
    assert np.mean(wrong) == pytest.approx(0.4, abs=0.07)
    assert {tagged(one.text, "think") for one in shown} == set("0123456789")


def test_held_out_part_shares_no_task():
    train_part, test_part = ThoughtOut(), ThoughtOut().split("test")
    assert len(train_part) == len(test_part) == 65536
    assert {task.id for task in train_part[:50]}.isdisjoint(task.id for task in test_part[:50])


def test_cut_down_recipe_trains_beside_a_slow_copy():
    small = {"train.steps": 2, "train.groups": 2, "train.group_size": 3}
    stages = {f"stages.{name}.train.{key}": 2 for name in ("sight", "warm_up") for key in ("steps", "groups")}
    recipe = config.overlay(grpo_care("tiny"), small | stages)
    state = train(recipe, Run(), policy=start_policy(recipe, torch.device("cpu")))
    assert state.step == 2
    assert state.reference is not None and state.reference is not state.policy
    assert recipe.train.reference == EMA(decay=0.995, every=10)


def test_base_size_names_the_checkpoint_and_the_data():
    recipe = grpo_care("base")
    assert recipe.policy.model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert recipe.env.tasks.path.endswith(".jsonl")
    assert recipe.needs == {"advantage", "ref_logp"}
    assert config.to_dict(config.from_dict(config.to_dict(recipe))) == config.to_dict(recipe)
