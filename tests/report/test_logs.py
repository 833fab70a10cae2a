import io
import json
import math

import pytest
import torch
from rich.console import Console as Terminal

import scripted
from saccade.core.batch import pack
from saccade.core.config import overlay
from saccade.core.policy import LocalActor, Sampling
from saccade.core.state import Progress
from saccade.learn.loop import Run, fresh_state, train
from saccade.report.log import Console, MetricsLog, OnlyIn, RolloutLog, TensorBoardLog, line, read_log
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score


def recipe(steps=4):
    return overlay(scripted.corners(), {"train.steps": steps, "stages": {"warm_up": None}})


@pytest.fixture
def state():
    chosen = recipe()
    return fresh_state(chosen, chosen.policy.build(torch.device("cpu")), torch.device("cpu"))


@pytest.fixture
def batch(state):
    chosen = recipe()
    tasks = list(chosen.env.tasks)[:2]
    groups = rollout(LocalActor(state.policy), chosen.env, tasks, group_size=2, sampling=Sampling(), seeds=[0, 1])
    score(groups, chosen.rewards)
    return pack(groups, chosen.reward_weight(Progress()))


def write(log, state, steps):
    for step in steps:
        state.step = step
        log.step(state, None, {"reward": step / 10, "kl/kl": 0.5}, {"step": 0.1, "rollout": 0.05})


def test_a_line_has_sorted_keys_and_null_for_what_is_no_number():
    assert line(3, {"b": 1.0, "a": math.nan, "c": math.inf}) == '{"a": null, "b": 1.0, "c": null, "step": 3}\n'


def test_times_are_kept_out_of_the_metrics(tmp_path, state):
    log = MetricsLog(tmp_path)
    log.start(state, None)
    write(log, state, [1])
    log.evaluation(1, {"iou": 0.5, "iou/stderr": math.nan})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
        '{"kl/kl": 0.5, "reward": 0.1, "step": 1}',
        '{"eval/iou": 0.5, "eval/iou/stderr": null, "step": 1}',
    ]
    assert (tmp_path / "timing.jsonl").read_text() == '{"seconds/rollout": 0.05, "seconds/step": 0.1, "step": 1}\n'


def test_a_resumed_log_is_cut_after_the_checkpoints_step(tmp_path, state):
    """Steps 1 to 5 and an evaluation after 3 were written; the checkpoint is of step 3."""
    log = MetricsLog(tmp_path)
    log.start(state, None)
    write(log, state, [1, 2, 3])
    log.evaluation(3, {"iou": 0.5})
    whole = log.path.read_bytes()
    write(log, state, [4, 5])
    with log.path.open("a") as file:
        file.write('{"reward": 0.6, "st')
    state.step = 3
    MetricsLog(tmp_path).start(state, None)
    assert log.path.read_bytes() == whole
    assert len(log.times.read_bytes().splitlines()) == 3


def test_half_a_line_is_dropped_even_where_it_belongs_to_a_kept_step(tmp_path, state):
    log = MetricsLog(tmp_path)
    log.start(state, None)
    write(log, state, [1])
    whole = log.path.read_bytes()
    with log.path.open("a") as file:
        file.write('{"eval/iou": 0.5, "step": 1}')
    assert len(read_log(log.path)) == 1
    state.step = 1
    log.start(state, None)
    assert log.path.read_bytes() == whole


def test_a_run_that_starts_anew_starts_an_empty_log(tmp_path, state):
    log = MetricsLog(tmp_path)
    log.start(state, None)
    log.evaluation(0, {"iou": 0.5})
    write(log, state, [1, 2])
    state.step = 0
    log.start(state, None)
    assert log.path.read_bytes() == b""


def test_null_is_read_as_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, {"a": math.nan, "b": 2.0}))
    (record,) = read_log(path)
    assert math.isnan(record["a"]) and record["b"] == 2.0
    assert read_log(tmp_path / "none.jsonl") == []


