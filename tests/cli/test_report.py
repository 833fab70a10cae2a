"""``saccade report`` and ``saccade ablations``: numbers come from the files of runs, and what is not there says why."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from saccade.cli.report.collect import gather
from saccade.cli.report.files import RunFiles
from saccade.core.metric import Estimate, Row, clustered_mean
from saccade.evaluate.result import Entry, Number, Result
from saccade.report.comparison import Change, save_changes
from saccade.report.log import line

CONFIG = {
    "class": "saccade.recipe.Recipe",
    "env": {"class": "saccade.envs.single.SingleTurn", "tasks": {"class": "scripted.Corners"}},
    "rewards": {"box": {"class": "scripted.RightBox", "weight": 1.0}},
    "train": {"steps": 4, "groups": 2, "group_size": 3, "lr": 0.1, "seed": 0},
    "evaluation": {"limit": 4, "n": 1, "metrics": {"hit": {"class": "saccade.evaluate.samples.Mean"}}},
}


def changed(name: str, value: object) -> dict:
    """The settings with one of them replaced, by its dotted name."""
    plain = json.loads(json.dumps(CONFIG))
    *where, last = name.split(".")
    inner = plain
    for key in where:
        inner = inner[key]
    inner[last] = value
    return plain


def folder_of(path: Path, config: dict = CONFIG, steps: int = 4) -> Path:
    """A run's folder with nothing but settings and a log."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps({"name": f"corners {path.name}", "device": "cpu"}))
    rows = [
        {"reward": 0.1 * i, "actions": 2.0, "feed/groups": 2.0, "policy/grad_norm": 1.0 / i}
        for i in range(1, steps + 1)
    ]
    times = [{"seconds/rollout": 1.0, "seconds/learn": 0.5, "seconds/step": 1.5}] * steps
    (path / "metrics.jsonl").write_text("".join(line(i, row) for i, row in enumerate(rows, 1)))
    (path / "timing.jsonl").write_text("".join(line(i, row) for i, row in enumerate(times, 1)))
    return path


def keep(run: Path, step: int, values: dict[str, list[float]], suite: str = "held-out", **changes) -> Result:
    """Store an evaluation of the metric "hit" with these rows by task; tasks called a/.. and b/.. are categories."""
    entries = [Entry(Row(task, float(v)), task.partition("/")[0]) for task, some in values.items() for v in some]
    metrics = {"hit": Number("sample", clustered_mean([entry.row for entry in entries]))}
    result = Result(
        suite, {"run": str(run), "name": "corners", "step": step}, changes.pop("seed", 0), len(values), 1, {},
        {**metrics, **changes.pop("metrics", {})}, {"hit": entries}, seconds=2.0, rollouts_per_second=8.0, **changes,
    )  # fmt: skip
    result.save(run / "evaluations" / suite / f"step-{step:06d}")
    return result


def only(run: Path) -> dict:
    """What is gathered of one run."""
    report, _ = gather([RunFiles(run)])
    return report


def metric(report: dict, name: str, tier: str = "sample", suite: str = "") -> dict:
    (found,) = [m for m in report["runs"][0]["tiers"][tier] if m["name"] == name and m["suite"] == suite]
    return found


def measure(report: dict, name: str) -> dict:
    (found,) = [row["cells"][0] for row in report["measures"] if row["name"] == name]
    return found


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_a_run_is_reported_in_one_page_and_one_file_of_numbers(saccade):
    assert saccade("train", "corners", "--train.steps", "10", "--out", "here").code == 0
    done = saccade("report", "here")
    assert (done.code, done.out) == (0, "here/report.html\n"), done.err
    html = Path("here/report.html").read_text()
    report = json.loads(Path("here/report.json").read_text(), parse_constant=pytest.fail)
    kept = Result.load(Path("here/evaluations/held-out/step-000010")).metrics["box"].estimate
    box = metric(report, "box")
    assert (box["after"]["value"], box["after"]["n"]) == (kept.value, kept.n)
    assert box["difference"] is not None and box["test"]["p_holm"] >= box["test"]["p"]
    assert "<script" not in html and not re.search(r'(src|href)="(?!data:|#)', html)
    assert len(report["runs"][0]["verdicts"]["findings"]) >= 8
    assert "Most changed" in html and "Best" in html and "data:image/png;base64," in html
    energy = [json.loads(text) for text in Path("here/energy.jsonl").read_text().splitlines()]
    assert measure(report, "Energy of training")["value"] == pytest.approx(sum(one["joules"] for one in energy))
    assert measure(report, "Energy of training")["note"].startswith(("estimate: ", "measured: "))
    assert measure(report, "Trajectories")["value"] == sum(one["rollouts"] for one in energy)


