"""One reward for two tasks of a record: partners, their order, and what happens without one."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from saccade.advantages.group import GroupNorm
from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import Reward, SampleReward, Scope
from saccade.core.state import TaskHistory
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.envs.datasets.records import Records
from saccade.feeds.curriculum import Blocks
from saccade.rewards.combine import Gate, Joint, Sum
from saccade.rollout.score import score


@dataclass(frozen=True, kw_only=True)
class Said(SampleReward):
    """The number that was said; nothing is unscored."""

    def score(self, trajectory):
        return float(trajectory.text) if trajectory.text else None


@dataclass(frozen=True, kw_only=True)
class OfAll(Reward):
    scope: ClassVar[Scope] = "batch"

    def __call__(self, trajectories):
        return [float(len(trajectories))] * len(trajectories)


@dataclass(frozen=True, kw_only=True)
class OfGroup(OfAll):
    scope: ClassVar[Scope] = "group"


def group(kind, record, *said):
    prompt = Prompt(Task(f"{kind}/{record}", (), info={"record": record}), ())
    return [Trajectory(prompt, [forced_turn((Text(text),), None, 1 + (kind == "draw"))]) for text in said]


def totals(groups, reward):
    score(groups, {"r": reward})
    return [[trajectory.scores["r"].total for trajectory in each] for each in groups]


def test_partners_have_the_same_record_and_the_same_place_in_their_groups():
    """Record a: 1 + 30, 2 + 40; record b, groups in between and in the other order: 5 + 0.5."""
    groups = [group("draw", "a", "1", "2"), group("answer", "b", "0.5"), group("answer", "a", "30", "40"),
              group("draw", "b", "5")]  # fmt: skip
    assert totals(groups, Joint(inner=Said())) == [[31, 42], [5.5], [31, 42], [5.5]]


def test_the_advantage_is_the_same_for_both():
    """Totals 31, 42 and 33 in both groups, whatever was said in each."""
    groups = [group("draw", "a", "1", "2", "3"), group("answer", "a", "30", "40", "30")]
    score(groups, {"joint": Joint(inner=Said())})
    advantage = GroupNorm()(pack(groups))
    assert advantage[:3, 1].tolist() == advantage[3:, 0].tolist() and float(advantage[1, 1]) > 0


def test_a_trajectory_without_partner_is_unscored():
    groups = [group("draw", "a", "1", "2"), group("answer", "a", "30"), group("draw", "c", "7")]
    assert totals(groups, Joint(inner=Said())) == [[31, None], [31], [None]]


def test_two_groups_of_one_task_are_no_partners():
    groups = [group("draw", "a", "1"), group("draw", "a", "2"), group("answer", "a", "30")]
    assert totals(groups, Joint(inner=Said())) == [[None], [32], [32]]


def test_an_unscored_partner_leaves_both_unscored():
    groups = [group("draw", "a", "", "2"), group("answer", "a", "30", "40")]
    assert totals(groups, Joint(inner=Said())) == [[None, 42], [None, 42]]


def test_inner_weights_count():
    """2 * 1 + 2 * 30 from the weight of the inner reward; the own weight is the recipe's business."""
    groups = [group("draw", "a", "1"), group("answer", "a", "30")]
    assert totals(groups, Joint(inner=Said(weight=2.0), weight=5.0)) == [[62], [62]]


def test_records_are_needed():
    prompt = Prompt(Task("bare", ()), ())
    with pytest.raises(DataError, match=r"'bare'.*info\.record"):
        Joint(inner=Said())([Trajectory(prompt, [forced_turn((Text("1"),), None, 1)])])


def test_the_inner_reward_looks_at_one_trajectory():
    with pytest.raises(ConfigError, match="inner"):
        Joint(inner=OfGroup())


def test_rewards_of_a_batch_see_all_groups_at_once():
    groups = [group("draw", "a", "1", "2"), group("answer", "b", "3")]
    assert totals(groups, OfAll()) == [[3, 3], [3]]
    assert totals(groups, OfGroup()) == [[2, 2], [1]]


def test_combinations_take_the_widest_scope():
    assert Sum(terms=(Said(), OfAll())).scope == "batch" and Sum(terms=(Said(), OfGroup())).scope == "group"
    groups = [group("draw", "a", "0", "2"), group("answer", "b", "3")]
    # The inner reward sees all three, though one of them does not pass.
    assert totals(groups, Gate(gate=Said(), inner=OfAll())) == [[0, 3], [3]]
    with pytest.raises(ConfigError, match="group and batch"):
        assert Sum(terms=(OfGroup(), OfAll())).scope


def draw(tasks, position, count, seed=0):
    return [task.id for task in Blocks().draw(tasks, position, count, seed, TaskHistory())]


def test_blocks_keep_neighbours_together_and_come_once_an_epoch():
    tasks = Records()
    ids = [task.id for task in tasks]
    epoch = draw(tasks, 0, len(tasks))
    assert sorted(epoch) == sorted(ids) and epoch != ids
    for i in range(0, len(epoch), 2):
        place = ids.index(epoch[i])
        assert place % 2 == 0 and epoch[i + 1] == ids[place + 1]
    assert draw(tasks, len(tasks), len(tasks)) != epoch


def test_blocks_go_on_where_they_stopped():
    tasks = Records()
    assert draw(tasks, 0, 12) + draw(tasks, 12, 300) == draw(tasks, 0, 312)


def test_blocks_must_fit():
    with pytest.raises(DataError, match="must divide"):
        Blocks(size=7).draw(Records(), 0, 7, 0, TaskHistory())
    with pytest.raises(ConfigError, match="size"):
        Blocks(size=0)
