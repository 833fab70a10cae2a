import json
from dataclasses import replace
from pathlib import Path

import pytest

from learn.test_loop import recipe
from letters import LetterGame, LetterTasks, RightLetters
from saccade import experiment
from saccade.core import config
from saccade.core.errors import CheckpointError, ConfigError
from saccade.evaluate.samples import Mean
from saccade.evaluate.states import KLDrift
from saccade.experiment import AblationRun
from saccade.feeds.demonstrations import Demonstrations
from saccade.objectives.regression import NLL
from saccade.recipe import Ablation, Entry, Evaluation, Recipe, Stage, Train

WARM_UP = Stage(
    feed=Demonstrations(),
    objective={"nll": NLL()},
    train=Train(steps=4, groups=4, group_size=1, lr=0.05),
    env=LetterGame(LetterTasks()),
    rewards={},
)


def whole(**changes) -> Recipe:
    base = recipe(
        env=LetterGame(LetterTasks()),
        stages={"warm_up": WARM_UP},
        evaluation=Evaluation(limit=10, n=4, metrics={"right": Mean(RightLetters()), "kl": KLDrift()}),
        ablation=Ablation(metric="right", without={"train.lr": 1e-6}, margin=0.0, seeds=(0, 1, 2)),
    )
    return replace(base, **changes)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stages"


def test_run_writes_what_is_needed_to_repeat_it(tmp_path, cache):
    outcome = experiment.run(whole(), tmp_path / "run", name="letters")
    assert config.dump(experiment.load_run(tmp_path / "run")) == config.dump(whole())
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["name"] == "letters"
    assert "torch" in facts["versions"]
    assert outcome.before.estimates["kl"].value == pytest.approx(0.0, abs=1e-7)
    assert outcome.after.estimates["kl"].value > 0
    assert outcome.state.step == 8


def test_stage_is_trained_once_and_shared_by_runs_that_agree_on_it(tmp_path, cache):
    experiment.run(whole(), tmp_path / "a", name="a")
    (stored,) = cache.iterdir()
    made = stored.stat().st_mtime_ns
    other = whole(objective={"nll": NLL()}, train=replace(whole().train, steps=2))
    experiment.run(other, tmp_path / "b", name="b")
    assert [p.stat().st_mtime_ns for p in cache.iterdir()] == [made]
    longer = whole(stages={"warm_up": replace(WARM_UP, train=replace(WARM_UP.train, steps=5))})
    experiment.run(longer, tmp_path / "c", name="c")
    assert len(list(cache.iterdir())) == 2


def test_cached_stage_gives_the_same_run_as_a_fresh_one(tmp_path, cache):
    first = experiment.run(whole(), tmp_path / "a", name="a")
    again = experiment.run(whole(), tmp_path / "b", name="b")
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()
    assert first.after.estimates == again.after.estimates


def test_folder_that_holds_a_run_is_not_overwritten(tmp_path, cache):
    experiment.run(whole(), tmp_path / "run", name="letters")
    with pytest.raises(ConfigError, match="holds a run already"):
        experiment.run(whole(), tmp_path / "run", name="letters")


def test_finished_run_can_be_resumed_and_says_the_same(tmp_path, cache):
    first = experiment.run(whole(), tmp_path / "run", name="letters")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = experiment.run(whole(), tmp_path / "run", name="letters", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert again.before.estimates == first.before.estimates
    assert again.after.estimates == first.after.estimates


def test_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no config\.yaml"):
        experiment.load_run(tmp_path)


def entry() -> Entry:
    return Entry("letters", lambda size: whole(), "none", "vlm", "Letters", "learning", "hardly learning", "none")


def test_ablation_says_what_the_mechanism_is_worth(tmp_path, cache):
    result = AblationRun(entry(), tmp_path / "arms", progress=lambda line: None)()
    keys = (
        "method", "pillar", "mechanism", "metric", "seeds", "with", "without", "difference", "stderr", "margin",
        "verdict", "command", "commit", "versions", "seconds", "note",
    )  # fmt: skip
    assert set(keys) <= result.keys()
    assert result["seeds"] == [0, 1, 2]
    gains = [a - b for a, b in zip(result["with"], result["without"], strict=True)]
    mean = sum(gains) / 3
    assert result["difference"] == pytest.approx(mean)
    assert result["stderr"] == pytest.approx((sum((g - mean) ** 2 for g in gains) / 2 / 3) ** 0.5)
    assert result["command"] == "saccade ablate letters"


def test_interrupted_ablation_goes_on_with_the_arm_it_was_at(tmp_path, cache):
    done: list[str] = []

    def stop(line: str) -> None:
        if not line.startswith(" "):
            done.append(line)
        if len(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AblationRun(entry(), tmp_path / "arms", progress=stop)()
    rest: list[str] = []
    result = AblationRun(entry(), tmp_path / "arms", progress=rest.append)()
    begun = [line for line in rest if not line.startswith(" ")]
    assert begun == [f"letters, {arm} the mechanism, seed {seed}" for arm, seed in
                     (("without", 1), ("with", 2), ("without", 2))]  # fmt: skip
    whole_result = AblationRun(entry(), tmp_path / "other", progress=lambda line: None)()
    assert result["with"] == whole_result["with"]
    assert result["without"] == whole_result["without"]


@pytest.mark.parametrize(
    ("gains", "margin", "verdict"),
    [
        ((0.30, 0.32, 0.34), 0.1, "holds"),
        ((0.30, 0.32, 0.34), 0.4, "inconclusive"),
        ((0.9, -0.5, 0.1), 0.0, "inconclusive"),
        ((-0.30, -0.32, -0.34), 0.0, "fails"),
        ((0.3,), 0.0, "inconclusive"),
    ],
)
def test_verdict_needs_two_standard_errors_and_the_margin(gains, margin, verdict):
    ablation = Ablation(metric="right", without={}, margin=margin)
    found = {"with": list(gains), "without": [0.0] * len(gains)}
    runner = AblationRun(entry(), Path("unused"))
    result = runner._verdict(ablation, range(len(gains)), found, {"with": [], "without": []}, [], 1.0)
    assert result["verdict"] == verdict


def test_lower_is_better_turns_the_sign():
    ablation = Ablation(metric="right", without={}, higher=False)
    found = {"with": [0.1, 0.1, 0.11], "without": [0.5, 0.5, 0.52]}
    runner = AblationRun(entry(), Path("unused"))
    result = runner._verdict(ablation, (0, 1, 2), found, {"with": [], "without": []}, [], 1.0)
    assert result["difference"] == pytest.approx(0.4033333)
    assert result["verdict"] == "holds"


def test_arms_differ_in_the_switched_settings_only():
    runner = AblationRun(entry(), Path("unused"), overrides={"train.groups": 3, "train.minibatches": 1})
    on, off = runner.recipe("with", 7), runner.recipe("without", 7)
    assert on.train.seed == off.train.seed == 7
    assert on.train.groups == 3
    assert config.dump(replace(off, train=replace(off.train, lr=on.train.lr))) == config.dump(on)