def test_the_report_goes_where_it_is_told_and_leaves_the_run_alone(saccade):
    assert saccade("train", "corners", "--train.steps", "4", "--out", "here").code == 0
    before = sorted(Path("here").rglob("*"))
    assert saccade("report", "here", "--out", "there").out == "there/report.html\n"
    assert sorted(Path("here").rglob("*")) == before
    assert sorted(path.name for path in Path("there").iterdir()) == ["report.html", "report.json"]


def test_a_run_of_older_versions_is_reported_with_what_it_has(saccade):
    """No evaluations, energy, times, rollouts: the comparison still has values and its paired difference."""
    assert saccade("train", "corners", "--train.steps", "10", "--out", "here").code == 0
    for name in ("evaluations", "rollouts"):
        shutil.rmtree(Path("here") / name)
    for name in ("energy.jsonl", "timing.jsonl", "environment.json"):
        (Path("here") / name).unlink()
    done = saccade("report", "here")
    assert done.code == 0, done.err
    report = json.loads(Path("here/report.json").read_text())
    stored = json.loads(Path("here/comparison.json").read_text())["box"]
    box = metric(report, "box")
    assert (box["before"], box["after"], box["difference"]) == (stored["before"], stored["after"], stored["difference"])
    text = Path("here/report.html").read_text()
    for told in (
        "energy.jsonl is missing", "timing.jsonl is missing", "No rollouts are kept", "need a value per task",
        "not recorded",
    ):  # fmt: skip
        assert told in text, told


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_before_and_after_are_paired_by_task(tmp_path):
    """By task d = (1, 0, 1, -1).

    Mean 0.25, squared residuals 0.5625 + 0.0625 + 0.5625 + 1.5625 = 2.75, variance 2.75 / 3, standard error
    sqrt(2.75 / 3 / 4). Under all 8 signs of the three tasks that changed the sum is at least 1 in size: p = 1.
    """
    run = folder_of(tmp_path / "run")
    keep(run, 0, {"a/1": [0.0], "a/2": [1.0], "b/1": [0.0], "b/2": [1.0]})
    keep(run, 4, {"a/1": [1.0], "a/2": [1.0], "b/1": [1.0], "b/2": [0.0]})
    hit = metric(only(run), "hit")
    assert hit["difference"] == {"value": 0.25, "stderr": pytest.approx(math.sqrt(2.75 / 12)), "n": 4}
    assert hit["test"]["p"] == 1.0
    assert {key: hit["tasks"][key] for key in ("up", "down", "same")} == {"up": 2, "down": 1, "same": 1}
    assert {one["task"]: (one["before"], one["after"]) for one in hit["tasks"]["discordant"]} == {
        "a/1": (0.0, 1.0), "b/1": (0.0, 1.0), "b/2": (1.0, 0.0),
    }  # fmt: skip
    assert [(one["category"], one["before"]["value"], one["after"]["value"]) for one in hit["categories"]] == [
        ("a", 0.5, 1.0), ("b", 0.5, 0.5),
    ]  # fmt: skip


def test_pass_at_k_is_estimated_without_bias(tmp_path):
    """Of 4 rollouts 1 and 2 are right: pass@2 = 1 - C(3,2)/C(4,2) = 1/2 and 1 - C(2,2)/C(4,2) = 5/6; mean 2/3."""
    run = folder_of(tmp_path / "run")
    keep(run, 4, {"a/1": [1, 0, 0, 0], "a/2": [1, 1, 0, 0]})
    report = only(run)
    assert metric(report, "hit pass@2")["after"]["value"] == pytest.approx(2 / 3)
    assert metric(report, "hit pass@4")["after"]["value"] == 1.0
    assert [m["name"] for m in report["runs"][0]["tiers"]["sample"]] == ["hit", "hit pass@2", "hit pass@4"]


