"""The benchmark of diffusion loops, as far as it goes in seconds: arguments, gradients, counts, what is committed."""

import importlib
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULT = BENCHMARKS / "diffusion_rl_step.json"
CURVES = BENCHMARKS / "diffusion_rl_curves.json"
REQUIRED = {
    "name",
    "net",
    "cpu_seconds_per_sample",
    "rollout_seconds",
    "learn_seconds",
    "forwards_per_sample",
    "peer",
    "ratio",
    "ratio_range",
    "ratio_of_forwards",
    "gradient_relative_error",
    "gradient_relative_error_float32",
    "must",
    "rounds",
}

pytest.importorskip("diffusers")


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def script():
    return importlib.import_module("diffusion_rl_step")


@pytest.fixture
def shapes():
    return importlib.import_module("diffusion_rl.shapes")


def small(net="sd3", **changes):
    settings = importlib.import_module("diffusion_rl.problem").Settings
    return replace(settings(net=net, small=True, groups=2, group=3, steps=4, window=2, start=1, rounds=1), **changes)


def test_both_networks_are_measured_unless_one_is_named(script):
    both = script.settings_of(script.parse(["--rounds", "3"]))
    (one,) = script.settings_of(script.parse(["--net", "unet", "--group", "4"]))
    assert [(settings.net, settings.rounds, settings.threads) for settings in both] == [("sd3", 3, 1), ("unet", 3, 1)]
    assert (one.net, one.group, one.groups, one.steps) == ("unet", 4, 2, 10)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--net", "dit"], "argument --net: invalid choice: 'dit'"),
        (["--group", "1"], "argument --group: must be a whole number >= 2, got 1"),
        (["--rounds", "x"], "argument --rounds: must be a whole number >= 1, got x"),
        (["--beta", "0"], "argument --beta: must be a number > 0, got 0"),
        (["--guidance", "1"], "--guidance must not be 1: that is none"),
        (["--start", "6"], "--start 6 and --window 4 do not fit before the last of 10 steps"),
        (["--curves", "--recipes", "ddpo"], "argument --recipes: invalid choice: 'ddpo'"),
        (["--json", "/nowhere/out.json"], "--json: there is no folder /nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(script, capsys, arguments, reason):
    assert script.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"diffusion_rl_step: {reason}") and err.count("\n") == 1


def test_the_command_in_the_result_names_no_path_of_this_machine(script):
    assert script.command(["--net", "sd3", "--json", "/somewhere/a.json"]) == (
        "python benchmarks/diffusion_rl_step.py --net sd3"
    )


@pytest.mark.parametrize("net", ["sd3", "unet"])
def test_gradients_are_those_of_the_peers_loops(shapes, net):
    """float64; advantages and averaging weights of the table are float32 and carry a rounding of 6e-8 each."""
    rows = [row for row in shapes.ROWS if row.same_gradient]
    assert {row.peer for row in rows} == {"flow_grpo", "flow_grpo with KL", "ddpo-pytorch"}
    for row in rows:
        assert shapes.gradient_error(small(net, double=True), row) < 2e-7, row.name


def test_the_comparison_sees_a_gradient_that_is_not_the_same(shapes):
    """The divergence's part is missing on one side."""
    row = next(row for row in shapes.ROWS if row.name == "on-policy, one starting noise, KL")
    wrong = replace(row, peer="flow_grpo")
    assert shapes.gradient_error(small(double=True), wrong) > 1e-4


def test_the_peers_sampler_is_that_of_the_library():
    """With v = e - x0: x0 = x - t v and e = x + (1 - t) v, so keep = a' + k and push = (1 - t) k - t a'."""
    problem = importlib.import_module("diffusion_rl.problem")
    from saccade.policies.denoise.noise import Flow
    from saccade.policies.denoise.steps import FlowSDE

    table = FlowSDE(5, problem.NOISE).table(Flow())
    for i, step in enumerate(problem.sampler(5)):
        t, signal, noise = (float(x[i]) for x in (table.time, table.signal, table.direction))
        assert step.time == t and step.std == pytest.approx(float(table.std[i]))
        assert step.keep == pytest.approx(signal + noise)
        assert step.push == pytest.approx((1 - t) * noise - t * signal)
        assert step.dt == pytest.approx(float(table.time[i + 1]) - t)


def test_the_peers_log_density_is_that_of_a_normal_distribution():
    peers = importlib.import_module("diffusion_rl.peers")
    x, mean = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.manual_seed(0)).unbind()
    right = Normal(mean, 0.3).log_prob(x).flatten(1).mean(1)
    torch.testing.assert_close(peers.log_density(x, mean, 0.3), right)


