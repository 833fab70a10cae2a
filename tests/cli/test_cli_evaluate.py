"""``saccade evaluate``: runs, models and given outputs; benchmarks, comparison, the cache, mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import scripted
from saccade.core.content import text_of
from saccade.core.reward import SampleReward
from saccade.evaluate.benchmark import benchmark_classes
from saccade.evaluate.result import Result
from saccade.evaluate.samples import Mean

TESTS = Path(__file__).parent.parent
SLOW = """
import sys, time
import scripted
from saccade.cli import main

score = scripted.RightBox.score
scripted.RightBox.score = lambda self, trajectory: (time.sleep(0.01), score(self, trajectory))[1]
sys.exit(main())
"""
FEW = ("--train.steps", "4")
HELD_OUT = Path("here/evaluations/held-out")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluations"


def miniature(name: str, folder: Path, n: int = 8) -> str:
    """A benchmark's files in small."""
    folder.mkdir(parents=True)
    benchmark_classes()[name].write_miniature(folder, n)
    return str(folder)


def timeless(path: Path) -> str:
    """A report without the lines that depend on the clock."""
    clock = ('"seconds"', '"rollouts_per_second"', '"tokens_per_second"')
    return "".join(line for line in path.read_text().splitlines(True) if not line.strip().startswith(clock))


def test_training_leaves_its_first_and_last_evaluation_as_results(saccade):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    assert sorted(path.name for path in HELD_OUT.iterdir()) == ["step-000000", "step-000004"]
    change = json.loads(Path("here/comparison.json").read_text())
    for step, moment in ((0, "before"), (4, "after")):
        folder = HELD_OUT / f"step-{step:06d}"
        found = Result.load(folder)
        assert (found.of["run"], found.of["name"], found.of["step"]) == ("here", "corners", step)
        assert (found.tasks, found.n, found.seed, len(found.of["weights"])) == (12, 1, 0, 64)
        assert found.metrics["box"].estimate.value == change["box"][moment]["value"]
        assert len(found.rows["box"]) == 12 and found.metrics["box"].tier == "sample"
        assert json.loads((folder / "rollouts.json").read_text()) == json.loads(
            Path(f"here/rollouts/{moment}.json").read_text()
        )
        assert list((folder / "images").glob("*.png"))
    first, last = (Result.load(HELD_OUT / f"step-00000{step}").of["weights"] for step in (0, 4))
    assert first != last


def test_evaluation_of_a_run_finds_what_training_found(saccade):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    trained = timeless(HELD_OUT / "step-000004/report.json"), (HELD_OUT / "step-000004/rows.jsonl").read_bytes()
    done = saccade("evaluate", "here", "--fresh")
    assert done.code == 0, done.err
    assert str(HELD_OUT / "step-000004/report.json") in done.out
    again = timeless(HELD_OUT / "step-000004/report.json"), (HELD_OUT / "step-000004/rows.jsonl").read_bytes()
    assert trained == again


def test_other_settings_do_not_overwrite_what_training_found(saccade):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    before = (HELD_OUT / "step-000004/report.json").read_bytes()
    for words in (("--limit", "5"), ("--evaluation.n", "2")):
        assert saccade("evaluate", "here", *words).code == 0
    assert (HELD_OUT / "step-000004/report.json").read_bytes() == before
    others = {path.name: Result.load(path / "step-000004") for path in HELD_OUT.parent.glob("held-out-*")}
    assert sorted((one.tasks, one.n) for one in others.values()) == [(5, 1), (12, 2)]
    assert saccade("evaluate", "here", "--limit", "6", "--out", "elsewhere").code == 0
    assert Result.load(Path("elsewhere")).tasks == 6


def test_rollouts_are_cached_and_scored_again(saccade, cache, monkeypatch):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    assert not cache.exists(), "weights change while they are trained: keeping rollouts would be of no use"
    assert saccade("evaluate", "here").code == 0
    assert len(list(cache.rglob("*.safetensors"))) == 1
    calls = []
    act = scripted.TablePolicy.act
    monkeypatch.setattr(
        scripted.TablePolicy, "act", lambda self, *words, **named: (calls.append(1), act(self, *words, **named))[1]
    )
    assert saccade("evaluate", "here", "--evaluation.metrics.sure", "None", "--out", "one").code == 0
    assert not calls and list(Result.load(Path("one")).metrics) == ["box", "reward/sure"]
    assert saccade("evaluate", "here", "--fresh").code == 0
    assert len(calls) == 1