def test_p_values_are_corrected_over_all_tests_of_a_page(tmp_path):
    """Ten tasks that all rise: p = 2 / 2^10; two tests of the same rows: Holm doubles both."""
    run = folder_of(tmp_path / "run")
    for suite in ("held-out", "suite"):
        keep(run, 0, {f"a/{i}": [0.0] for i in range(10)}, suite)
        keep(run, 4, {f"a/{i}": [1.0] for i in range(10)}, suite)
    report = only(run)
    for suite in ("", "suite"):
        test = metric(report, "hit", suite=suite)["test"]
        assert test["p"] == pytest.approx(2 / 1024)
        assert test["p_holm"] == pytest.approx(4 / 1024)


def test_a_comparison_with_another_result_is_taken_over(tmp_path):
    run = folder_of(tmp_path / "run")
    test = {
        "before": 0.25, "after": 0.5, "difference": 0.25, "stderr": 0.1, "n": 4, "p_permutation": 0.03, "rose": 2,
        "fell": 1, "discordant": [{"task": "a/1", "before": 0.0, "after": 1.0}],
    }  # fmt: skip
    against = {"result": "there", "of": {"name": "base"}, "tests": {"hit": test}}
    keep(run, 4, {"a/1": [1.0], "a/2": [0.0]}, "suite", against=against)
    hit = metric(only(run), "hit", suite="suite, before: base")
    assert hit["before"]["value"] == 0.25
    assert hit["test"]["p"] == 0.03
    assert (hit["tasks"]["up"], hit["tasks"]["down"], hit["tasks"]["same"]) == (2, 1, 1)


def test_an_evaluation_of_the_end_alone_takes_its_start_from_training(tmp_path):
    run = folder_of(tmp_path / "run")
    end = keep(run, 4, {"a/1": [1.0], "a/2": [0.0]}).metrics["hit"].estimate
    before, difference = Estimate(0.25, 0.1, 2), Estimate(0.25, 0.05, 2)
    save_changes(run / "comparison.json", [Change("hit", before, end, difference)])
    hit = metric(only(run), "hit")
    assert (hit["before"]["value"], hit["difference"]["value"], hit["missing"]) == (0.25, 0.25, [])
    assert hit["test"]["p"] == pytest.approx(math.erfc(5 / math.sqrt(2)))
    save_changes(run / "comparison.json", [Change("hit", before, Estimate(0.9, 0.1, 2), difference)])
    hit = metric(only(run), "hit")
    assert hit["before"] is None
    assert hit["missing"] == ["evaluated at step 4 only"]


def test_set_level_numbers_before_and_after_must_be_of_the_same_kind(tmp_path):
    run = folder_of(tmp_path / "run")
    for step, n, extractor in ((0, 100, "a"), (4, 100, "b")):
        number = Number("set", Estimate(3.0 + step, 0.5, n), {"extractor": extractor, "n": n})
        keep(run, step, {"a/1": [1.0]}, metrics={"fid": number})
    fid = metric(only(run), "fid", "set")
    assert fid["before"] is None and fid["after"]["value"] == 7.0
    assert fid["identity"]["extractor"] == "b"
    assert fid["missing"] == ['the value before training is not comparable: extractor is "a" and "b"']


