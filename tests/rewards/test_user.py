"""Rewards from a user's file."""

import os
import textwrap

import pytest
from cases import trajectory

from saccade.core.errors import ConfigError, ContractError, DataError
from saccade.core.reward import Score
from saccade.rewards.user import UserFunction


@pytest.fixture
def file(tmp_path):
    def write(source, name="mine.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write


def run(path, *outputs, function="score", **more):
    return list(UserFunction(path=path, name=function)([trajectory(output, **more) for output in outputs]))


def test_function_gets_text_answer_and_metadata(file):
    path = file("def score(text, answer, info): return len(text) + answer + info['bonus']")
    assert run(path, "ab", "c", target={"answer": 10}, bonus=100) == [Score(112.0), Score(111.0)]


@pytest.mark.parametrize(
    ("signature", "expected"), [("text", 1), ("text, answer", 2), ("t, a, i", 3), ("t, a=None", 2), ("t, a, i, x=1", 3)]
)
def test_function_may_take_fewer_parameters(file, signature, expected):
    path = file(f"def score({signature}): return len([{signature.replace('=None', '').replace(', x=1', '')}])")
    assert run(path, "x", target="y") == [Score(float(expected))]


def test_function_may_return_none_a_bool_a_numpy_number_or_a_note(file):
    path = file("""
        import numpy as np
        def score(text):
            return {"none": None, "bool": True, "numpy": np.float32(0.5), "note": {"score": 2, "note": "two"}}[text]
    """)
    assert run(path, "none", "bool", "numpy", "note") == [Score(None), Score(1.0), Score(0.5), Score(2.0, note="two")]


def test_trl_functions_are_called_once_with_columns(file):
    path = file("""
        def reward(completions, prompts, solution, level, **others):
            assert prompts == ["which?"] * 2 and others["answer"] == solution
            return [float(c == s) * l for c, s, l in zip(completions, solution, level)]
    """)
    found = run(path, "7", "8", function="reward", target={"answer": "7"}, columns={"level": 3, "other": 1})
    assert found == [Score(3.0), Score(0.0)]


def test_trl_functions_without_keywords_get_what_they_name(file):
    path = file(
        "def reward(completions, ground_truth): return [None if c else g for c, g in zip(completions, ground_truth)]"
    )
    assert run(path, "", "x", function="reward", target=5) == [Score(5.0), Score(None)]
    assert run(path, function="reward") == []


def test_file_is_loaded_again_when_it_changes(file):
    path = file("def score(text): return 1")
    assert run(path, "") == [Score(1.0)]
    file("def score(text): return 2")
    os.utime(path, ns=(1, 1))
    assert run(path, "") == [Score(2.0)]


def test_file_may_import_its_neighbours_and_define_dataclasses(file):
    file("VALUE = 4", "beside_mine.py")
    path = file("""
        from __future__ import annotations
        from dataclasses import dataclass
        import beside_mine
        @dataclass
        class Answer:
            value: int
        def score(text): return Answer(beside_mine.VALUE).value
    """)
    assert run(path, "") == [Score(4.0)]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("def score(text): return 1 / 0", ContractError, r"task 't': the function raised ZeroDivisionError \(line 1\)"),
        ("def score(text): return float('nan')", ContractError, "task 't': expected a finite number, got nan"),
        ("def score(text): return 'good'", ContractError, "task 't': expected a number or None, got str"),
        ("def score(text): return [1.0]", ContractError, "task 't': expected a number or None, got list"),
        ("def score(text): return {'reward': 1}", ContractError, r"a dict with 'score', got keys \['reward'\]"),
        ("def score(): return 1", ContractError, r"expected score\(text, answer, info\) or .* found parameters \(\)"),
        ("def score(a, b, c, d): return 1", ContractError, r"found parameters \(a, b, c, d\)"),
        ("def score(completions): return 1.0", ContractError, "expected a list of 2 numbers, got float"),
        ("def score(completions): return [1.0]", ContractError, "expected 2 numbers, one a completion, got 1"),
        ("def score(completions): return [1.0, None, 3]", ContractError, "expected 2 numbers, .* got 3"),
        ("def score(completions): return [1.0, 'x']", ContractError, "task 't': expected a number or None, got str"),
        ("def score(completions): return [1.0, float('inf')]", ContractError, "expected a finite number, got inf"),
        ("def score(completions): raise KeyError('a\\nb')", ContractError, "tasks 't': the function raised KeyError"),
        ("def score(completions, absent): return []", ContractError, "raised TypeError.*absent"),
        ("def score(text:", ContractError, "loading it raised SyntaxError"),
        ("import no_such_module", ContractError, "loading it raised ModuleNotFoundError"),
        ("def scores(text): return 1", DataError, "no function 'score' in .*; did you mean 'scores'"),
        ("score = 3", DataError, "no function 'score' in .*; functions in it: none"),
    ],
)
def test_faults_are_one_line_that_names_the_file(file, source, error, message):
    path = file(source)
    with pytest.raises(error, match=message) as caught:
        run(path, "x", "y")
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_is_named():
    with pytest.raises(DataError, match=r"there is no file nowhere\.py"):
        run("nowhere.py", "x")


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="path must be a Python file, got 'mine'"):
        UserFunction(path="mine")
    with pytest.raises(ConfigError, match="name must be the name of a function, got '1'"):
        UserFunction(path="mine.py", name="1")