def test_evaluations_of_the_network_are_those_of_the_description(shapes):
    """T = 4, K = 3, a guided pair 2, a backward 2: a sample costs flow_grpo 2 T + 6 K = 26, with KL 2 K more.

    ddpo-pytorch trains all steps: 2 T + 6 T = 32. Two updates: the first takes over the unconditional halves (3 K), the
    second evaluates them (4 K), so 8 + 10.5. One starting noise for G = 3: the first step is drawn at 1 / 3. Two
    trajectories go through training together, the middle pair from different groups: 2 of six share the evaluation of
    another, so that K = 3 steps take 18 - 2 rows, 8 / 3 a sample, and T = 4 take 11 / 3. Window of steps 1, 2: step 0
    and the input of step 1 once a group, and once for its three members in training.
    """
    settings = small()
    found = {row["name"]: row for row in shapes.measure(settings, lambda line: None)}
    counted = {
        "flow_grpo": 26,
        "flow_grpo with KL": 32,
        "ddpo-pytorch": 32,
        "two updates a rollout": 18.5,
        "on-policy, one starting noise": 2 * (3 + 1 / 3) + 3 * 8 / 3,
        "on-policy, one starting noise, KL": 2 * (3 + 1 / 3) + 5 * 8 / 3,
        "both halves in the graph, one starting noise": 2 * (3 + 1 / 3) + 6 * 11 / 3,
        "window, guided": 2 * (2 + 2 / 3) + 3 * (3 + 1) / 3,
        "window, not guided": (2 + 2 / 3) + 3 * (3 + 1) / 3,
    }
    assert {name: row["forwards_per_sample"] for name, row in found.items()} == pytest.approx(counted)
    for row in found.values():
        assert row.keys() == REQUIRED
        follows(row, found)


def follows(row, rows):
    """Ratios are those of the medians and of single rounds."""
    assert row["cpu_seconds_per_sample"] == statistics.median(row["rounds"])
    if row["peer"] is None:
        assert row["ratio"] is None and row["must"] is None
        return
    peer = rows[row["peer"]]
    ratios = [theirs / own for theirs, own in zip(peer["rounds"], row["rounds"], strict=True)]
    assert row["ratio"] == pytest.approx(peer["cpu_seconds_per_sample"] / row["cpu_seconds_per_sample"])
    assert row["ratio_range"] == pytest.approx([min(ratios), max(ratios)])
    assert row["ratio_of_forwards"] == pytest.approx(peer["forwards_per_sample"] / row["forwards_per_sample"])


@pytest.mark.skipif(not RESULT.exists(), reason="no result is committed")
def test_the_committed_ratios_follow_from_the_committed_medians(shapes):
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert result.keys() >= {"settings", "rules", "rows", "machine", "software", "command", "commit"}
    peers = shapes.peer_shapes(small())
    for net in ("sd3", "unet"):
        rows = {row["name"]: row for row in result["rows"] if row["net"] == net}
        assert rows.keys() == {*peers, *(row.name for row in shapes.ROWS)}
        for row in rows.values():
            assert row.keys() == REQUIRED
            follows(row, rows)
        for row in shapes.ROWS:
            assert rows[row.name]["must"] == row.must
            if row.same_gradient:
                assert rows[row.name]["gradient_relative_error"] <= 1e-6
                assert rows[row.name]["gradient_relative_error_float32"] <= 2e-5


def test_time_to_a_level_is_that_of_the_first_evaluation_there():
    """Level: mean of the peer's last three, 0.5; it is there after 30 s, the recipe after 5 s: a ratio of 6."""
    curves = importlib.import_module("diffusion_rl.curves")
    peer = {"method": curves.PEER, "seed": 0, "cpu_seconds": [0, 10, 20, 30], "reward": [0.1, 0.4, 0.4, 0.7]}
    own = {"method": "awm", "seed": 0, "cpu_seconds": [0, 5, 10], "reward": [0.1, 0.6, 0.3]}
    never = {"method": "mixgrpo", "seed": 0, "cpu_seconds": [0, 5], "reward": [0.1, 0.2]}
    found = curves.verdict([peer, own, never])
    assert found["level"] == {0: pytest.approx(0.5)}
    assert found["seconds_to_level"] == {curves.PEER: {0: 30}, "awm": {0: 5}, "mixgrpo": {0: None}}
    assert found["ratio"] == {"awm": [6.0], "mixgrpo": []}


def test_curves_begin_before_the_first_rollout_and_count_seconds_of_training(script):
    """A trial without pretraining."""
    curves = importlib.import_module("diffusion_rl.curves")
    arguments = "--curves --small --seeds 3 --updates 2 --every 1 --captions 2 --recipes mixgrpo"
    *_, (rows, verdict) = curves.compare(script.parse(arguments.split()), lambda line: None)
    assert [(row["method"], row["seed"], row["rollouts"]) for row in rows] == [
        (curves.PEER, 3, [0, 1, 2]),
        ("mixgrpo", 3, [0, 1, 2]),
    ]
    for row in rows:
        start, first, second = row["cpu_seconds"]
        assert start == 0 < first < second
        assert all(0 <= value <= 1 for value in row["reward"])
    assert verdict.keys() == {"level", "seconds_to_level", "ratio"}


@pytest.mark.skipif(not CURVES.exists(), reason="no curves are committed")
def test_the_committed_verdict_follows_from_the_committed_curves():
    curves = importlib.import_module("diffusion_rl.curves")
    result = json.loads(CURVES.read_text(encoding="utf-8"))
    again = json.loads(json.dumps(curves.verdict(result["rows"])))
    assert {name: result[name] for name in again} == again
    assert len({row["seed"] for row in result["rows"]}) >= 3