def test_throughput_and_cost_follow_from_the_logs(tmp_path):
    """4 steps of 2 groups of 3 are 24 rollouts of 2 actions in 6 s, 4 s of them acting; half the tasks solved."""
    run = folder_of(tmp_path / "run")
    keep(run, 4, {"a/1": [1.0], "a/2": [0.0]})
    rows = [{"joules": 30.0, "seconds": 2.0, "rollouts": 6, "source": "rapl", "estimated": False}] * 4
    (run / "energy.jsonl").write_text("".join(json.dumps({**row, "step": i}) + "\n" for i, row in enumerate(rows, 1)))
    report = only(run)
    found = {row["name"]: row["cells"][0].get("value") for row in report["measures"]}
    assert found["Training"] == 6.0
    assert found["Trajectories"] == 24
    assert found["Samples per second"] == 4.0
    assert found["Actions per second"] == 8.0
    assert found["Evaluation"] == 2.0
    assert found["Energy of training"] == 120.0
    assert found["Mean power"] == 15.0
    assert found["Energy per trajectory"] == 5.0
    assert found["Seconds per solved task"] == pytest.approx(4 / 24 / 0.5)
    assert found["Energy per solved task"] == pytest.approx(15 * 4 / 24 / 0.5)
    assert measure(report, "Energy of training")["note"] == "measured: rapl"
    assert report["runs"][0]["phases"] == {"rollout": 4.0, "learn": 2.0}


def test_a_step_that_kept_no_group_counts_what_it_drew(tmp_path):
    run = folder_of(tmp_path / "run")
    text = (run / "metrics.jsonl").read_text().replace('"feed/groups": 2.0', '"feed/groups": 0.0', 1)
    (run / "metrics.jsonl").write_text(text)
    assert measure(only(run), "Trajectories")["value"] == 24


def test_signals_tell_where_they_began_and_ended(tmp_path):
    """Of 4 steps the first and last tenth are one step each: the gradient norm goes from 1 to 1/4."""
    report = only(folder_of(tmp_path / "run"))
    (norm,) = [one for one in report["runs"][0]["tiers"]["state"] if one["name"] == "Gradient norm"]
    assert (norm["values"][0]["start"], norm["values"][0]["final"]) == (1.0, 0.25)
    assert norm["plot"]["start"] == 1.0
    assert norm["plot"]["series"][0]["values"] == [1.0, 0.5, pytest.approx(1 / 3), 0.25]
    absent = " ".join(report["runs"][0]["missing"]["state"])
    assert "KL to the reference: logged where" in absent and "Entropy: logged where" in absent


def test_a_run_that_has_not_begun_has_a_report(tmp_path):
    run = folder_of(tmp_path / "run", steps=0)
    report = only(run)
    assert report["runs"][0]["tiers"] == {"set": [], "sample": [], "state": []}
    assert report["runs"][0]["verdicts"]["missing"]
    assert any("Not finished: 0 of 4" in note for note in report["runs"][0]["notes"])
    assert all("missing" in row["cells"][0] for row in report["measures"] if row["name"] != "Trajectories")


# --- several runs -----------------------------------------------------------------------------------------------------


def compared(runs: list[Path]) -> dict[str, dict]:
    report, _ = gather([RunFiles(run) for run in runs])
    return {row["metric"]: row for row in report["compared"]}


def test_runs_that_differ_in_their_seed_are_averaged(tmp_path):
    """0.5 and 1: mean 0.75, standard error 0.25."""
    runs = [folder_of(tmp_path / str(seed), changed("train.seed", seed)) for seed in (0, 1)]
    keep(runs[0], 4, {"a/1": [1.0], "a/2": [0.0]})
    keep(runs[1], 4, {"a/1": [1.0], "a/2": [1.0]})
    hit = compared(runs)["hit"]
    assert hit["why"] == ""
    assert hit["seeds"] == {"value": 0.75, "stderr": 0.25, "n": 2}
    report, _ = gather([RunFiles(run) for run in runs])
    assert report["runs"][0]["notes"][0].startswith("One of n = 2 seeds (0, 1)")


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("evaluation.limit", 8, "evaluation.limit is 4 and 8"),
        ("evaluation.n", 2, "evaluation.n is 1 and 2"),
        ("env.tasks.class", "saccade.envs.x.Other", 'env.tasks.class is "scripted.Corners" and Other'),
        ("evaluation.metrics.hit.threshold", 0.5, "evaluation.metrics.hit.threshold is null and 0.5"),
    ],
)
def test_values_of_other_tasks_or_metrics_are_not_comparable(tmp_path, setting, value, why):
    runs = [folder_of(tmp_path / "one"), folder_of(tmp_path / "two", changed(setting, value))]
    for run in runs:
        keep(run, 4, {"a/1": [1.0], "a/2": [0.0]})
    row = compared(runs)["hit"]
    assert row["why"] == why
    assert row["seeds"] is None


