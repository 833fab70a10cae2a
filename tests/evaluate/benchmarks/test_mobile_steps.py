"""Actions on phones as models write them, and episodes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.content import Text
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.evaluate.rules.mobile import EpisodeSuccess, MobileAction, finger_direction, read_mobile
from saccade.rewards.verify import ExactMatch


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"action_type": "click", "x": 5, "y": 6}', MobileAction("click", (5, 6))),
        ('{"action": "long_press", "coordinate": [5, 6]}', MobileAction("long_press", (5, 6))),
        ('<answer>{"action_type": "open_app", "app_name": "Clock"}</answer>', MobileAction("open_app", text="Clock")),
        ('{"action_type": "input_text", "text": "tea"}', MobileAction("type", text="tea")),
        ('{"action_type": "scroll", "direction": "Down"}', MobileAction("scroll", direction="down")),
        ('{"action_type": "navigate_back"}', MobileAction("back")),
        ('{"action": "system_button", "button": "Home"}', MobileAction("home")),
        ('{"action": "wait", "time": 2}', MobileAction("wait")),
        ('<tool_call>{"name": "mobile_use", "arguments": {"action": "click", "coordinate": [3, 4]}}</tool_call>',
         MobileAction("click", (3, 4))),
        ("CLICK: (120, 300)", MobileAction("click", (120, 300))),
        ("<think>so?</think> LONG_PRESS: (1.5, 2)", MobileAction("long_press", (1.5, 2))),
        ("TYPE: a: b", MobileAction("type", text="a: b")),
        # The finger goes up, so what is below comes into sight.
        ("SCROLL: UP", MobileAction("scroll", direction="down")),
        ("SCROLL: LEFT", MobileAction("scroll", direction="right")),
        ("PRESS_RECENT", MobileAction("recent")),
        ("COMPLETE", MobileAction("complete")),
        ("IMPOSSIBLE", MobileAction("impossible")),
        ("click 3 4", MobileAction("click", (3, 4))),
        ("scroll down", MobileAction("scroll", direction="down")),
        ("drag 50 90 50 10", MobileAction("scroll", direction="down")),
        ("key enter", MobileAction("enter")),
        ("done", MobileAction("complete")),
        ('{"action_type": "click", "x": "5", "y": 6}', None),
        ('{"action_type": "click", "x": true, "y": 6}', None),
        ('{"action_type": "fly"}', None),
        ('{"action_type": ["click"]}', None),
        ('{"action_type": "scroll", "direction": 3}', None),
        ('{"action": "system_button", "button": {}}', None),
        ("CLICK: here", None),
        ("TYPE:", None),
        ("SCROLL: SIDEWAYS", None),
        ("", None),
        ("{", None),
    ],
)  # fmt: skip
def test_actions_are_read_in_the_forms_that_models_write(text, expected):
    assert read_mobile(text) == expected


@given(st.text(alphabet='{}[]()<>/":,. \n\\aclikpoint_ty2é', max_size=200))
def test_no_output_makes_the_reader_raise(text):
    for one in (text, f'{{"action_type": {text}', f"CLICK: {text}", f'{{"action": "click", "point": [{text}]}}'):
        found = read_mobile(one)
        assert found is None or isinstance(found, MobileAction)


@pytest.mark.parametrize(
    ("end", "direction"),
    [((9, 0), "right"), ((-9, 5), "left"), ((3, -9), "up"), ((3, 9), "down"), ((5, 5), "down"), ((5, -5), "up")],
)
def test_fingers_go_along_the_longer_axis_and_along_the_screen_where_they_are_equal(end, direction):
    assert finger_direction((0, 0), end) == direction


def step(episode, steps, k, *answers, category=""):
    task = Task(f"{episode}-{k}", (), "yes", (), {"episode": episode, "steps": steps, "category": category})
    return [Trajectory(Prompt(task, ()), [forced_turn((Text(answer),), None, 1)]) for answer in answers]


def test_an_episode_succeeds_if_every_step_does_and_counts_only_if_every_step_was_tried():
    """a: both right; b: one wrong; c: one of two steps was tried. 1 of 2 episodes."""
    groups = [
        step("a", 2, 0, "yes"), step("a", 2, 1, "yes"), step("b", 2, 0, "yes"), step("b", 2, 1, "no"),
        step("c", 2, 0, "yes"),
    ]  # fmt: skip
    metric = EpisodeSuccess(ExactMatch(tag=""))
    found = metric.compute(metric.rows(groups, None))
    assert found.value == 0.5 and found.n == 2
    assert math.isnan(metric.compute(metric.rows(groups[4:], None)).value)


def test_the_k_th_rollouts_of_the_steps_make_the_k_th_episode():
    """Rollout 0: yes, yes; rollout 1: yes, no."""
    groups = [step("a", 2, 0, "yes", "yes"), step("a", 2, 1, "yes", "no")]
    metric = EpisodeSuccess(ExactMatch(tag=""))
    assert metric.compute(metric.rows(groups, None)).value == 0.5


def test_categories_can_weigh_the_same():
    """x: 1 of 1, y: 0 of 3: the mean of the categories is 1/2, that of the episodes 1/4."""
    groups = [step("a", 1, 0, "yes", category="x")]
    groups += [step(name, 1, 0, "no", category="y") for name in "bcd"]
    for mean_of_categories, value in ((True, 0.5), (False, 0.25)):
        metric = EpisodeSuccess(ExactMatch(tag=""), mean_of_categories)
        assert metric.compute(metric.rows(groups, None)).value == value
