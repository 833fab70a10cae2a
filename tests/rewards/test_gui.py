"""Rewards of GUI steps, of sequences and of progress, by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from cases import PICTURE, turn

from saccade.core.content import Array, Text
from saccade.core.errors import ConfigError, ContractError, DataError
from saccade.core.trajectory import Prompt, Task, Trajectory
from saccade.envs.screens import Apps, Screens, ScreenTasks
from saccade.rewards.gui import (
    ActionFormat,
    ClickAccuracy,
    ClickInBox,
    QuadraticPoint,
    StepAccuracy,
    UnifiedAction,
    word_f1,
)
from saccade.rewards.match import (
    HardMatch,
    KeySteps,
    Milestones,
    Progress,
    ProgressDelta,
    TimeDecayedMatch,
    UniformMatch,
    key_steps,
    longest_common_subsequence,
    progress_labels,
    said,
)

BOX = (10.0, 20.0, 30.0, 40.0)
WELL = "<think>there</think><answer>click 12 22</answer>"


def step(action, target, text=WELL):
    task = Task("t", (Text("do"), PICTURE), target)
    return Trajectory(Prompt(task, task.prompt), [turn(text, info={"valid": action is not None, "action": action})])


def click(x, y):
    return {"type": "click", "point": (x, y)}


@pytest.mark.parametrize(
    ("action", "target", "expected"),
    [
        (click(12, 22), {"type": "click", "box": BOX}, 1),
        (click(10, 22), {"type": "click", "box": BOX}, 0),
        (click(30, 30), {"type": "click", "box": BOX}, 0),
        (click(139, 0), {"type": "click", "box": (0.0, 0.0)}, 1),
        (click(84, 112), {"type": "click", "box": (0.0, 0.0)}, 0),  # 84^2 + 112^2 = 140^2
        ({"type": "type", "text": "hello"}, {"type": "click", "box": BOX}, 0),
        ({"type": "type", "text": "Hello World"}, {"type": "type", "text": "hello"}, 1),
        ({"type": "type", "text": "a b c d"}, {"type": "type", "text": "a"}, 0),
        ({"type": "type", "text": "hell"}, {"type": "type", "text": "hello"}, 1),
        ({"type": "scroll", "direction": "down"}, {"type": "scroll", "direction": "DOWN"}, 1),
        ({"type": "scroll", "direction": "up"}, {"type": "scroll", "direction": "down"}, 0),
        ({"type": "done"}, {"type": "done"}, 1),
        (None, {"type": "done"}, 0),
    ],
)
def test_step_accuracy_branches_by_type(action, target, expected):
    assert StepAccuracy().score(step(action, target)).value == expected


def test_word_f1_is_that_of_sets():
    """{a, b} and {b, c, d}: precision 1/2, recall 1/3, F1 = 2/5. {a, b, c, d} and {a}: 2 * 1/4 * 1 / (5/4) = 2/5."""
    assert word_f1("a b b", "B c d") == pytest.approx(0.4)
    assert word_f1("a b c d", "[a]") == pytest.approx(0.4)
    assert word_f1("", "a") == 0 and word_f1("x", "y") == 0 and word_f1("lo", "hello") == 1


def test_radius_can_be_that_of_small_pictures():
    target = {"type": "click", "box": (32.0, 32.0)}
    assert StepAccuracy(radius=5).score(step(click(35, 35.9), target)).value == 1
    assert StepAccuracy(radius=5).score(step(click(35, 36), target)).value == 0


def test_click_accuracy_pays_clicks_only():
    assert ClickAccuracy().score(step(click(12, 22), {"type": "click", "box": BOX})).value == 1
    typed = {"type": "type", "text": "x"}
    assert ClickAccuracy().score(step(typed, typed)).value == 0
    assert StepAccuracy().score(step(typed, typed)).value == 1


@pytest.mark.parametrize(
    ("text", "action", "expected"),
    [
        (WELL, click(12, 22), 1.0),
        ("<answer>click 12 22</answer>", click(12, 22), 0.8),
        (WELL, click(0, 0), 0.2),
        (WELL, None, 0.0),
        ("nonsense", None, 0.0),
    ],
)
def test_unified_reward_is_four_fifths_accuracy_and_one_fifth_format(text, action, expected):
    found = UnifiedAction().score(step(action, {"type": "click", "box": BOX}, text))
    assert found.value == pytest.approx(expected)


def test_unified_reward_of_clicks_keeps_its_format_part():
    typed = {"type": "type", "text": "x"}
    assert UnifiedAction(of=ClickAccuracy()).score(step(typed, typed)).value == pytest.approx(0.2)


def test_format_without_tags_asks_for_an_action_alone():
    assert ActionFormat(tags=()).score(step(click(1, 1), None, "click 1 1")) == 1
    assert ActionFormat(tags=()).score(step(None, None, "x")) == 0


def test_gold_outputs_of_screens_get_full_marks_and_outputs_of_other_tasks_less():
    spec = Screens(ScreenTasks(answer="<think>so</think><answer>{action}</answer>"))
    environment, reward = spec.make(), UnifiedAction()
    pays = []
    tasks = spec.tasks[:40]
    for task, other in pairwise(tasks):
        for said_by in (task, other):
            shown = environment.reset(task, 0)
            info = environment.step(said_by.gold[0]).info
            one = turn(said_by.gold[0][0].text, info=info)
            found = Trajectory(Prompt(task, (*task.prompt, *shown.content)), [one])
            pays.append((reward.score(found).value, info["success"], said_by is task))
            if task.target["box"] and said_by is task:
                assert ClickInBox().score(found).value == 1
    assert all(pay == pytest.approx(1.0) and success for pay, success, own in pays if own)
    assert np.mean([pay for pay, _, own in pays if not own]) < 0.5
    assert all((pay == pytest.approx(1.0)) == success for pay, success, _ in pays)


def test_tasks_without_target_and_environments_without_notes():
    assert StepAccuracy().score(step(click(1, 1), None)) is None
    bare = Trajectory(step(None, {"type": "done"}).prompt, [turn("x")])
    with pytest.raises(DataError, match="does not note the action"):
        StepAccuracy().score(bare)
    with pytest.raises(DataError, match="does not note the action"):
        UnifiedAction().score(bare)
    with pytest.raises(DataError, match="mapping with the action's type"):
        StepAccuracy().score(step(click(1, 1), {"box": BOX}))
    with pytest.raises(DataError, match="four numbers or two"):
        StepAccuracy().score(step(click(1, 1), {"type": "click", "box": (1, 2, 3)}))
    with pytest.raises(DataError, match="target's text must be a text"):
        StepAccuracy().score(step({"type": "type", "text": "a"}, {"type": "type", "text": None}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>(12,22)</answer>", 1),
        ("<answer>click 10 40</answer>", 1),
        ("<answer>(9,22)</answer>", 0),
        ("<answer>(12,22) or (13,23)</answer>", 0),
        ("<answer>(12,22,3)</answer>", 0),
        ("(12,22)", 0),
    ],
)
def test_click_in_box_wants_exactly_one_point(text, expected):
    found = ClickInBox().score(step(None, {"type": "click", "box": BOX}, text))
    assert found.value == expected


def test_click_in_box_leaves_tasks_without_box_unscored():
    assert ClickInBox().score(step(None, {"type": "type", "box": None})) is None


def test_quadratic_point_falls_with_the_square_of_the_distance():
    """Box middle (20, 30) of 100 x 50 is (0.2, 0.6); the farthest corner is (1, 0): d_max^2 = 0.64 + 0.36 = 1.

    At the middle 1 + 1; at (60, 30) d = 0.4, so 1 - 0.16; at (12, 22), in the box, d^2 = 0.08^2 + 0.16^2 = 0.032, so
    1 + 1 - 0.032. Outside the picture nothing.
    """

    def pay(text: str, **fields) -> float:
        return QuadraticPoint(**fields).score(step(None, {"box": BOX}, f"<answer>{text}</answer>")).value

    assert pay("20 30") == pytest.approx(2)
    assert pay("60 30") == pytest.approx(0.84)
    assert pay("12 22") == pytest.approx(1.968)
    assert pay("12 22", hit=0.0) == pytest.approx(0.968)
    assert pay("120 30") == 0 and pay("none") == 0


# --- sequences ---


def walk(text, expert):
    task = Task("t", (Text("go"),), {"actions": expert})
    return Trajectory(Prompt(task, task.prompt), [turn(f"<answer>{text}</answer>")])


EXPERT = ("forward", "forward", "left", "forward", "right", "stop")


def test_time_decayed_match_weighs_early_actions_more():
    """Right at k = 0, 2, 5 of six:  1 + 0.8^2 + 0.8^5 = 1.96768; uniform 3/6; hard 0."""
    said = walk("Forward, left, left, stop, stop, stop", EXPERT)
    assert TimeDecayedMatch().score(said).value == pytest.approx(1 + 0.8**2 + 0.8**5)
    assert UniformMatch().score(said).value == pytest.approx(0.5)
    assert HardMatch().score(said).value == 0


def test_all_right_is_the_most_and_missing_actions_agree_with_nothing():
    right = walk(" ".join(EXPERT), EXPERT)
    assert TimeDecayedMatch(gamma=0.5).score(right).value == pytest.approx(2 - 2**-5)
    assert UniformMatch().score(right).value == 1 and HardMatch().score(right).value == 1
    short = walk("forward forward", EXPERT)
    assert TimeDecayedMatch().score(short).value == pytest.approx(1.8)
    assert UniformMatch().score(short).value == pytest.approx(1 / 3) and HardMatch().score(short).value == 0
    assert HardMatch().score(walk(" ".join([*EXPERT, "left"]), EXPERT)).value == 1
    assert UniformMatch().score(walk("", EXPERT)).value == 0


def test_commands_agree_by_number_and_noted_experts_pay_their_turn():
    """Turn 0 says 2, 0 where the expert goes 2, 1; turn 1 has no note; turn 2 agrees: pays 1 and 1.8."""
    first = turn("", info={"expert": (2, 1)})
    first.output = (Array("command", np.array([[2], [0]], np.float32)),)
    last = turn("", info={"expert": [0, 0]})
    last.output = (Array("command", np.array([[0], [0], [5]])),)
    task = Task("t", (Text("go"),))
    trajectory = Trajectory(Prompt(task, task.prompt), [first, turn("x"), last])
    assert TimeDecayedMatch().score(trajectory).turns == {0: 1.0, 2: pytest.approx(1.8)}
    assert said((Array("command", np.zeros((1, 2))),)) == []


def test_nothing_to_compare_with_is_unscored_and_no_list_is_refused():
    task = Task("t", (Text("go"),))
    assert HardMatch().score(Trajectory(Prompt(task, task.prompt), [turn("x")])) is None
    with pytest.raises(DataError, match="list of names or whole numbers"):
        HardMatch().score(walk("x", "forward"))
    with pytest.raises(ConfigError, match="gamma must be in"):
        TimeDecayedMatch(gamma=0)


# --- progress ---


def brute(a, b):
    """Length of the longest common subsequence by trying all of the shorter one's."""
    best = 0
    for mask in range(2 ** len(a)):
        part = [x for i, x in enumerate(a) if mask >> i & 1]
        rest = iter(b)
        if all(x in rest for x in part):
            best = max(best, len(part))
    return best


