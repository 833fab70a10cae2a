import copy
from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch

from letters import LetterGame, Letters, LetterTasks, RightLetters
from saccade.core.content import Text
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.feed import Feed, Problem
from saccade.core.optimiser import AdamW
from saccade.core.policy import LocalActor
from saccade.core.random import torch_generator
from saccade.core.state import TaskHistory, TrainState
from saccade.core.trajectory import Task
from saccade.feeds.curriculum import Adaptive, Sequential, Shuffle
from saccade.feeds.demonstrations import Demonstrations, Script
from saccade.feeds.on_policy import NonUniform, OnPolicy
from saccade.feeds.preferences import Preferences, RankedPairs
from saccade.feeds.replay import Replay
from saccade.feeds.shared_turn import SharedTurn

TASKS = LetterTasks()


def problem(**changes) -> Problem:
    base = Problem(LetterGame(TASKS), {"right": RightLetters()}, groups=4, group_size=6, seed=3)
    return replace(base, **changes)


def state() -> TrainState:
    policy = Letters().build(torch.device("cpu"))
    return TrainState(
        policy, AdamW().build([{"params": list(policy.parameters())}], 1e-3), torch_generator(0), seed=0, total=10
    )


def take(feed: Feed, count: int, **changes):
    now = state()
    return list(islice(feed.stream(problem(**changes), LocalActor(now.policy), now), count))


def said(steps) -> list[list[list[str]]]:
    return [[[t.text for t in group] for group in groups] for groups in steps]


def test_shuffle_visits_every_task_once_an_epoch_in_an_order_that_changes():
    order = Shuffle()
    first = [t.id for t in order.draw(TASKS, 0, 12, 0, TaskHistory())]
    second = [t.id for t in order.draw(TASKS, 12, 12, 0, TaskHistory())]
    assert sorted(first) == sorted(second) == sorted(t.id for t in TASKS)
    assert first != second
    across = [t.id for t in order.draw(TASKS, 9, 6, 0, TaskHistory())]
    assert across == first[9:] + second[:3]


def test_adaptive_prefers_tasks_near_its_target():
    history = TaskHistory()
    history.update((task.id, [0.5 if i < 3 else 1.0]) for i, task in enumerate(TASKS))
    drawn = Adaptive(target=0.5, pool=4).draw(TASKS, 0, 3, 0, history)
    assert {t.id for t in drawn} == {TASKS[i].id for i in range(3)}


def test_empty_task_set_is_refused():
    for order in (Shuffle(), Sequential()):
        with pytest.raises(DataError, match="empty"):
            order.draw(replace(TASKS, count=0), 0, 1, 0, TaskHistory())


@pytest.mark.parametrize(
    "feed",
    [
        OnPolicy(),
        OnPolicy(select=NonUniform(), refill=2),
        RankedPairs(OnPolicy()),
        Replay(OnPolicy(), capacity=5, fraction=0.5),
        Demonstrations(),
    ],
    ids=lambda feed: type(feed).__name__,
)
def test_stream_goes_on_where_it_was_saved(feed):
    whole = said(take(copy.deepcopy(feed), 5))
    now = state()
    first = copy.deepcopy(feed)
    stream = first.stream(problem(), LocalActor(now.policy), now)
    begun = said([next(stream) for _ in range(2)])
    rest = copy.deepcopy(feed)
    rest.load_state_dict(first.state_dict())
    assert begun + said(take(rest, 3)) == whole


def test_uniform_groups_are_dropped_and_refilled():
    plain = take(OnPolicy(), 4, group_size=2)
    uniform = sum(len({t.scores["right"].value for t in g}) == 1 for groups in plain for g in groups)
    assert uniform > 0, "the test needs groups to drop"
    feed = OnPolicy(select=NonUniform(), refill=20)
    now = state()
    kept = []
    for groups in islice(feed.stream(problem(group_size=2), LocalActor(now.policy), now), 4):
        assert len(groups) == 4
        assert all(len({t.scores["right"].value for t in g}) > 1 for g in groups)
        kept.append(feed.stats["kept"])
    assert min(kept) < 1


