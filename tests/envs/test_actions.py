"""Reading GUI actions from model output."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saccade.core.content import text_of
from saccade.envs.actions import KEYS, LONGEST_TEXT, Action, NoAction, read_action
from saccade.policies.token.vocabulary import Vocabulary
from saccade.testing import MALFORMED

CLICK = Action("click", (34.0, 50.0))


@pytest.mark.parametrize(
    "text",
    [
        "click 34 50",
        "click(34, 50)",
        "CLICK [34,50]\n",
        "tap<box>34,50</box>",
        "<tool>click 34 50</tool>",
        "<think>click 1 2</think><answer>click 34 50</answer>",
        "first <action>click 1 2</action> then <action>click 34 50</action>",
        '{"action": "click", "point": [34, 50]}',
        '<answer>[{"action": "click", "point": [34, 50], "input_text": "no input text"}]</answer>',
        '```json\n{"action": "left_click", "coordinate": [34, 50]}\n```',
        '<tool_call>{"name": "computer", "arguments": {"action": "left_click", "coordinate": [34, 50]}}</tool_call>',
        '{"name": "click", "arguments": {"x": 34, "y": 50}}',
    ],
)
def test_a_click_is_read_however_it_is_written(text):
    assert read_action(text) == CLICK


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("type hello world", Action("type", text="hello world")),
        ('type "hello"', Action("type", text="hello")),
        ('{"action": "type", "text": "{a}"}', Action("type", text="{a}")),
        ("type [draft]", Action("type", text="[draft]")),
        ("scroll down", Action("scroll", direction="down")),
        ("scroll up 3 4.5", Action("scroll", (3.0, 4.5), direction="up")),
        ('{"action": "scroll", "direction": "left", "point": [1, 2]}', Action("scroll", (1.0, 2.0), direction="left")),
        ("key Return", Action("key", keys="enter")),
        ("press control + a", Action("key", keys="ctrl+a")),
        ('{"action": "hotkey", "keys": ["ctrl", "a"]}', Action("key", keys="ctrl+a")),
        ("drag 1 2 3 4", Action("drag", (1.0, 2.0), (3.0, 4.0))),
        ("drag(1,2),(3,4)", Action("drag", (1.0, 2.0), (3.0, 4.0))),
        ('{"action": "drag", "start": [1, 2], "end": [3, 4]}', Action("drag", (1.0, 2.0), (3.0, 4.0))),
        ("<answer>done</answer>", Action("done")),
        ('{"action": "terminate", "status": "success"}', Action("done")),
    ],
)
def test_every_type_of_action_is_read(text, action):
    assert read_action(text) == action


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I would click 34 50",
        "click",
        "click 34",
        "click 34 50 60",
        "click 34 x",
        "click nan 5",
        "click 1e5 5",
        "click 9999999 5",
        "drag 1 2",
        "done 1",
        "scroll",
        "scroll sideways",
        "key ctrl+w",
        "key " + "a" * 5000,
        "type",
        "type " + "a" * (LONGEST_TEXT + 1),
        "type a\x00b",
        "type \udcff",
        "<answer>click 34 50",
        "<answer></answer>",
        '{"action": "click", "point": [NaN, 5]}',
        '{"action": "click", "point": [true, 5]}',
        '{"action": "click", "point": [1e999, 5]}',
        '{"action": "click", "point": "34 50"}',
        '{"action": ["click"]}',
        '{"action": "type", "text": 5}',
        '[{"action": "done"}, {"action": "done"}]',
        "[" * 4000,
        '{"point": [' + "9" * 4000,
        '{"action": "click", "point": [' + "9" * 3000 + ", 5]}",
        "__import__('os')",
    ],
)
def test_what_is_no_action_gets_a_reason(text):
    read = read_action(text)
    assert isinstance(read, NoAction) and read.reason


@given(st.text(max_size=200) | st.text('<>/answertoolclick {}[]",:0123456789.`', max_size=200))
@example("<tool>" * 20_000)
@example("<tool>" + "[" * 200_000)
def test_no_text_raises(text):
    assert isinstance(read_action(text), Action | NoAction)


def test_malformed_outputs_of_the_contract_are_no_actions():
    assert all(isinstance(read_action(text_of(output)), NoAction) for output in MALFORMED)


coordinates = st.integers(0, 999_999).map(lambda n: n / 100)
points = st.tuples(coordinates, coordinates)
actions = st.one_of(
    st.builds(Action, st.just("click"), points),
    st.builds(Action, st.just("drag"), points, points),
    st.builds(
        Action, st.just("scroll"), st.none() | points, direction=st.sampled_from(["up", "down", "left", "right"])
    ),
    st.builds(Action, st.just("key"), keys=st.sampled_from(KEYS)),
    st.builds(Action, st.just("type"), text=st.text("abc XYZ019", min_size=1).map(str.strip).filter(bool)),
    st.just(Action("done")),
)


@given(actions)
def test_the_plain_form_is_read_back(action):
    assert read_action(str(action)) == action
    assert read_action(f"<tool>{action}</tool>") == action


def test_a_tiny_vocabulary_writes_a_click_in_five_tokens():
    """<tool>, click, two location tokens, </tool>: 64 pixels in 16 bins have locations at multiples of 4."""
    vocabulary = Vocabulary(("click", "type", "Ada"), side=64, bins=16)
    for text, tokens in (("<tool>click 32 48</tool>", 5), ("<tool>type Ada</tool>", 4)):
        ids = vocabulary.encode(text, strict=True)
        assert len(ids) == tokens
        assert read_action(vocabulary.decode(ids)) == read_action(text) != NoAction