def test_distances_of_unequal_n_or_extractor_are_not_comparable(tmp_path):
    runs = [folder_of(tmp_path / name) for name in ("one", "two", "three")]
    identities = ({"extractor": "a"}, {"extractor": "a"}, {"extractor": "b"})
    for run, n, identity in zip(runs, (100, 500, 100), identities, strict=True):
        keep(run, 4, {"a/1": [1.0]}, metrics={"fid": Number("set", Estimate(5.0, 0.1, n), identity)})
    assert compared(runs[:2])["fid"]["why"].startswith("it is of 100 and of 500 samples")
    assert compared([runs[0], runs[2]])["fid"]["why"] == 'extractor is "a" and "b"'


def test_curves_of_unlike_rewards_are_drawn_apart(tmp_path):
    runs = [folder_of(tmp_path / "one"), folder_of(tmp_path / "two")]
    report, _ = gather([RunFiles(run) for run in runs])
    assert [(plot["title"], len(plot["series"])) for plot in report["curves"]] == [("reward in training", 2)]
    other = folder_of(tmp_path / "other", changed("rewards.box.weight", 3.0))
    report, _ = gather([RunFiles(run) for run in (runs[0], other)])
    assert [len(plot["series"]) for plot in report["curves"]] == [1, 1]


def test_several_runs_share_a_page(saccade):
    for name in ("one", "two"):
        folder_of(Path(name))
    done = saccade("report", "one", "two")
    assert (done.code, done.out) == (0, "report.html\n"), done.err
    html = Path("report.html").read_text()
    assert "corners one" in html and "corners two" in html and "Side by side" in html


# --- what users get wrong ---------------------------------------------------------------------------------------------


def test_wrong_words_get_one_line(saccade):
    folder_of(Path("run"))
    folder_of(Path("broken"))
    Path("broken/environment.json").write_text("{")
    for words, told in (
        ([], "which run?"),
        (["nowhere"], "nowhere holds no run: there is no config.yaml"),
        (["run", "run"], "named twice"),
        (["broken"], "broken/environment.json is damaged"),
        (["run", "--limit", "4"], "there is no option --limit"),
    ):
        done = saccade("report", *words)
        assert done.code == 2, words
        assert told in done.err and done.err.count("\n") == 1


# --- ablations --------------------------------------------------------------------------------------------------------

RESULT = {
    "method": "grpo", "pillar": "vlm", "paper": "2402.03300", "mechanism": "groups", "metric": "accuracy",
    "higher_is_better": True, "seeds": [0, 1], "with": [0.5, 0.7], "without": [0.4, 0.4], "difference": 0.2,
    "stderr": 0.1, "margin": 0.0, "verdict": "inconclusive", "command": "saccade ablate grpo", "commit": "abc",
}  # fmt: skip


def test_the_check_fails_when_page_and_results_disagree(saccade):
    Path("results").mkdir()
    Path("results/grpo.json").write_text(json.dumps(RESULT))
    words = ("ablations", "--results", "results", "--out", "docs/page.md")
    assert saccade(*words, "--check").code == 1
    assert not Path("docs/page.md").exists()
    assert saccade(*words).out == "docs/page.md\n"
    assert saccade(*words, "--check").code == 0
    page = Path("docs/page.md").read_text()
    assert "| +0.20 ± 0.10 | 0, 1 | inconclusive |" in page
    assert "corners" not in page, "recipes of others are not the library's"
    Path("results/grpo.json").write_text(json.dumps({**RESULT, "difference": 0.25}))
    done = saccade(*words, "--check")
    assert done.code == 1 and "disagree" in done.err
    assert Path("docs/page.md").read_text() == page


def test_results_that_are_not_there_are_named(saccade):
    done = saccade("ablations", "--results", "nowhere")
    assert done.code == 2 and "nowhere is no folder" in done.err
