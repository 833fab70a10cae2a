"""The benchmark against TRL, as far as it goes without TRL: arguments, the plain pass, the committed result."""

import importlib
import json
import statistics
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULT = BENCHMARKS / "vlm_grpo_step.json"
REQUIRED = {
    "ratio_cpu",
    "ratio_wall",
    "ratio_memory",
    "gradient_relative_error",
    "gradient_relative_error_vs_trl",
    "fraction_of_flop_bound",
    "sampler_difference",
    "overhead_over_bare",
    "phases",
    "medians",
    "ranges",
    "rounds",
    "memory",
    "training_pass",
    "step_flop_bound",
    "machine",
    "software",
    "settings",
    "command",
    "commit",
}


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def script():
    return importlib.import_module("vlm_grpo_step")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The smallest problem, written to a folder: two prompts of unequal length."""
    problem = importlib.import_module("vlm_grpo.problem")
    folder = str(tmp_path_factory.mktemp("vlm_grpo"))
    made = problem.Settings(folder, image_tokens=4, completion=3, group=2, prompts=2, size="s", vocab=512, rounds=1)
    problem.write(made)
    return made


def test_the_command_of_the_issue_is_the_first_row_of_the_table(script):
    options = script.parse(["--image-tokens", "256", "--completion", "32", "--group", "8"])
    (row,) = script.rows(options)
    assert row == script.rows(script.parse(["--suite"]))[0]
    assert (row.image_tokens, row.completion, row.group, row.size, row.threads) == (256, 32, 8, "m", 1)


def test_the_suite_has_five_rows_of_the_same_rounds_and_threads(script):
    rows = script.rows(script.parse(["--suite", "--rounds", "3", "--threads", "2"]))
    assert [(row.rounds, row.threads) for row in rows] == [(3, 2)] * 5
    assert len(set(rows)) == 5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--image-tokens", "250"], "--image-tokens must be a square number, got 250"),
        (["--group", "1"], "argument --group: must be a whole number >= 2, got 1"),
        (["--rounds", "x"], "argument --rounds: must be a whole number >= 1, got x"),
        (["--beta", "-1"], "argument --beta: must be a number >= 0, got -1"),
        (["--size", "xl"], "argument --size: invalid choice: 'xl'"),
        (["--suite", "--group", "4"], "--suite sets --group itself"),
        (["--size", "3b"], "--size 3b needs --device cuda"),
        (["--peer-python", "/nowhere/python"], "--peer-python: there is no /nowhere/python"),
        (["--json", "/nowhere/out.json"], "--json: there is no folder /nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(script, capsys, arguments, reason):
    assert script.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"vlm_grpo_step: {reason}") and err.count("\n") == 1


def test_a_peer_without_trl_is_refused(script, capsys, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert script.main(["--peer-python", str(python)]) == 2
    assert capsys.readouterr().err == (
        f"vlm_grpo_step: --peer-python: TRL is not installed in the environment of {python}\n"
    )


def test_the_command_in_the_result_names_no_path_of_this_machine(script):
    argv = ["--group", "4", "--json", "/somewhere/a.json", "--peer-python=/somewhere/python", "--suite"]
    assert script.command(argv) == "python benchmarks/vlm_grpo_step.py --group 4 --suite"


def test_the_reward_pays_answers_numbers_and_a_little_for_length():
    """ " 7 w" has 4 characters, "w12" 3, "none" 4, "" 0: 1 + 0.04, 0.2 + 0.03, 0.04 and 0."""
    reward = importlib.import_module("vlm_grpo.problem").reward
    texts = [" 7 w", [{"role": "assistant", "content": "w12"}], "none", ""]
    assert reward(texts, ["7"] * 4, image=[None] * 4) == pytest.approx([1.04, 0.23, 0.04, 0.0])


def test_the_plain_batch_of_the_stock_model_gives_the_gradient_of_the_library(settings):
    """float64, G copies of picture and prompt through transformers alone; log-softmax and ratios in float64 too."""
    checks, problem = importlib.import_module("vlm_grpo.checks"), importlib.import_module("vlm_grpo.problem")
    policy = checks.ours.build_policy(settings).double()
    groups = checks.without_pictures(checks.drawn(policy, settings), policy.base.config.image_token_id)
    assert {len(t.turns[0].record.ids) for group in groups for t in group} == {settings.completion}
    batch = checks.ready(policy, groups, seed=0)
    found = checks.against_plain(policy, problem.load_model(settings).double(), settings, batch)
    assert found["whole"] < 1e-6 and found["log_prob"] < 1e-6
    assert found["parameters"] == len(list(policy.base.parameters()))


def test_the_error_of_a_gradient_is_relative_to_the_right_one():
    """Differences (3, 4) and 0 against norms 5 and 12: 5 / 13 in the whole, 1 for the worst parameter."""
    checks = importlib.import_module("vlm_grpo.checks")
    right = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([12.0])}
    found = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([12.0])}
    error = checks.relative_error(found, right)
    assert error["whole"] == pytest.approx(5 / 13) and error["worst"] == 1 and error["worst_parameter"] == "a"


@pytest.mark.skipif(not RESULT.exists(), reason="no result is committed")
def test_the_committed_ratios_follow_from_the_committed_medians():
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 5
    for row in rows:
        assert row.keys() >= REQUIRED
        assert {"trl", "saccade"} <= row["phases"].keys()
        trl, own, bare = (row["medians"][side] for side in ("trl", "saccade", "bare"))
        for kind in ("cpu", "wall"):
            assert row[f"ratio_{kind}"] == pytest.approx(trl[f"{kind}_s"] / own[f"{kind}_s"])
            assert row["overhead_over_bare"][kind] == pytest.approx(own[f"{kind}_s"] / bare[f"{kind}_s"] - 1)
            for side in ("trl", "saccade", "bare"):
                assert row["medians"][side][f"{kind}_s"] == statistics.median(row["rounds"][side][kind])
        assert row["ratio_memory"] == pytest.approx(trl["memory_bytes"] / own["memory_bytes"])
        passes = row["training_pass"]
        assert passes["flop_bound"] == pytest.approx(passes["flops_plain"] / passes["flops_shared"])
        assert passes["fraction_of_flop_bound"] == pytest.approx(passes["ratio"] / passes["flop_bound"])
        assert row["fraction_of_flop_bound"] == passes["fraction_of_flop_bound"]
