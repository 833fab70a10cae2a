"""Reading model output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.rewards import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a>x</a>", "x"),
        ("<a>x</a> then <a> y </a>", "y"),
        ("<a>x <a>y</a>", "y"),
        ("<a>x</a> and <a>", "x"),
        ("<a></a>", ""),
        ("<a>x", None),
        ("x</a>", None),
        ("</a>x<a>", None),
        ("", None),
    ],
)
def test_tagged_is_the_last_complete_block(text, expected):
    assert parse.tagged(text, "a") == expected


def test_of_long_contents_the_end_is_read():
    text = "x" * 2**17 + "end"
    for tagged in (parse.tagged(text, ""), parse.tagged(f"<a>{text}</a>", "a")):
        assert tagged == "x" * (2**15 - 3) + "end"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 and 2.5, -3", [1, 2.5, -3]),
        ("1,234,567 or 12,34", [1234567, 12, 34]),
        ("3-4", [3, 4]),
        ("x1 v2.0 .5", [0.5]),
        ("1e3 1e999", [1000]),
        ("5% of 7.", [5, 7]),
        ("1.2.3", [1.2]),
        ("٣", []),
    ],
)
def test_numbers(text, expected):
    assert parse.numbers(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2, 3]", [(1, 2, 3)]),
        ("in 2024, [1,2] [3,4]", [(2024,), (1, 2), (3, 4)]),
        ("(1,2),(3,4)", [(1, 2, 3, 4)]),
        ("(1, 2) , (3, 4)", [(1, 2, 3, 4)]),
        ("1 2\n3 4", [(1, 2), (3, 4)]),
        ("1,\n2", [(1, 2)]),
        ("1,,2", [(1,), (2,)]),
        ("[1, 1e10, 2] 3", [(3,)]),
        ("", []),
    ],
)
def test_runs(text, expected):
    assert parse.runs(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A, b;\n c ", ["a", "b", "c"]), ("{A, B}", ["a", "b"]), ("a,,", ["a"]), ("", []), ("Red  Fox.", ["red fox"])],
)
def test_items(text, expected):
    assert parse.items(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", {}),
        ("```json\n[1]\n```", [1]),
        ("see ```[1]``` and ```[2]```", [1]),
        ("null", None),
        ("{", None),
        ("[" * 10**5, None),
        ("9" * 10**5, None),
    ],
)
def test_decoded(text, expected):
    assert parse.decoded(text) == expected


ALPHABET = st.sampled_from(list("<>/ab[](){}0123456789.,;-+eE \n\"'`%^*!\\_\x00\u2212é"))


@given(st.text(ALPHABET, max_size=60) | st.text(max_size=60))
def test_nothing_raises_and_boxes_are_finite_and_ordered(text):
    for tag in ("", "a"):
        parse.tagged(text, tag)
    parse.blocks(text, ("a", "b"))
    parse.items(text)
    parse.words(text)
    parse.decoded(text)
    assert all(abs(value) < float("inf") for value in parse.numbers(text))
    for x1, y1, x2, y2 in parse.boxes(text):
        assert -1e9 <= x1 < x2 <= 1e9 and -1e9 <= y1 < y2 <= 1e9
    assert all(len(point) == 2 for point in parse.points(text))


@given(st.lists(st.text(ALPHABET, max_size=20).filter(lambda text: "<" not in text), min_size=2, max_size=2))
def test_blocks_give_back_what_was_wrapped(contents):
    text = f" <a>{contents[0]}</a>\n<b>{contents[1]}</b> "
    assert parse.blocks(text, ("a", "b")) == tuple(contents)
    assert parse.blocks(text, ("b", "a")) is None


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=8))
def test_runs_give_back_what_was_written(values):
    assert parse.runs(f"[{', '.join(map(str, values))}]") == [tuple(values)]
