"""Episode metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from letters import Letters
from saccade.core.content import Array, Text
from saccade.core.metric import Models
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn, forced_turn
from saccade.evaluate.episodes import (
    SPL,
    ActionSmoothness,
    EpisodeLength,
    Grounding,
    NavigationError,
    OracleSuccess,
    ParseFailureRate,
    StepSuccess,
    Success,
    TypeMatch,
)

MODELS = Models(Letters().build(torch.device("cpu")))


def turn(output=(), reward=0.0, **info) -> Turn:
    one = forced_turn(output, None, 1)
    one.reward, one.info = reward, info
    return one


def group(name, *episodes, **notes):
    prompt = Prompt(Task(name, (Text("go"),), info=notes), (Text("go"),))
    return [Trajectory(prompt, list(turns)) for turns in episodes]


def estimate(metric, *groups):
    return metric.compute(metric.rows(groups, MODELS))


def test_success_is_clustered_by_task():
    """Task a: 1, 1; task b: 0, 1. Mean 3/4; residual sums 1/2 and -1/2; se^2 = 2/1 * (1/4 + 1/4) / 16 = 1/16."""
    found = estimate(
        Success(),
        group("a", [turn(success=True)], [turn(success=False), turn(success=True)]),
        group("b", [turn(success=True), turn(success=False)], [turn(reward=1.0), turn()]),
    )
    assert (found.value, found.n) == (0.75, 4)
    assert found.stderr == pytest.approx(0.25)


def test_spl_weighs_success_by_the_way():
    """1 * 5 / max(10, 5) = 0.5; failed: 0; shorter than the shortest known: 1; no way known: no row. Mean 0.5."""
    found = estimate(
        SPL(),
        group(
            "a",
            [turn(success=True, shortest=5, path=10)],
            [turn(success=False, shortest=5, path=5)],
            [turn(success=True, shortest=5, path=4)],
            [turn(success=True)],
        ),
    )
    assert (found.value, found.n) == (0.5, 3)


def test_spl_of_an_episode_that_starts_at_its_goal():
    assert estimate(SPL(), group("a", [turn(success=True, shortest=0, path=0)])).value == 1.0


def test_oracle_success_looks_at_all_turns():
    found = estimate(
        OracleSuccess(),
        group(
            "a",
            [turn(reached=True), turn(reached=False, success=False)],
            [turn(reached=False), turn(reached=False, success=False)],
            [turn(reached=False, success=True)],
            [turn(success=True)],
        ),
    )
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)


def test_navigation_error_is_the_last_distance():
    found = estimate(NavigationError(), group("a", [turn(distance=9), turn(distance=4)], [turn(distance=1)], [turn()]))
    assert (found.value, found.n) == (2.5, 2)


def test_length_counts_commands():
    found = estimate(EpisodeLength(), group("a", [turn(steps=3), turn(steps=0)], [turn(), turn()]))
    assert found.value == 2.5


def test_parse_failures_are_counted_by_turn():
    found = estimate(ParseFailureRate(), group("a", [turn(valid=True), turn(valid=False)], [turn(valid=True), turn()]))
    assert (found.value, found.n) == (pytest.approx(1 / 3), 3)


def chunk(*rows):
    return (Array("command", np.array(rows, np.float32)),)


def test_smoothness_runs_over_chunks_and_stops_where_they_were_stopped():
    """Commands 0, 1, 4 | 5 (the 9 was not carried out): second differences 2 and -2, squares 4 and 4, mean 4. In two
    dimensions (0, 0), (1, 1), (2, 4): difference (0, 2), square 4."""
    first = group("a", [turn(chunk([0], [1], [4])), turn(chunk([5], [9]), steps=1)])
    assert estimate(ActionSmoothness(), first).value == 4.0
    second = group("a", [turn(chunk([0, 0], [1, 1])), turn(chunk([7, 7]), valid=False), turn(chunk([2, 4]))])
    assert estimate(ActionSmoothness(), second).value == 4.0


def test_smoothness_needs_three_commands_of_one_width():
    found = estimate(
        ActionSmoothness(),
        group("a", [turn(chunk([0], [1]))], [turn((Text("left"),))], [turn(chunk([0])), turn(chunk([0, 1], [0, 1]))]),
    )
    assert found.n == 0
    assert math.isnan(found.value)


def test_screens_are_judged_by_turn_and_kind():
    """Types right 3 of 4; steps right 2 of 4; of the two that ask for a click 1."""
    groups = [
        group("a", [turn(type_right=True, success=True)], [turn(type_right=True, success=False)], kind="icon"),
        group("b", [turn(type_right=True, success=True)], [turn(type_right=False)], kind="type"),
        group("c", [turn(success=True)], kind="icon"),
    ]
    assert estimate(TypeMatch(), *groups).value == 0.75
    assert estimate(StepSuccess(), *groups).value == 0.5
    found = estimate(Grounding(), *groups)
    assert (found.value, found.n) == (0.5, 2)


@pytest.mark.parametrize(
    "metric",
    [Success(), SPL(), OracleSuccess(), NavigationError(), EpisodeLength(), ActionSmoothness(), ParseFailureRate()],
    ids=lambda metric: type(metric).__name__,
)
def test_episodes_without_turns_have_no_row(metric):
    assert metric.rows([group("a", [])], MODELS) == []