def start(folder: Path, cache: Path, *words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "SACCADE_CACHE": str(cache)}
    command = [sys.executable, "-c", SLOW, *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(300)
def test_a_killed_evaluation_goes_on_to_the_same_bytes(saccade, tmp_path, monkeypatch):
    """300 tasks are five rounds; the process is killed when two are on disk, the others are made afterwards."""
    size = ("--env.tasks.count", "300", "--evaluation.limit", "300", "--evaluation.n", "2")
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "first"))
    assert saccade("train", "corners", *FEW, *size, "--out", "here").code == 0
    folder = tmp_path / HELD_OUT / "step-000004"
    assert saccade("evaluate", "here").code == 0
    whole = timeless(folder / "report.json"), (folder / "rows.jsonl").read_bytes()
    assert len(list((tmp_path / "first/evaluations").rglob("*.safetensors"))) == 5
    for name in ("report.json", "rows.jsonl", "rollouts.json"):
        (folder / name).unlink()

    second = tmp_path / "second" / "evaluations"
    process = start(tmp_path, tmp_path / "second", "evaluate", "here")
    deadline = time.monotonic() + 120
    while len(list(second.rglob("*.safetensors"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    done = len(list(second.rglob("*.safetensors")))
    assert 2 <= done < 5 and not (folder / "report.json").exists()

    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "second"))
    rounds = []
    act = scripted.TablePolicy.act
    monkeypatch.setattr(
        scripted.TablePolicy, "act", lambda self, *words, **named: (rounds.append(1), act(self, *words, **named))[1]
    )
    assert saccade("evaluate", "here").code == 0
    assert len(rounds) == 5 - done
    assert (timeless(folder / "report.json"), (folder / "rows.jsonl").read_bytes()) == whole


def test_a_run_is_compared_with_its_own_start(saccade):
    assert saccade("train", "corners", "--out", "here").code == 0
    done = saccade("evaluate", "here", "--against", "here")
    assert done.code == 0, done.err
    head, box = (next(row for row in done.out.splitlines() if row.startswith(key)) for key in ("held-out", "box"))
    assert head.split() == ["held-out", "metric", "before", "after", "difference", "p", "rose", "fell"]
    found = Result.load(HELD_OUT / "step-000012")
    assert found.against is not None and found.against["of"]["step"] == 0
    test = found.against["tests"]["box"]
    before, after = (Result.load(HELD_OUT / f"step-0000{step}").values("box") for step in ("00", "12"))
    rose = [a.task for a, b in zip(after, before, strict=True) if a.value > b.value]
    assert (test["rose"], test["fell"], test["n"]) == (len(rose), 0, 12)
    assert [item["task"] for item in test["discordant"]] == sorted(rose)
    assert test["p_mcnemar"] == pytest.approx(2 * 0.5 ** len(rose))
    assert test["p_holm"] >= test["p_permutation"] and test["difference"] == pytest.approx(len(rose) / 12)
    assert f"{len(rose)}" in box.split()


def test_an_interrupted_evaluation_says_how_to_go_on(saccade, monkeypatch):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0

    def interrupted(self, trajectory):
        raise KeyboardInterrupt

    monkeypatch.setattr(scripted.RightBox, "score", interrupted)
    done = saccade("evaluate", "here")
    assert (done.code, done.err) == (130, "\nsaccade: stopped; the same command goes on where it was\n")


def test_settings_of_the_policy_count_in_an_evaluation(saccade, cache):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    assert saccade("evaluate", "here").code == 0
    assert saccade("evaluate", "here", "--policy.note", "another description of the same network").code == 0
    assert len(list(cache.rglob("*.safetensors"))) == 2


def test_two_runs_are_compared_and_unequal_ones_refused_before_anything_is_rolled_out(saccade, monkeypatch):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    assert saccade("train", "corners", *FEW, "--train.lr", "0.1", "--out", "there").code == 0
    assert saccade("evaluate", "here", "--against", "there").code == 0
    assert saccade("evaluate", "here", "--against", "there/evaluations/held-out/step-000000").code == 0
    assert saccade("train", "corners", *FEW, "--train.seed", "1", "--out", "other").code == 0
    assert saccade("train", "corners", *FEW, "--shift", "1", "--out", "shifted").code == 0

    def refuses(*words, **named):
        raise AssertionError("rolled out")

    with monkeypatch.context() as patch:
        patch.setattr(scripted.TablePolicy, "act", refuses)
        for words, told in [
            (("--against", "other"), "cannot be compared: seed is 1 and 0"),
            (("--against", "there", "--evaluation.n", "2"), "cannot be compared: n is 1 and 2"),
            (("--against", "there", "--evaluation.sampling.temperature", "0.5"), "cannot be compared: sampling is"),
            (("--against", "nowhere"), "nowhere holds no result of held-out; evaluate it first"),
        ]:
            done = saccade("evaluate", "here", *words)
            assert (done.code, done.out) == (2, "") and told in done.err and done.err.count("\n") == 1
    for path in (HELD_OUT / "step-000004", Path("shifted/evaluations/held-out/step-000004")):
        rows = (path / "rows.jsonl").read_text()
        if "shifted" in str(path):
            (path / "rows.jsonl").write_text(rows.replace("corners-", "others-"))
    done = saccade("evaluate", "here", "--against", "shifted")
    assert (done.code, done.out) == (2, "") and "they have no task in common" in done.err


def test_threads_change_nothing(saccade):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    one = timeless(HELD_OUT / "step-000004/report.json")
    assert saccade("evaluate", "here", "--workers", "3").code == 0
    assert timeless(HELD_OUT / "step-000004/report.json") == one


def test_a_run_is_evaluated_on_benchmarks(saccade, tmp_path):
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    miniature("screenspot_v2", tmp_path / "data/screenspot_v2")
    miniature("screenspot", tmp_path / "data/screenspot")
    done = saccade(
        "evaluate", "here", "--suite", "screenspot_v2", "held-out", "--suite", "screenspot", "--data", "data"
    )
    assert done.code == 0, done.err
    found = {path.name for path in Path("here/evaluations").iterdir()}
    assert found == {"held-out", "screenspot", "screenspot_v2"}
    result = Result.load(Path("here/evaluations/screenspot_v2/step-000004"))
    assert (result.suite, result.tasks, result.n) == ("screenspot_v2", 8, 1)
    assert result.settings["data"] == "data/screenspot_v2"
    assert "mobile text" in result.categories["accuracy"] and "mobile text" in done.out
    shown = json.loads(Path("here/evaluations/screenspot_v2/step-000004/rollouts.json").read_text())
    assert shown[0]["rollouts"][0]["scores"]["score"]["value"] == 0.0
    words = ("--suite", "screenspot_v2", "--data", "data/screenspot_v2")
    assert saccade("evaluate", "here", *words, "--suite.units", "thousandths").code == 0
    assert len(list(Path("here/evaluations").glob("screenspot_v2-*"))) == 1
    assert saccade("evaluate", "here", *words, "--against", "here").code == 2, "it has one result, its own"


def gold(name: str, folder: str) -> list[dict[str, str]]:
    """The miniature's own solutions as predictions."""
    return [{"id": task.id, "output": text_of(task.gold[0])} for task in benchmark_classes()[name](data=folder)]


def compared(folder: str | Path) -> dict[str, Any]:
    """Paired tests of a result."""
    against = Result.load(Path(folder)).against
    assert against is not None
    return against["tests"]


def write(rows, path="mine.jsonl"):
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    Path(path).write_bytes(text.encode(errors="surrogateescape"))


def test_given_outputs_are_scored_by_the_official_rule_without_a_model(saccade, tmp_path):
    data = miniature("screenspot_v2", tmp_path / "data")
    rows = gold("screenspot_v2", data)
    rows[2]["output"] = "nowhere"
    write(rows)
    words = ("--suite", "screenspot_v2", "--data", data, "--predictions", "mine.jsonl")
    done = saccade("evaluate", *words)
    assert done.code == 0, done.err
    found = Result.load(Path("evaluations/mine/screenspot_v2"))
    assert found.metrics["accuracy"].estimate.value == 7 / 8
    assert (found.of["predictions"], found.sampling, found.tokens_per_second) == ("mine.jsonl", {}, None)
    write([*rows, *gold("screenspot_v2", data)], "twice.jsonl")
    assert saccade("evaluate", *words[:4], "--predictions", "twice.jsonl", "--out", "two").code == 0
    both = Result.load(Path("two"))
    assert (both.n, both.tasks, both.metrics["accuracy"].estimate.value) == (2, 8, 15 / 16)
    done = saccade("evaluate", *words, "--against", "two")
    assert done.code == 2 and "cannot be compared: n is 2 and 1" in done.err
    write(gold("screenspot_v2", data), "right.jsonl")
    assert saccade("evaluate", *words[:4], "--predictions", "right.jsonl", "--against", str(found_at())).code == 0
    test = compared("evaluations/right/screenspot_v2")["accuracy"]
    assert [(d["before"], d["after"]) for d in test["discordant"]] == [(0.0, 1.0)]


def found_at() -> Path:
    return Path("evaluations/mine/screenspot_v2")


def test_records_of_a_simulator_are_given_and_never_a_policys_own_word(saccade, tmp_path):
    """Whatever can be said can be claimed: a policy that answers {"success": true} has not moved an arm."""
    pytest.importorskip("h5py", reason="h5py is not installed (saccade[benchmarks])")
    data = miniature("libero", tmp_path / "data")
    assert saccade("train", "corners", *FEW, "--out", "here").code == 0
    for subject in ("here", "org/model"):
        done = saccade("evaluate", subject, "--suite", "libero", "--data", data)
        assert done.code == 2 and "libero scores what a simulator recorded" in done.err and done.err.count("\n") == 1
    tasks = [task.id for task in benchmark_classes()["libero"](data=data)]
    write([{"id": task, "output": {"success": k > 1}} for k, task in enumerate(tasks)])
    done = saccade("evaluate", "--suite", "libero", "--data", data, "--predictions", "mine.jsonl", "--out", "found")
    assert done.code == 0, done.err
    assert Result.load(Path("found")).metrics["success"].estimate.value == (len(tasks) - 2) / len(tasks)


def test_the_first_tasks_alone_need_outputs_for_these_alone(saccade, tmp_path):
    data = miniature("screenspot_v2", tmp_path / "data")
    write(gold("screenspot_v2", data)[:3])
    words = ("--suite", "screenspot_v2", "--data", data, "--predictions", "mine.jsonl")
    assert "found no output for 5 of 8 tasks" in saccade("evaluate", *words).err
    done = saccade("evaluate", *words, "--limit", "3", "--out", "three")
    assert done.code == 0 and Result.load(Path("three")).tasks == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: ["{nope\n", *rows], "mine.jsonl: row 1: row: found no JSON"),
        (lambda rows: ["[" * 100_000], "mine.jsonl: row 1: row: found no JSON"),
        (lambda rows: ["\udcff"], "mine.jsonl: row 1: row: found no JSON"),
        (lambda rows: [rows[0], "[1]\n"], "mine.jsonl: row 2: row: found [1], expected an object like"),
        (lambda rows: [{"output": "x"}], "mine.jsonl: row 1: id: found null, expected the id of a task"),
        (lambda rows: [{"id": True, "output": "x"}], "mine.jsonl: row 1: id: found True"),
        (lambda rows: ["\n", {"id": "a", "output": 3}], "mine.jsonl: row 2: output: found 3, expected text"),
        (lambda rows: [], "mine.jsonl: found no rows"),
        (lambda rows: [*rows, {"id": "mobile-11", "output": ""}], "has no task 'mobile-11'; did you mean 'mobile-1'?"),
        (lambda rows: rows[1:], "found no output for 1 of 8 tasks, the first is 'mobile-1'"),
        (lambda rows: [*rows, rows[3]], "found 2 outputs for task"),
    ],
)
def test_bad_predictions_are_one_line_with_file_row_and_field(saccade, tmp_path, change, told):
    data = miniature("screenspot_v2", tmp_path / "data")
    write(change(gold("screenspot_v2", data)))
    done = saccade("evaluate", "--suite", "screenspot_v2", "--data", data, "--predictions", "mine.jsonl")
    assert (done.code, done.out) == (2, "") and told in done.err and done.err.count("\n") == 1
    assert not Path("evaluations").exists()