def test_the_console_shows_reward_kl_length_speed_and_time_left(state, batch):
    """Four samples in 0.5 s are 8 samples/s; 3 of 4 steps are left: 1.5 s, which is 0:02."""
    out = io.StringIO()
    with Console(lambda one: "corners", Terminal(file=out, width=200)) as console:
        console.start(state, None)
        state.step = 1
        record = {"reward": 0.25, "reward/box": 0.25, "loss/kl": 9.0, "kl/kl": 0.0123, "actions": 2.0}
        console.step(state, batch, record, {"step": 0.5})
        console.finish(state)
    assert out.getvalue() == "corners 1/4  reward 0.25  KL 0.0123  length 2  8 samples/s  ETA 0:02\n"


def test_the_console_shows_the_loss_where_nothing_is_rewarded(state, batch):
    out = io.StringIO()
    with Console(lambda one: "warm_up", Terminal(file=out, width=200)) as console:
        console.start(state, None)
        state.step = 4
        console.step(state, batch, {"reward": 0.0, "loss/total": 1.5, "actions": 2.0}, {"step": 0.5})
    assert out.getvalue() == "warm_up 4/4  loss 1.5  length 2  8 samples/s  ETA 0:00\n"


def test_the_console_draws_a_bar_on_a_terminal(state, batch):
    out = io.StringIO()
    with Console(lambda one: "corners", Terminal(file=out, width=200, force_terminal=True)) as console:
        console.start(state, None)
        state.step = 4
        console.step(state, batch, {"reward": 0.25, "reward/box": 0.25, "actions": 2.0}, {"step": 0.5})
    assert "━" in out.getvalue() and "4/4" in out.getvalue() and "reward 0.25" in out.getvalue()


class Counter:
    def __init__(self):
        self.seen = []

    def start(self, state, recipe):
        self.seen.append("start")

    def step(self, state, batch, record, seconds):
        self.seen.append(state.step)

    def finish(self, state):
        self.seen.append("finish")


def test_only_in_hides_the_runs_of_other_recipes():
    first, second = recipe(steps=2), recipe(steps=2)
    counter = Counter()
    observer = OnlyIn(second, counter)
    policy = train(first, Run(observers=[observer])).policy
    assert counter.seen == []
    train(second, Run(observers=[observer]), policy=policy)
    assert counter.seen == ["start", 1, 2, "finish"]


def test_rollouts_are_kept_every_so_often_and_at_the_end(tmp_path):
    chosen = recipe(steps=5)
    train(chosen, Run(observers=[RolloutLog(tmp_path, every=2, keep=3)]))
    kept = sorted(path.name for path in (tmp_path / "rollouts").glob("*.json"))
    assert kept == ["step-000002.json", "step-000004.json", "step-000005.json"]
    groups = json.loads((tmp_path / "rollouts" / kept[0]).read_text())
    assert [len(group["rollouts"]) for group in groups] == [4, 4, 4]
    rollouts = groups[0]["rollouts"]
    assert sum(one["advantage"] for one in rollouts) == pytest.approx(0.0, abs=1e-4)
    assert {name: one["weight"] for name, one in rollouts[0]["scores"].items()} == {"box": 1.0, "sure": 0.0}


def test_rollouts_after_the_checkpoint_are_forgotten(tmp_path, state):
    log = RolloutLog(tmp_path)
    for name in ("step-000002.json", "step-000004.json", "before.json"):
        (tmp_path / "rollouts").mkdir(exist_ok=True)
        (tmp_path / "rollouts" / name).write_text("[]")
    state.step = 2
    log.start(state, None)
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == ["before.json", "step-000002.json"]


def test_tensorboard_gets_every_number_of_the_metrics_once(tmp_path, state, batch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics, board = MetricsLog(tmp_path), TensorBoardLog(tmp_path)
    metrics.start(state, None)
    metrics.evaluation(0, {"iou": 0.5, "iou/stderr": math.nan})
    board.start(state, None)
    for step in (1, 2):
        write(metrics, state, [step])
        board.step(state, batch, {}, {})
    board.finish(state)

    board = TensorBoardLog(tmp_path)
    metrics.start(state, None)
    board.start(state, None)
    write(metrics, state, [3])
    board.finish(state)

    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {"eval/iou", "reward", "kl/kl"}
    assert [(e.step, round(e.value, 6)) for e in found.Scalars("reward")] == [(1, 0.1), (2, 0.2), (3, 0.3)]
