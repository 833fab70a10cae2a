"""The page of a report: everything it is given is shown, nothing is loaded, and what is missing says why."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from saccade.core.content import Image, Text
from saccade.core.errors import DataError
from saccade.core.reward import Score
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.report import page
from saccade.report.curves import Plot, Series, spark, svg
from saccade.report.page import Gallery, Part, render, write_page
from saccade.report.snapshot import Pictures, snapshot


def estimate(value: float | None, stderr: float | None = 0.01, n: int = 100) -> dict:
    return {"value": value, "stderr": stderr, "n": n}


def metric(name: str = "accuracy", tier: str = "sample", **changes) -> dict:
    return {
        "name": name, "suite": "", "tier": tier, "before": estimate(0.25), "after": estimate(0.5),
        "difference": estimate(0.25, 0.02, 100), "test": {"p": 0.004, "p_holm": 0.008, "method": "random signs"},
        "tasks": None, "categories": [], "identity": None, "missing": [], **changes,
    }  # fmt: skip


def plot(title: str, *names: str) -> dict:
    series = [{"name": name, "steps": [1, 2, 3], "values": [0.1, 0.2, 0.3], "errors": []} for name in names]
    return {"title": title, "start": None, "series": series}


def signal(name: str) -> dict:
    values = [{"name": "policy/grad_norm", "start": 0.5, "final": 0.125, "curve": [0.5, 0.3, 0.125]}]
    return {"name": name, "told": "before it is scaled down", "values": values, "plot": plot(name, "policy/grad_norm")}


def run(name: str = "grpo", **changes) -> dict:
    finding = {
        "name": "LengthDrift", "verdict": "warn", "summary": "outputs grew", "rollouts": [],
        "evidence": [{"number": "at the end", "value": 41.5}],
    }  # fmt: skip
    fine = {**finding, "name": "KLBlowUp", "verdict": "pass", "summary": "near the start", "evidence": []}
    return {
        "name": name, "folder": "runs/x", "command": "saccade train grpo", "notes": ["n = 1 seed"],
        "facts": {"commit": "abc123", "device": {"missing": "not recorded"}},
        "verdicts": {"findings": [fine, finding], "missing": None},
        "tiers": {"set": [], "sample": [metric()], "state": [signal("Gradient norm")]},
        "missing": {"set": ["take one with `saccade evaluate runs/x`"], "sample": [], "state": []},
        "phases": {"rollout": 3.0, "learn": 1.0}, **changes,
    }  # fmt: skip


def report(*runs: dict, **changes) -> dict:
    count = len(runs) or 1
    measures = [
        {"name": "Training", "unit": "s", "told": "all steps", "cells": [{"value": 12.5, "note": "measured"}] * count},
        {"name": "Energy", "unit": "J", "told": "", "cells": [{"missing": "energy.jsonl is missing"}] * count},
    ]
    return {
        "version": 1, "title": "grpo", "runs": list(runs) or [run()], "compared": [], "signals": [],
        "curves": [plot("held-out accuracy", "accuracy")], "measures": measures, **changes,
    }  # fmt: skip


class Loaded(HTMLParser):
    """What a browser would fetch or run, and whether tags are closed in order."""

    VOID = ("meta", "img", "br", "link", "rect", "line", "circle", "path", "use", "image", "polyline")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        for name in ("src", "href"):
            target = given.get(name)
            if target is not None and not target.startswith(("data:", "#")):
                self.found.append(f"{tag} {target}")
        if tag in ("script", "link", "iframe", "object") or any(name.startswith("on") for name in given):
            self.found.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def text_of_page(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_the_page_loads_and_runs_nothing():
    html = render(report())
    seen = Loaded(html)
    assert seen.found == []
    assert seen.open == []
    assert "url(" not in html and "@import" not in html


def test_the_page_has_colours_for_light_and_dark_and_rules_for_phones():
    html = render(report())
    assert 'name="viewport"' in html
    assert "@media(prefers-color-scheme:dark)" in html and "@media(max-width:760px)" in html


def test_names_from_files_are_text_and_not_markup():
    evil = "<script>alert(1)</script>"
    shown = run(
        evil, command=evil, notes=[evil], facts={evil: evil, "x": {"missing": evil}},
        verdicts={"findings": [{"name": evil, "verdict": "fail", "summary": evil, "rollouts": [],
                                "evidence": [{"number": evil, "value": evil}]}], "missing": None},
        tiers={"set": [], "sample": [metric(evil, suite=evil, identity={evil: evil}, missing=[evil])], "state": []},
    )  # fmt: skip
    html = render(report(shown, run(evil), title=evil, curves=[plot(evil, evil, evil)]))
    assert "<script>" not in html
    assert "alert(1)" in html


def test_a_metric_is_told_with_errors_difference_test_and_n():
    text = text_of_page(render(report()))
    assert (
        "accuracy N 100 0.250 ± 0.010 → 0.500 ± 0.010 Δ +0.250 ± 0.020 p 0.004 , Holm 0.008".replace(" ,", ",") in text
    )


def test_a_set_level_metric_names_its_extractor_and_n():
    one = metric("fid", "set", identity={"extractor": "inception-v3", "extractor hash": "ab12"}, test=None)
    text = text_of_page(render(report(run(tiers={"set": [one], "sample": [], "state": []}))))
    assert "fid N 100" in text
    assert "extractor inception-v3 · extractor hash ab12" in text


def test_tasks_that_changed_and_categories_are_listed():
    discordant = [{"task": f"task-{i}", "before": 0.0, "after": 1.0} for i in range(15)]
    tasks = {"up": 15, "down": 0, "same": 85, "discordant": discordant}
    categories = [{"category": "colour", "before": None, "after": estimate(0.75, 0.05, 40)}]
    one = metric(tasks=tasks, categories=categories)
    text = text_of_page(render(report(run(tiers={"set": [], "sample": [one], "state": []}))))
    assert "15 tasks higher, 0 lower, 85 the same" in text
    assert "task-11" in text and "task-12" not in text and "and 3 more, in report.json" in text
    assert "colour – 0.750 ± 0.050 40" in text


def test_missing_values_are_told_and_never_blank():
    lost = metric(after=estimate(None, None, 0), before=None, difference=None, test=None, missing=["no rollout"])
    shown = run(tiers={"set": [], "sample": [lost], "state": []}, phases={})
    shown["verdicts"] = {"findings": [], "missing": "no complete line"}
    text = text_of_page(render(report(shown, curves=[])))
    for told in (
        "device not recorded", "no rollout", "no complete line", "timing.jsonl is missing",
        "take one with saccade evaluate runs/x", "Energy: energy.jsonl is missing",
        "metrics.jsonl has no complete line",
    ):  # fmt: skip
        assert told in text
    assert "nan" not in text.lower() and "None" not in text


def test_verdicts_come_worst_first_with_their_evidence():
    html = render(report())
    text = text_of_page(html)
    assert "1 warn · 1 pass" in text
    assert text.index("length drift outputs grew") < text.index("KL blow up near the start")
    assert "at the end 41.5" in text
    assert 'class="panel box warn"' in html


@pytest.mark.parametrize(
    ("verdicts", "box"), [(("unknown", "pass"), "pass"), (("pass", "fail"), "fail"), (("unknown",), "unknown")]
)
def test_the_box_has_the_colour_of_the_worst_verdict_that_was_reached(verdicts, box):
    found = [{"name": v, "verdict": v, "summary": "", "evidence": [], "rollouts": []} for v in verdicts]
    assert f'class="panel box {box}"' in render(report(run(verdicts={"findings": found, "missing": None})))


def test_values_that_are_not_comparable_do_not_stand_on_one_line():
    cells = [estimate(21.5, 0.5, 100), estimate(4.5, 0.5, 500)]
    rows = [
        {"tier": "set", "metric": "fid", "cells": cells, "why": "N is 100 and 500", "seeds": None},
        {"tier": "sample", "metric": "accuracy", "cells": [estimate(0.5), {"missing": "not taken"}], "why": "",
         "seeds": None},
    ]  # fmt: skip
    html = render(report(run("one"), run("two"), compared=rows))
    text = text_of_page(html)
    assert "not comparable: N is 100 and 500" in text
    table = [line for line in re.findall(r"<tr.*?</tr>", html, re.DOTALL) if "±" in line and "N " in line]
    first, second = (next(line for line in table if value in line) for value in ("21.50 ± 0.50", "4.50 ± 0.50"))
    assert first != second
    assert "accuracy 0.500 ± 0.010 N 100 not taken" in text


def test_over_seeds_there_is_a_mean():
    rows = [{"tier": "sample", "metric": "hit", "cells": [estimate(0.4), estimate(0.6)], "why": "",
             "seeds": estimate(0.5, 0.1, 2)}]  # fmt: skip
    text = text_of_page(render(report(run("a"), run("b"), compared=rows)))
    assert "over seeds" in text and "0.50 ± 0.10" in text


def test_where_time_went_adds_up():
    """3 s of 4 s are 75 %."""
    assert "rollout 3 s (75%) learn 1 s (25%)" in text_of_page(render(report()))


# --- galleries --------------------------------------------------------------------------------------------------------


def groups(folder, count: int) -> list[dict]:
    found = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        task = Task(f"task-{i}", (Image(pixels), Text("where?")))
        one = Trajectory(Prompt(task, task.prompt), [forced_turn((Text("there"),), None, 1)], scores={"r": Score(0.5)})
        found.append(snapshot([one], Pictures(folder), {"r": 1.0}))
    return found


def test_cards_hold_their_pictures_and_each_task_once(tmp_path):
    shown = groups(tmp_path, 3)
    best = Part("Best", "by reward", [{"after": shown[0]}, {"after": shown[1]}])
    worst = Part("Worst", "by reward", [{"after": shown[1]}, {"after": shown[2]}])
    html = render(report(), [Gallery("grpo", tmp_path / "images", [best, worst])])
    assert Loaded(html).found == []
    assert html.count("data:image/png;base64,") == 3
    assert html.count("<article>") == 3
    assert "Also here, shown above: task-1 (best)" in text_of_page(html)


def test_a_finding_shows_the_rollouts_it_names(tmp_path):
    (one,) = groups(tmp_path, 1)
    seen = {"LengthDrift": [{"late: long": one}]}
    html = render(report(), [Gallery("grpo", tmp_path / "images", [], seen, missing="none kept")])
    finding = re.search(r'<details class="finding"><summary>.*?length drift.*?</details>', html, re.DOTALL)
    assert finding is not None and "late: long" in finding[0] and "<article>" in finding[0]
    assert html.count("data:image/png;base64,") == 1
    assert "none kept" in html


def test_galleries_stop_at_the_largest_size_and_say_so(tmp_path, monkeypatch):
    shown = groups(tmp_path, 6)
    part = Part("Best", "by reward", [{"after": group} for group in shown])
    whole = len(render(report(), [Gallery("grpo", tmp_path / "images", [part])]))
    monkeypatch.setattr(page, "LARGEST", 8000)
    html = render(report(), [Gallery("grpo", tmp_path / "images", [part])])
    kept = html.count("<article>")
    assert 0 < kept < 6 and len(html) < whole
    assert f"{6 - kept} more would make this page too large" in text_of_page(html)


def test_a_picture_that_is_gone_is_named(tmp_path):
    (one,) = groups(tmp_path, 1)
    next((tmp_path / "images").glob("*.png")).unlink()
    with pytest.raises(DataError, match=r"\.png"):
        render(report(), [Gallery("grpo", tmp_path / "images", [Part("Best", "", [{"after": one}])])])


def test_the_page_is_one_file(tmp_path):
    write_page(tmp_path / "report.html", json.loads(json.dumps(report())))
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


# --- small curves -----------------------------------------------------------------------------------------------------


def test_the_start_is_marked_by_a_dashed_line_where_one_is_given():
    series = [Series("kl", [1, 2], [0.0, 1.0])]
    assert 'class="start"' in svg(Plot("kl", series, start=0.0))
    assert 'class="start"' not in svg(Plot("kl", series))


def test_a_spark_runs_from_the_first_to_the_last_value():
    """118 by 26: values from 0 to 1 stand between y = 22 and y = 4, the first at x = 2, the last at x = 114."""
    drawn = spark([0.0, 0.5, 1.0], start=0.0)
    assert 'points="2.0,22.0 58.0,13.0 114.0,4.0"' in drawn
    assert 'y1="22.0" y2="22.0"' in drawn
    assert 'cx="114.0" cy="4.0"' in drawn
    assert spark([1.0]) == ""


def test_rounding_errors_are_drawn_flat():
    assert 'points="2.0,13.0 58.0,13.0 114.0,13.0"' in spark([1.0, 1.0 + 1e-7, 1.0 - 1e-7])
