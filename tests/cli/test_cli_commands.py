import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import scripted
from saccade.core.errors import DataError
from saccade.core.flags import settings

TESTS = Path(__file__).parent.parent
PROGRAM = """
import sys, time
import scripted
from saccade.cli import main

score = scripted.RightBox.score
scripted.RightBox.score = lambda self, trajectory: (time.sleep(0.004), score(self, trajectory))[1]
sys.exit(main())
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, slow enough to be killed in the middle."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_help_needs_neither_torch_nor_recipes():
    code = "import sys; from saccade.cli import main; main(['train', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("train", "-h"), ("ablate", "--help"), ("validate", "-h")])
def test_help_is_there_at_every_level(saccade, words):
    done = saccade(*words)
    assert done.code == 0
    assert done.out.startswith("usage: saccade")


def test_version_is_printed(saccade):
    assert saccade("--version").out.startswith("saccade 0.")


def test_help_of_a_recipe_names_every_setting_its_value_and_meaning(saccade):
    done = saccade("train", "corners", "--help")
    assert done.code == 0
    for setting in settings(scripted.corners()):
        if setting.value is not None:
            assert f"  --{setting.path} {setting.kind} = {setting.value}" in done.out
        elif setting.kind:
            assert f"  --{setting.path}.class = {setting.kind}" in done.out
    text = " ".join(done.out.split())
    assert "--train.steps INT = 12 Batches of rollouts (or of data) to learn from." in text
    assert "--rewards.box.accepted STR... = box Tags that a box may stand in." in text
    assert "--model STR" in text and "--shift INT (default 0)" in text


def test_list_shows_recipes_by_pillar_and_as_json(saccade):
    assert "corners" in saccade("list", "vlm").out
    assert "corners" not in saccade("list", "vla").out
    entries = {entry["name"]: entry for entry in json.loads(saccade("list", "--json").out)}
    assert entries["corners"]["mechanism"] == "rewards are compared within the group."


def test_show_prints_yaml_with_the_documentation_as_comments(saccade):
    done = saccade("show", "corners", "--train.steps", "3", "--objective.kl", "None", "--shift", "2")
    assert done.out.startswith("# corners · no paper\n#\n# A recipe that trains in a second")
    plain = yaml.safe_load(done.out)
    assert (plain["train"]["steps"], list(plain["objective"]), plain["env"]["tasks"]["first"]) == (3, ["pg"], 8)


def test_settings_override_the_file_and_the_file_overrides_the_recipe(saccade):
    Path("mine.yaml").write_text("train: {steps: 2, groups: 3}\nrewards.box.weight: 0.5\n")
    done = saccade("train", "corners", "--config", "mine.yaml", "--train.groups", "2", "--out", "here")
    assert done.code == 0
    plain = yaml.safe_load(Path("here/config.yaml").read_text())
    assert (plain["train"]["steps"], plain["train"]["groups"], plain["rewards"]["box"]["weight"]) == (2, 2, 0.5)


def test_train_leaves_everything_that_a_run_needs_and_prints_what_changed(saccade):
    done = saccade("train", "corners")
    assert done.code == 0, done.err
    folder = Path("runs/corners-1")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {
        "config.yaml", "environment.json", "metrics.jsonl", "timing.jsonl", "comparison.json", "gallery.html",
        "rollouts/before.json", "rollouts/after.json", "rollouts/step-000012.json", "model/table.pt",
        "checkpoints/step-000012",
    } <= names  # fmt: skip
    head, box = (
        next(row for row in done.out.splitlines() if row.startswith(key)) for key in ("held-out metric", "box")
    )
    assert head.split() == ["held-out", "metric", "before", "after", "difference", "z"]
    assert box.count("±") == 3
    change = json.loads((folder / "comparison.json").read_text())["box"]
    assert change["after"]["value"] - change["before"]["value"] == pytest.approx(change["difference"]["value"])
    assert change["difference"]["value"] > 2 * change["difference"]["stderr"]
    assert str(folder / "gallery.html") in done.out


def test_a_run_is_repeated_from_its_config_file(saccade):
    assert saccade("train", "corners", "--train.steps", "3").code == 0
    done = saccade("train", "--config", "runs/corners-1/config.yaml")
    assert done.code == 0, done.err
    first, second = (Path(f"runs/corners-{n}/metrics.jsonl").read_bytes() for n in (1, 2))
    assert first == second


def test_a_folder_is_not_overwritten_and_not_resumed_as_another_recipe(saccade):
    assert saccade("train", "corners", "--train.steps", "2", "--out", "here").code == 0
    before = Path("here/metrics.jsonl").read_bytes()
    assert "holds a run already" in saccade("train", "corners", "--out", "here").err
    assert "here holds a run of corners, not of sft" in saccade("train", "sft", "--out", "here", "--resume").err
    other = saccade("train", "--out", "here", "--resume", "--train.lr", "0.5")
    assert other.code == 2
    assert "the checkpoint is of another recipe" in other.err
    assert Path("here/metrics.jsonl").read_bytes() == before


def test_a_mistake_that_shows_in_the_first_step_leaves_no_folder_behind(saccade, monkeypatch):
    def refuses(self, trajectory):
        raise DataError("task 'corners-3': the target has no box")

    with monkeypatch.context() as patch:
        patch.setattr(scripted.RightBox, "score", refuses)
        done = saccade("train", "corners", "--out", "here", "--train.steps", "2")
    assert (done.code, done.err) == (2, "saccade: error: task 'corners-3': the target has no box\n")
    assert not Path("here").exists()
    assert saccade("train", "corners", "--out", "here", "--train.steps", "2").code == 0


def test_a_mistake_that_shows_later_leaves_the_last_checkpoint(saccade, monkeypatch):
    calls = 0
    score = scripted.RightBox.score

    def refuses(self, trajectory):
        nonlocal calls
        calls += 1
        if calls > 100:
            raise DataError("task 'corners-3': the target has no box")
        return score(self, trajectory)

    with monkeypatch.context() as patch:
        patch.setattr(scripted.RightBox, "score", refuses)
        assert saccade("train", "corners", "--out", "here", "--save-every", "2").code == 2
    assert list(Path("here/checkpoints").iterdir())
    assert saccade("train", "--resume", "--out", "here").code == 0


@pytest.mark.timeout(400)
def test_an_interrupted_and_then_killed_run_goes_on_to_the_same_bytes(saccade, tmp_path, monkeypatch):
    size = ("--train.steps", "60", "--save-every", "10", "--evaluation.every", "20")
    assert saccade("train", "corners", "--out", "whole", *size).code == 0

    calls = 0
    score = scripted.RightBox.score

    def interrupted(self, trajectory):
        nonlocal calls
        calls += 1
        if calls == 500:
            raise KeyboardInterrupt
        return score(self, trajectory)

    with monkeypatch.context() as patch:
        patch.setattr(scripted.RightBox, "score", interrupted)
        done = saccade("train", "corners", "--out", "parts", *size)
    assert (done.code, done.err) == (130, "\nsaccade: stopped; go on with: saccade train --resume --out parts\n")

    metrics = tmp_path / "parts" / "metrics.jsonl"
    assert 10 < len(metrics.read_bytes().splitlines()) < 36
    process = start(tmp_path, "train", "--resume", "--out", "parts", "--save-every", "10")
    wait_for_lines(metrics, 42, process)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with metrics.open("a") as file:
        file.write('{"actions": 2.0, "half a li')

    done = saccade("train", "--resume", "--out", "parts", "--save-every", "10")
    assert done.code == 0, done.err
    assert metrics.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_finished_run_is_evaluated_and_reported_again(saccade):
    assert saccade("train", "corners", "--train.steps", "4", "--out", "here").code == 0
    done = saccade("evaluate", "here")
    assert done.code == 0, done.err
    assert "±" in done.out
    Path("here/gallery.html").unlink()
    assert saccade("report", "here").out == "here/report.html\n"
    assert Path("here/gallery.html").exists()


def test_ablate_writes_both_arms_and_a_verdict(saccade):
    done = saccade("ablate", "corners", "--seeds", "0", "1", "--train.steps", "2", "--out", "found/corners.json")
    assert done.code == 0, done.err
    result = json.loads(Path("found/corners.json").read_text())
    assert (result["method"], result["seeds"]) == ("corners", [0, 1])
    assert len(result["with"]) == len(result["without"]) == 2
    assert result["verdict"] in ("holds", "inconclusive", "fails")
    assert result["command"] == "saccade ablate corners --seeds 0 1 --train.steps 2"
    assert f"{result['verdict']} · found/corners.json" in done.out


def test_validate_passes_a_sound_recipe(saccade):
    done = saccade("validate", "corners")
    assert done.code == 0, done.out
    assert [row.split()[0] for row in done.out.splitlines()] == ["ok"] * 5
    assert "box 1 for gold on 8 tasks" in done.out


def test_validate_finds_a_reward_that_pays_something_better_than_gold(saccade):
    """With "b" accepted as a tag and not "box", gold is paid 0, and so is everything else; with the weight negated the
    same reward prefers whatever is wrong: gold is paid 1 and counts as -1."""
    done = saccade("validate", "corners", "--rewards.box.weight", "-1")
    assert done.code == 1
    assert "fail  gold" in done.out
    assert "reward 'box', task 'corners-0': gold gets 1, '' gets 0" in done.out


def test_validate_finds_that_nothing_can_be_learned_from(saccade, monkeypatch):
    monkeypatch.setattr(scripted.Sure, "score", lambda self, trajectory: None)
    done = saccade("validate", "corners", "--rewards.sure.weight", "1")
    assert done.code == 1
    assert "none of 16 trajectories can be learned from; reward sure leaves 100% unscored" in done.out