def test_pictures_are_predictions_of_drawing_models(tmp_path):
    from saccade.cli.predictions import read_predictions
    from saccade.core.errors import DataError

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    (tmp_path / "drawn").mkdir()
    PIL.Image.fromarray(pixels).save(tmp_path / "drawn/a.png")
    frames = [PIL.Image.fromarray(np.full((4, 4, 3), shade, np.uint8)) for shade in (0, 255)]
    frames[0].save(tmp_path / "drawn/b.gif", save_all=True, append_images=frames[1:], duration=100)
    write([{"id": 0, "output": "drawn/a.png"}, {"id": "1", "output": "drawn/b.gif"}], tmp_path / "mine.jsonl")
    found: Any = read_predictions(tmp_path / "mine.jsonl", "generation")
    assert np.array_equal(found["0"][0].decoded().pixels, pixels)
    assert found["1"][0].decoded().frames.shape == (2, 4, 4, 3)
    write([{"id": "0", "output": "drawn/c.png"}], tmp_path / "mine.jsonl")
    with pytest.raises(DataError, match=r"mine.jsonl: row 1: output: found no file .* expected a picture that exists"):
        read_predictions(tmp_path / "mine.jsonl", "generation")


WRONG = {
    "no run": (["evaluate"], "which run? give its folder, such as runs/grpo-1"),
    "no such run": (["evaluate", "nowhere"], "nowhere holds no run: there is no config.yaml; to evaluate a model name"),
    "no such model": (
        ["evaluate", "no where", "--suite", "mmstar", "--data", "data"],
        "no where is neither a run's folder, nor a model's, nor a name on the hub",
    ),
    "empty folder": (["evaluate", "empty", "--suite", "mmstar", "--data", "data"], "empty holds neither a run (config"),
    "no such suite": (["evaluate", "here", "--suite", "mmstarr"], "there is no benchmark 'mmstarr'; known: "),
    "no such data": (["evaluate", "here", "--suite", "mmstar", "--data", "gone"], "gone: found no such folder"),
    "data of nothing": (["evaluate", "here", "--data", "data"], "--data is of a benchmark; name it with --suite"),
    "settings of nothing": (["evaluate", "here", "--suite.units", "x"], "--suite.units is of a benchmark; name it"),
    "unknown setting of a suite": (
        ["evaluate", "here", "--suite", "mmstar", "--data", "data", "--suite.unit", "x"],
        "there is no option --unit",
    ),
    "part": (["evaluate", "here", "--suite", "mmstar", "--data", "data", "--part", "x"], "part must be one of val of"),
    "limit": (["evaluate", "here", "--limit", "0"], "--limit must be >= 1, got 0"),
    "workers": (["evaluate", "here", "--workers", "0"], "--workers must be >= 1, got 0"),
    "held-out tasks of a model": (
        ["evaluate", "org/model", "--suite", "mmstar", "held-out", "--data", "data"],
        "org/model is no run: it has no held-out tasks of its own",
    ),
    "unknown setting of a model": (
        ["evaluate", "org/model", "--suite", "mmstar", "--data", "data", "--train.lr", "1"],
        "there is no option --train.lr",
    ),
    "predictions of a run": (
        ["evaluate", "here", "--suite", "mmstar", "--data", "data", "--predictions", "x"],
        "--predictions are scored without a model; leave out here",
    ),
    "predictions of nothing": (["evaluate", "--predictions", "x"], "--predictions are of one benchmark; name it with"),
    "no predictions": (
        ["evaluate", "--suite", "mmstar", "--data", "data", "--predictions", "none.jsonl"],
        "none.jsonl: No such file or directory",
    ),
    "model not in the cache of the hub": (
        ["evaluate", "org/model", "--suite", "mmstar", "--data", "data"],
        "policy.model 'org/model': its configuration cannot be loaded",
    ),
    "pillars": (
        ["evaluate", "org/model", "--suite", "mmstar", "geneval", "--data", "both"],
        "whether org/model draws or answers is told by its suites; name suites of one kind",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    miniature("mmstar", folder / "data")
    miniature("mmstar", folder / "both/mmstar")
    miniature("geneval", folder / "both/geneval")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(saccade, monkeypatch, prepared, case):
    monkeypatch.chdir(prepared)
    if not Path("here").exists():
        assert saccade("train", "corners", "--train.steps", "1", "--out", "here").code == 0
    before = sorted(Path().rglob("*"))
    words, message = WRONG[case]
    done = saccade(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"saccade: error: {message}") and done.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_benchmarks_are_listed_in_words_and_as_json(saccade):
    done = saccade("list", "--benchmarks")
    assert done.code == 0, done.err
    entries = json.loads(saccade("list", "--benchmarks", "--json").out)
    assert [entry["name"] for entry in entries] == sorted(benchmark_classes())
    for entry in entries:
        assert all(entry[key] for key in ("title", "pillar", "paper", "parts", "rule_in_words", "source"))
        assert entry["name"] in done.out and entry["rule_in_words"] in done.out
    vla = json.loads(saccade("list", "vla", "--benchmarks", "--json").out)
    assert {entry["pillar"] for entry in vla} == {"vla"}


ANSWERS = ("--evaluation.sampling.max_actions", "4", "--limit", "3")


def test_a_checkpoint_of_transformers_is_evaluated(saccade, tmp_path, cache):
    pytest.importorskip("transformers", reason="transformers is not installed (saccade[vlm])")
    from policies.hf.checkpoints import build

    build("qwen2_5_vl", tmp_path / "models/small")
    data = miniature("mmstar", tmp_path / "data")
    words = ("evaluate", "models/small", "--suite", "mmstar", "--data", data, *ANSWERS)
    done = saccade(*words, "--out", "found")
    assert done.code == 0, done.err
    found = Result.load(Path("found"))
    assert (found.of["model"], found.of["name"], found.tasks) == ("models/small", "small", 3)
    assert found.of["policy"]["class"].endswith("HFVisionLanguage") and found.sampling["max_actions"] == 4
    assert {"accuracy", "accuracy_any", "score"} <= set(found.metrics) and found.tokens_per_second is not None
    assert len(list(cache.rglob("*.safetensors"))) == 1
    assert saccade(*words).code == 0
    (folder,) = Path("evaluations/small").iterdir()
    assert folder.name.startswith("mmstar-") and timeless(folder / "report.json") == timeless(Path("found/report.json"))
    assert len(list(cache.rglob("*.safetensors"))) == 1
    assert saccade(*words, "--seed", "7", "--out", "seven").code == 0
    assert Result.load(Path("seven")).seed == 7
    done = saccade(*words, "--against", "found", "--out", "again")
    assert done.code == 0, done.err
    assert compared("again")["score"]["difference"] == 0.0


@dataclass(frozen=True, kw_only=True)
class Bright(SampleReward):
    """Mean of the pixels: GenEval's detector is not there."""

    def score(self, trajectory):
        assert trajectory.image is not None
        return float(trajectory.image.pixels.mean()) / 255


def test_a_pipeline_of_diffusers_draws_and_its_pictures_can_be_given_again(saccade, prepared, monkeypatch):
    pytest.importorskip("diffusers", reason="diffusers is not installed (saccade[generation])")
    from policies.denoise.hub.pipelines import build

    geneval = benchmark_classes()["geneval"]
    monkeypatch.setattr(geneval, "rule", property(lambda self: Bright()))
    monkeypatch.setattr(geneval, "metrics", lambda self: {"bright": Mean(Bright())})
    build("sd1", Path("sd"))
    words = ("--suite", "geneval", "--data", str(prepared / "both/geneval"), "--limit", "2")
    done = saccade("evaluate", "sd", *words, "--policy.eval_steps", "2", "--evaluation.n", "2", "--out", "found")
    assert done.code == 0, done.err
    found = Result.load(Path("found"))
    assert (found.of["policy"]["eval_steps"], found.of["policy"]["guidance"]) == (2, 5.0)
    assert list(found.metrics) == ["bright"] and len(found.rows["bright"]) == 4

    shown = json.loads(Path("found/rollouts.json").read_text())
    drawn = [(one["task"], r["turns"][0]["output"][0]["image"]) for one in shown for r in one["rollouts"]]
    write([{"id": task, "output": f"found/images/{name}.png"} for task, name in drawn])
    done = saccade("evaluate", *words, "--predictions", "mine.jsonl", "--out", "again", "--against", "found")
    assert done.code == 0, done.err
    again = Result.load(Path("again"))
    assert again.rows == found.rows and compared("again")["bright"]["discordant"] == []


def test_sets_of_pictures_are_compared_with_a_folder_in_the_features_of_a_named_network(saccade, tmp_path, monkeypatch):
    """40 pictures against themselves are at distance 0; without a folder there are numbers that need none."""
    from evaluate.picture_cases import Corners
    from saccade.rewards import features

    geneval = benchmark_classes()["geneval"]
    monkeypatch.setattr(geneval, "rule", property(lambda self: Bright()))
    monkeypatch.setattr(geneval, "metrics", lambda self: {"bright": Mean(Bright())})
    monkeypatch.setattr(features, "NAMED", {**features.NAMED, "inception": lambda model: Corners()})
    data = miniature("geneval", tmp_path / "data", 40)
    random = np.random.default_rng(0)
    Path("real").mkdir()
    lines = []
    for i, task in enumerate(benchmark_classes()["geneval"](data).ids):
        PIL.Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(f"real/{i:02d}.png")
        lines.append({"id": task, "output": f"real/{i:02d}.png"})
    write(lines)
    words = ("evaluate", "--suite", "geneval", "--data", data, "--predictions", "mine.jsonl", "--out", "found")
    done = saccade(*words, "--features", "inception", "--reference", "real")
    assert done.code == 0, done.err
    metrics = Result.load(Path("found")).metrics
    assert metrics["Frechet distance [corners]"].estimate.value == pytest.approx(0, abs=1e-6)
    assert metrics["coverage [corners]"].estimate.value == 1
    assert metrics["precision [corners]"].identity["reference"] == "PictureFolder"
    assert {metrics[name].tier for name in metrics if "corners" in name} == {"set"}
    assert set(metrics["kernel distance [corners]"].details) and not metrics["bright"].details
    assert "Vendi score [corners]" in done.out
    assert saccade(*words, "--features", "inception").code == 0
    assert [name for name in Result.load(Path("found")).metrics if "corners" in name] == ["Vendi score [corners]"]

    for wrong, said in {
        ("--features", "vgg"): "features must be inception, efficientnet, clip:MODEL or dino:MODEL, got 'vgg'",
        ("--features", "clip"): "got 'clip'",
        ("--reference", "real"): "name one with --features",
        ("--features", "inception", "--reference", "none"): "none: found no such folder",
        ("--features", "inception", "--reference", "real", "--limit", "9"): "n must be >= 20, got 9",
    }.items():
        done = saccade(*words, *wrong)
        assert done.code == 2 and said in done.err and done.err.count("\n") == 1


def test_a_policy_of_saccades_own_is_read_from_its_folder(saccade, tmp_path):
    import torch

    from saccade.policies.token.tiny import TinyVLM

    policy = TinyVLM(width=32, layers=1, heads=2).build(torch.device("cpu"), seed=3)
    policy.save_pretrained(tmp_path / "own")
    data = miniature("screenspot", tmp_path / "data")
    done = saccade("evaluate", "own", "--suite", "screenspot", "--data", data, *ANSWERS, "--out", "found")
    assert done.code == 0, done.err
    from saccade.evaluate.store import weights_hash

    assert Result.load(Path("found")).of["weights"] == weights_hash(policy)
