import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.policies.token.tags import tag_segments


@pytest.mark.parametrize(
    ("pieces", "tags", "expected"),
    [
        (["<think>", "a", "</think>", "<answer>", "7", "8", "</answer>", ""], ("answer",), [0, 0, 0, 0, 1, 1, 0, 0]),
        (["<think>", "a", "</think>", "<answer>", "7", "</answer>"], ("think", "answer"), [0, 1, 0, 0, 2, 0]),
        (["<answer>", "<box>", "1", "</box>", "</answer>"], ("answer",), [0, 1, 1, 1, 0]),
        (["<answer>", "<box>", "1", "</box>", "</answer>"], ("answer", "box"), [0, 1, 2, 1, 0]),
        (["<answer>", "<box>", "1", "</box>", "</answer>"], ("box", "answer"), [0, 2, 1, 2, 0]),
        (["<", "answer", ">", "7", "</", "answer", ">"], ("answer",), [0, 0, 0, 1, 0, 0, 0]),
        (["<answer", ">7", "8", "9<", "/answer>"], ("answer",), [0, 0, 1, 0, 0]),
        (["<answer>", "7"], ("answer",), [0, 0]),
        (["7", "</answer>"], ("answer",), [0, 0]),
        (["<answer>", "6", "<answer>", "7", "</answer>"], ("answer",), [0, 0, 0, 1, 0]),
        (["<answer>", "</answer>"], ("answer",), [0, 0]),
        (["<answer>", "7", "</answer>", "x", "<answer>", "8", "</answer>"], ("answer",), [0, 1, 0, 0, 0, 1, 0]),
        (["<answer>", "7", "</answer>"], (), [0, 0, 0]),
        ([], ("answer",), []),
    ],
)
def test_tokens_strictly_inside_a_tag_are_marked(pieces, tags, expected):
    assert tag_segments(pieces, tags) == expected


@given(st.lists(st.sampled_from(["<a>", "</a>", "<b>", "</b>", "<", "a", ">", "</", "", "x<a>", "é"]), max_size=30))
def test_any_text_gets_one_segment_per_token(pieces):
    segments = tag_segments(pieces, ("a", "b"))
    assert len(segments) == len(pieces) and set(segments) <= {0, 1, 2}


def test_names_are_taken_literally():
    assert tag_segments(["<a.b>", "1", "</a.b>", "<axb>", "2", "</axb>"], ("a.b",)) == [0, 1, 0, 0, 0, 0]


def test_degenerate_output_costs_linear_time():
    pieces = ["<answer>"] * 100_000 + ["<think>", "x", "</think>", "</answer>"] * 25_000
    began = time.process_time()
    assert sum(tag_segments(pieces, ("answer", "think"))) > 0
    assert time.process_time() - began < 5