def test_without_refill_a_step_is_smaller_but_never_empty():
    (groups,) = take(OnPolicy(select=NonUniform()), 1, group_size=1)
    assert len(groups) == 4, "groups of one are uniform; the round is yielded as it is"


def test_selecting_on_an_unknown_reward_is_refused():
    with pytest.raises(ConfigError, match="no reward 'wrong'"):
        take(OnPolicy(select=NonUniform(reward="wrong")), 1)


def test_greedy_member_is_untrained_and_shares_the_prompt():
    (groups,) = take(OnPolicy(greedy=True), 1)
    for group in groups:
        assert len(group) == 7
        assert not group[-1].turns[0].mask.any()
        assert group[-1].prompt is group[0].prompt
        assert "right" in group[-1].scores


def test_ranked_pairs_are_the_best_and_the_worst():
    feed = RankedPairs(OnPolicy())
    (pairs,) = take(feed, 1)
    (groups,) = take(OnPolicy(), 1)
    spread = [[t.scores["right"].value for t in g] for g in groups]
    wanted = [(max(v), min(v)) for v in spread if max(v) > min(v)]
    assert [(b.scores["right"].value, w.scores["right"].value) for b, w in pairs] == wanted
    assert feed.stats["pairs"] == len(wanted) / 4


@dataclass(frozen=True)
class Pairs(Tasks):
    """Fixed pairs; ``flaw`` takes one side away."""

    flaw: bool = False

    def __len__(self) -> int:
        return 6

    def task(self, index: int) -> Task:
        info = {"chosen": "aaa"} if self.flaw else {"chosen": "aaa", "columns": {"rejected": "bbb"}}
        return Task(f"pair-{index}", (Text("choose"),), target="a", info=info)

    def split(self, name) -> Tasks:
        return self


def test_fixed_pairs_are_paid_one_and_nought():
    (groups,) = take(Preferences(Pairs()), 1)
    for chosen, rejected in groups:
        assert (chosen.text, rejected.text) == ("aaa", "bbb")
        assert chosen.prompt is rejected.prompt
        assert (chosen.scores["preference"].value, rejected.scores["preference"].value) == (1.0, 0.0)
        assert chosen.turns[0].mask.all()


def test_pair_with_a_missing_side_names_task_and_field():
    with pytest.raises(DataError, match=r"task 'pair-\d', field 'rejected'"):
        take(Preferences(Pairs(flaw=True)), 1)


def test_demonstrations_say_what_the_script_says():
    @dataclass(frozen=True)
    class Backwards(Script):
        def __call__(self, task, random):
            return ((Text("cba"),),)

    (groups,) = take(Demonstrations(Backwards()), 1)
    assert len(groups) == 24, "groups times group_size demonstrations, one to a group"
    assert all(t.text == "cba" for (t,) in groups)


def test_task_without_gold_cannot_be_demonstrated():
    with pytest.raises(DataError, match="no gold output"):
        take(Demonstrations(tasks=Pairs()), 1)


def test_replay_adds_old_groups_with_their_old_log_probabilities():
    feed = Replay(OnPolicy(), capacity=3, fraction=0.5)
    steps = take(feed, 3)
    fresh = [id(g) for g in steps[0]]
    assert len(steps[0]) == 4
    assert len(steps[1]) == 6
    assert all(id(g) in fresh for g in steps[1][4:])
    assert feed.stats == {**feed.inner.stats, "replayed": 2.0, "buffer": 3.0}


def test_shared_first_turns_are_drawn_once_and_continued_apart():
    game = LetterGame(TASKS, max_turns=2)
    (groups,) = take(SharedTurn(OnPolicy(), first=2), 1, env=game, group_size=6)
    for group in groups:
        first = [t.turns[0].output[0].text for t in group]
        assert first == [first[0]] * 3 + [first[3]] * 3
    seconds = {tuple(t.turns[1].output[0].text for t in group[:3] if t.num_turns > 1) for group in groups}
    assert any(len(set(second)) > 1 for second in seconds)


def test_group_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(ConfigError, match=r"multiple of feed\.first = 4"):
        take(SharedTurn(OnPolicy(), first=4), 1)


@pytest.mark.parametrize("make", [lambda: OnPolicy(refill=-1), lambda: Replay(capacity=0), lambda: Adaptive(pool=0)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError):
        make()