def test_longest_common_subsequence_is_as_long_as_any():
    random = np.random.default_rng(0)
    for _ in range(60):
        a, b = (["xyz"[i] for i in random.integers(0, 3, random.integers(0, 8))] for _ in range(2))
        found = longest_common_subsequence(a, b)
        assert len(found) == brute(a, b)
        for whole in (a, b):
            rest = iter(whole)
            assert all(x in rest for x in found)


def test_key_steps_of_three_trajectories_are_what_they_share():
    """open, item and done occur in all three in this order; back, scroll and search do not."""
    successes = [
        ["open", "scroll", "item", "done"],
        ["open", "back", "open", "item", "", "done"],
        ["search", "open", "item", "scroll", "done"],
    ]
    keys = key_steps(successes)
    assert keys == ("open", "item", "done")
    assert progress_labels(["open", "open", "scroll", "item"], keys) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert key_steps([]) == ()


def episode(*infos):
    task = Task("t", (Text("go"),))
    return Trajectory(Prompt(task, task.prompt), [turn("x", info=info) for info in infos])


def test_progress_differences_add_up_to_the_last_progress():
    """Progress 0, 1/4, 1/4, 3/4 pays 0, 1/4, 0, 1/2."""
    notes = [{"milestones": m, "total": 4} for m in (0, 1, 1, 3)]
    found = ProgressDelta().score(episode(*notes))
    assert found.turns == {1: 0.25, 3: 0.5} and found.total == 0.75
    assert Milestones()(episode(notes[1], {})) == [0.25, 0.25]


def test_key_steps_give_progress_from_events():
    found = ProgressDelta(progress=KeySteps(("page 1", "done"))).score(
        episode({"event": "scrolled"}, {"event": "page 1"}, {"event": "done"})
    )
    assert found.turns == {1: 0.5, 2: 0.5}


def test_a_progress_that_falls_is_paid_back():
    class Learned(Progress):
        def __call__(self, trajectory):
            return [0.5, 0.2, 0.9]

    found = ProgressDelta(progress=Learned()).score(episode({}, {}, {}))
    assert found.turns == pytest.approx({0: 0.5, 1: -0.3, 2: 0.7}) and math.isclose(found.total, 0.9)
    with pytest.raises(ContractError, match="3 values for 1 turns"):
        ProgressDelta(progress=Learned()).score(episode({}))


def test_progress_on_an_app_adds_up_to_one_on_success():
    spec = Apps()
    environment = spec.make()
    environment.reset(spec.tasks[0], 0)
    infos = [environment.step(output).info for output in spec.tasks[0].gold]
    assert ProgressDelta().score(episode(*infos)).total == pytest.approx(1)
    assert ProgressDelta().score(episode(infos[0])).total == pytest.approx(4 / 6)
