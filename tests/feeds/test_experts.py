"""Experts that act in the live environment: a corridor in which the way out is known only to who looks."""

import copy
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest
import torch

from letters import Letters, LettersPolicy
from saccade.core.content import Array, Content, Text, text_of
from saccade.core.environment import Environment, EnvironmentSpec, Step, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.feed import Problem
from saccade.core.optimiser import AdamW
from saccade.core.policy import LocalActor
from saccade.core.random import numpy_generator, torch_generator
from saccade.core.state import TrainState
from saccade.core.trajectory import Observation, Task
from saccade.feeds.experts import Expert, ExpertDemonstrations, arrays_shown, demonstrate, succeeded
from saccade.rewards.environment import EnvironmentReward

LETTERS = "abcd"


@dataclass(frozen=True)
class Doors(Tasks):
    """Behind each door is a letter that only the environment knows. Doors ending in 3 have no way out."""

    count: int = 10

    def __len__(self):
        return self.count

    def task(self, index):
        return Task(f"door-{index}", (Text("go"),))

    def split(self, name):
        return self


@dataclass(frozen=True)
class Corridor(EnvironmentSpec):
    tasks: Tasks = field(default_factory=Doors)
    max_turns: int = 6

    def prompt(self, task):
        return (Text("please "), *task.prompt)

    def make(self):
        return Way()


class Way(Environment):
    """One to four doors, which the seed knows; the wrong letter ends it without pay."""

    def reset(self, task, seed):
        random = numpy_generator(seed, "way")
        size = 1 + int(random.integers(4))
        self.wanted = [LETTERS[int(i)] for i in random.integers(4, size=size)]
        self.blocked = task.id.endswith("3")
        return self.seen()

    def seen(self):
        return Observation((Array("state", np.full(2, len(self.wanted), np.float32)),))

    def step(self, output: Content):
        right = text_of(output) == self.wanted[0] * 3 and not self.blocked
        self.wanted = self.wanted[1:]
        over = not right or not self.wanted
        return Step(self.seen(), float(right and over), over, info={"success": right and over})


@dataclass(frozen=True)
class Knows:
    def outputs(self, environment: Environment) -> Content:
        if not isinstance(environment, Way):
            raise DataError("not my corridor")
        return (Text(environment.wanted[0] * 3),)


def problem(**changes):
    return replace(Problem(Corridor(), {"paid": EnvironmentReward()}, groups=2, group_size=3, seed=5), **changes)


def state():
    policy = Letters().build(torch.device("cpu"))
    return TrainState(
        policy, AdamW().build([{"params": list(policy.parameters())}], 1e-3), torch_generator(0), seed=0, total=10
    )


def take(feed, count, **changes):
    now = state()
    return list(islice(feed.stream(problem(**changes), LocalActor(now.policy), now), count))


def shown(batches):
    return [[(g[0].task.id, [text_of(turn.output) for turn in g[0].turns]) for g in batch] for batch in batches]


def test_every_demonstration_is_a_scored_success_of_the_policys_own_making():
    (batch,) = take(ExpertDemonstrations(Knows()), 1)
    assert len(batch) == 6
    for (trajectory,) in batch:
        assert succeeded(trajectory)
        assert trajectory.stop == "done"
        assert trajectory.scores["paid"].total == 1.0
        assert not trajectory.task.id.endswith("3")
        assert text_of(trajectory.prompt.content) == "please go"
        for turn in trajectory.turns:
            assert turn.mask.all()
            assert not turn.logp.any()
            assert turn.num_actions == 3
    assert len({g[0].num_turns for g in batch}) > 1, "the test needs lanes that end at different turns"


def test_failures_stay_if_they_are_asked_for():
    batches = take(ExpertDemonstrations(Knows(), only_success=False), 2)
    good = [succeeded(g[0]) for batch in batches for g in batch]
    assert not all(good)
    assert any(good)


def test_the_same_few_demonstrations_are_shown_again_and_again_in_new_orders():
    feed = ExpertDemonstrations(Knows(), count=3, batch=3)
    batches = take(feed, 4)
    ids = [[g[0].task.id for g in batch] for batch in batches]
    assert all(sorted(one) == sorted(ids[0]) for one in ids)
    assert len({tuple(one) for one in ids}) > 1
    assert {id(g[0]) for g in batches[0]} == {id(g[0]) for g in batches[3]}
    assert feed.stats["expert_turns"] >= 1


@pytest.mark.parametrize("count", [None, 4])
def test_stream_goes_on_where_it_was_saved(count):
    feed = ExpertDemonstrations(Knows(), count=count, batch=3)
    whole = shown(take(copy.deepcopy(feed), 5))
    now, first = state(), copy.deepcopy(feed)
    stream = first.stream(problem(), LocalActor(now.policy), now)
    begun = shown([next(stream) for _ in range(2)])
    rest = copy.deepcopy(feed)
    rest.load_state_dict(first.state_dict())
    assert begun + shown(take(rest, 3)) == whole


def test_an_expert_that_fails_too_often_is_reported():
    @dataclass(frozen=True)
    class Lost:
        def outputs(self, environment):
            return (Text("abc"),)

    with pytest.raises(DataError, match="succeeded in 0 of 24 episodes, 6 demonstrations"):
        take(ExpertDemonstrations(Lost()), 1)


def test_experts_are_asked_about_the_lane_they_are_in():
    """Each output is the letter of that lane's own environment, however many lanes have ended."""
    tasks = Doors()[:8]
    groups = demonstrate(state().policy, Knows(), Corridor(), tasks, list(range(8)))
    assert [g[0].task.id for g in groups] == [task.id for task in tasks]
    for (trajectory,) in groups:
        assert succeeded(trajectory) != trajectory.task.id.endswith("3")


def test_what_was_shown_can_be_collected_without_a_policy():
    groups = demonstrate(None, Knows(), Corridor(), Doors()[:3], [0, 1, 2])
    turns = sum(g[0].num_turns for g in groups)
    states = arrays_shown(groups, "state")
    assert states.shape == (turns, 2)
    assert all(turn.num_actions == 0 for g in groups for turn in g[0].turns)
    with pytest.raises(DataError, match="'command'"):
        arrays_shown(groups, "command")


def test_settings_are_checked():
    assert isinstance(Knows(), Expert)
    assert not isinstance(LettersPolicy, Expert)
    for changes in ({"count": 0}, {"batch": 0}, {"patience": 0}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            ExpertDemonstrations(Knows(), **changes)
