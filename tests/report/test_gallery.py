import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
import torch

from saccade.core.content import Array, Image, Mesh, Text, Video
from saccade.core.errors import DataError
from saccade.core.metric import Estimate, Row
from saccade.core.reward import Score
from saccade.core.trajectory import Observation, Prompt, Task, Trajectory, forced_turn
from saccade.report.comparison import Change, change_table, compare, load_changes, plus_minus, save_changes
from saccade.report.curves import Plot, Series, nice_ticks, plots, smooth, svg
from saccade.report.gallery import Section, write_gallery, write_run_gallery
from saccade.report.snapshot import LARGEST_SIDE, Pictures, boxes, gold_boxes, snapshot

# --- boxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<box>12 20 40 52</box>", [(12, 20, 40, 52)]),
        ("[12, 20, 40, 52]", [(12, 20, 40, 52)]),
        ("<box>(12,20),(40,52)</box>", [(12, 20, 40, 52)]),
        ('{"bbox_2d": [1.5, 2, 3.25, 4]} and [5,6,7,8].', [(1.5, 2, 3.25, 4), (5, 6, 7, 8)]),
        ("it is 12 20 40 52.", [(12, 20, 40, 52)]),
        ("40 52 12 20", []),
        ("1 2 3 4 5", []),
        ("1, 2, 3", []),
        ("x1 2 3 4 5b", []),
        ("1\n2\n3\n4", []),
        ("", []),
    ],
)
def test_boxes_are_runs_of_exactly_four_numbers(text, found):
    assert boxes(text) == found


@pytest.mark.timeout(5)
@pytest.mark.parametrize("text", ["1 " * 200_000, "1" * 400_000, "(((" * 100_000, "1,2,3,4;" * 100_000])
def test_reading_boxes_is_bounded(text):
    assert len(boxes(text)) <= 16


@pytest.mark.parametrize(
    ("target", "gold", "found"),
    [
        ((1, 2, 3, 4), (), [(1, 2, 3, 4)]),
        ({"kind": "locate", "box": [1, 2, 3, 4]}, (), [(1, 2, 3, 4)]),
        ({"answer": [(1, 2, 3, 4), (5, 6, 7, 8)]}, (), [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ({"answer": "5,6,7,8", "box": (1, 2, 3, 4), "others": [{"box": (0, 0, 9, 9)}]}, (), [(1, 2, 3, 4)]),
        ({"answer": "3", "others": [{"box": (0, 0, 9, 9)}]}, (), []),
        (np.array([1.0, 2, 3, 4]), (), [(1, 2, 3, 4)]),
        ("[1, 2, 3, 4]", (), [(1, 2, 3, 4)]),
        ("red", ((Text("<box>1 2 3 4</box>"),),), [(1, 2, 3, 4)]),
        ([4, 3, 2, 1], (), []),
        ((1, 2, math.nan, 4), (), []),
        (None, (), []),
    ],
)
def test_the_targets_boxes_are_found_wherever_they_are(target, gold, found):
    assert gold_boxes(Task("t", (Text("?"),), target=target, gold=gold)) == found


# --- snapshots --------------------------------------------------------------------------------------------------------


def picture(seed: int, height: int = 12, width: int = 16) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def trajectory(prompt: Prompt, *outputs: str, answers: tuple[Image, ...] = (), **scores: Score) -> Trajectory:
    turns = [forced_turn((Text(output),), None, 2) for output in outputs]
    for turn, answer in zip(turns, answers, strict=False):
        turn.observation, turn.info, turn.reward = Observation((answer, Text("zoomed"))), {"tool": "crop"}, 0.25
    return Trajectory(prompt, turns, scores=scores)


@pytest.fixture
def task():
    content = (picture(0), Text("Where is the <red> one?"))
    return Task("scene-7", content, target={"box": (2, 3, 9, 11)}, gold=((Text("<box>2 3 9 11</box>"),),))


@pytest.fixture
def group(task):
    prompt = Prompt(task, task.prompt)
    return [
        trajectory(prompt, "<box>1 2 8 9</box>", iou=Score(0.5, note="near & dear"), format=Score(1.0)),
        trajectory(
            prompt,
            "crop 0 0 6 6",
            "<script>alert(1)</script> \udcff",
            answers=(picture(1, 6, 6),),
            iou=Score(None),
            format=Score(0.0),
        ),
    ]


def test_a_snapshot_is_json_and_keeps_each_picture_once(tmp_path, group):
    pictures = Pictures(tmp_path)
    plain = json.loads(json.dumps(snapshot(group, pictures, {"iou": 2.0, "format": 0.0}, [0.5, None])))
    assert json.loads(json.dumps(snapshot(group, pictures, {"iou": 2.0, "format": 0.0}, [0.5, None]))) == plain
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert plain["boxes"] == [[2, 3, 9, 11]]
    first, second = plain["rollouts"]
    assert first["turns"][0]["boxes"] == [[1, 2, 8, 9]]
    assert first["scores"]["iou"] == {"value": 0.5, "weight": 2.0, "note": "near & dear"}
    assert (first["advantage"], second["advantage"], second["scores"]["iou"]["value"]) == (0.5, None, None)
    assert second["turns"][0]["observation"][1] == {"text": "zoomed"}
    with PIL.Image.open(tmp_path / "images" / f"{plain['prompt'][0]['image']}.png") as stored:
        assert np.array_equal(np.asarray(stored), picture(0).pixels)


def test_steps_of_a_turn_are_folded_below_its_output(tmp_path, group):
    plain = snapshot(group[:1], Pictures(tmp_path), {}, preview=lambda turn, most: [picture(5), picture(6)][:most])
    assert [part["width"] for part in plain["rollouts"][0]["turns"][0]["steps"]] == [picture(5).width] * 2
    page = written(tmp_path, [Section("Step 5", {"": [plain]})])
    assert "steps" in page.text and len(page.all("div", "frames")) == 1


def test_large_pictures_are_made_small_and_long_videos_short(tmp_path):
    frames = np.zeros((30, 4, 4, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = np.arange(30)
    prompt = Prompt(Task("t", ()), (picture(0, 600, 1200), Video(frames, 5.0)))
    large, video = snapshot([trajectory(prompt, "x")], Pictures(tmp_path), {})["prompt"]
    assert (large["width"], large["height"]) == (1200, 600)
    with PIL.Image.open(tmp_path / "images" / f"{large['image']}.png") as stored:
        assert stored.size == (LARGEST_SIDE, LARGEST_SIDE // 2)
    assert (len(video["video"]), video["frames"], video["fps"]) == (8, 30, 5.0)


def test_other_content_is_described_in_words(tmp_path):
    mesh = Mesh(np.zeros((3, 3), np.float32), np.zeros((1, 3), np.int64))
    prompt = Prompt(Task("t", ()), (mesh, Array("gripper", np.array([1.0, 2.0]))))
    parts = snapshot([trajectory(prompt, "x")], Pictures(tmp_path), {})["prompt"]
    assert parts == [{"text": "[mesh: 3 vertices, 1 faces]"}, {"text": "[gripper [2]: [1. 2.]]"}]


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Checks that tags are balanced, and collects them."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag and kind in (None, attrs.get("class"))]


def written(path, sections, **others) -> Page:
    write_gallery(path / "gallery.html", sections, title="a <run>", pictures=path / "images", **others)
    return Page((path / "gallery.html").read_text())


def test_the_gallery_holds_pictures_boxes_turns_and_rewards_and_needs_nothing_else(tmp_path, group):
    plain = snapshot(group, Pictures(tmp_path), {"iou": 2.0, "format": 0.0}, [0.5, -0.5])
    page = written(tmp_path, [Section("Step 5", {"": [plain]})])

    images = page.all("image")
    assert len(images) == 2
    for image in images:
        kind, _, data = image["href"].partition(",")
        assert kind == "data:image/png;base64"
        stored = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
        assert stored.size == (int(image["width"]), int(image["height"]))
        assert image["style"] == "image-rendering:pixelated"
    known = {f"#{image['id']}" for image in images}
    assert {use["href"] for use in page.all("use")} == known

    said = {(r["x"], r["y"], r["width"], r["height"]) for r in page.all("rect", "said")}
    gold = {(r["x"], r["y"], r["width"], r["height"]) for r in page.all("rect", "gold")}
    tried = {(r["x"], r["y"], r["width"], r["height"]) for r in page.all("rect", "tried")}
    assert (said, gold, tried) == ({("1", "2", "7", "7")}, {("2", "3", "7", "8")}, {("0", "0", "6", "6")})

    for words in ("scene-7", "Where is the <red> one?", "near & dear", "turn 2", "zoomed", "tool: crop", "A +0.50"):
        assert words in page.text
    assert "<script>alert(1)</script>" in page.text and not page.all("script")
    raw = (tmp_path / "gallery.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)|@import|url\(", raw)
    assert "prefers-color-scheme:dark" in raw


def test_views_of_a_solid_stand_side_by_side_and_so_does_the_solution(tmp_path):
    """Four views of what was drawn, two of the gold; the target, a mesh, is told in words."""
    triangle = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]))
    views = tuple(picture(k, 8, 8) for k in range(6))
    asked = Task("solid", (Text("a cone"),), target=triangle, gold=((triangle, *views[4:]),))
    turn = forced_turn((triangle, *views[:4]), None, 1)
    rollouts = [Trajectory(Prompt(asked, asked.prompt), [turn])]
    found = snapshot(rollouts, Pictures(tmp_path), {})
    assert found["target"] == "mesh: 3 vertices, 1 faces" and found["gold"] == [] and len(found["drawn"]) == 2
    page = written(tmp_path, [Section("Solids", {"": [found]})])
    assert len(page.all("div", "frames")) == 2 and not page.all("div", "picture")
    assert len(page.all("use")) == 6


def test_the_weighted_sum_is_shown_and_unscored_is_said(tmp_path, group):
    """The first rollout gets 2 * 0.5 + 0 * 1 = 1; the second has no IoU."""
    plain = snapshot(group, Pictures(tmp_path), {"iou": 2.0, "format": 0.0})
    text = (written(tmp_path, [Section("s", {"": [plain]})]), (tmp_path / "gallery.html").read_text())[1]
    assert re.findall(r'<div class="sum"><b>([^<]*)</b>', text) == ["1", "unscored"]


def test_the_same_task_before_and_after_is_one_card(tmp_path, group):
    plain = snapshot(group, Pictures(tmp_path), {})
    other = {**plain, "task": "scene-8"}
    page = written(tmp_path, [Section("Held-out", {"before": [plain, other], "after": [plain]})])
    assert len(page.all("article")) == 2
    assert [attrs["class"] for attrs in page.all("div") if "columns" in attrs.get("class", "")] == [
        "columns n2",
        "columns n1",
    ]


def test_the_header_has_metrics_with_errors_and_curves(tmp_path):
    change = Change("iou", Estimate(0.5, 0.04, 100), Estimate(0.75, 0.03, 100), Estimate(0.25, 0.05, 100))
    curves = [Plot("reward", [Series("reward", [1, 2, 3], [0.1, 0.2, 0.4])])]
    page = written(tmp_path, [], changes=[change], curves=curves)
    for words in ("0.500 ± 0.040", "0.750 ± 0.030", "+0.250 ± 0.050", "+5.0"):
        assert words in page.text
    assert len(page.all("polyline")) == 2


def test_a_picture_that_is_gone_is_named(tmp_path, group):
    plain = snapshot(group, Pictures(tmp_path), {})
    name = plain["prompt"][0]["image"]
    (tmp_path / "images" / f"{name}.png").unlink()
    with pytest.raises(DataError, match=f"{name}.png is missing"):
        written(tmp_path, [Section("s", {"": [plain]})])


def test_a_run_folder_without_rollouts_still_gets_its_page(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"reward": 0.5, "step": 1}\n{"reward": 0.75, "step": 2}\n')
    page = Page(write_run_gallery(tmp_path, "bare").read_text())
    assert "rewards in training" in page.text and not page.all("article")


def test_damaged_rollouts_are_named(tmp_path):
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "before.json").write_text("[{")
    with pytest.raises(DataError, match=r"before\.json is damaged"):
        write_run_gallery(tmp_path, "damaged")


# --- comparison and curves --------------------------------------------------------------------------------------------


def test_the_difference_is_paired_by_task(tmp_path):
    """Both tasks gain 0.5: the difference is 0.5 with no error, however unlike the tasks are.

    A third task, before +0.2: differences .5, .5, .2 have mean .4, variance of the mean
    (.01 + .01 + .04) * 3 / 2 / 9 = .01, so z = .4 / .1 = 4.
    """
    before = [Row("a", 0.0), Row("b", 0.5), Row("c", 0.1)]
    after = [Row("a", 0.5), Row("b", 1.0), Row("c", 0.3)]
    unit = Estimate(0.5, 0.1, 3)
    (change,) = compare({"iou": unit}, {"iou": before}, {"iou": unit}, {"iou": after})
    assert change.difference is not None and change.difference.value == pytest.approx(0.4)
    assert change.z == pytest.approx(4.0)
    (certain,) = compare({"iou": unit}, {"iou": before[:2]}, {"iou": unit}, {"iou": after[:2]})
    assert certain.difference is not None and certain.difference.stderr == 0 and math.isnan(certain.z)


def test_metrics_without_a_value_per_task_have_no_paired_difference(tmp_path):
    unit = Estimate(0.5, math.nan, 3)
    changes = compare({"fid": unit}, {"fid": [torch.zeros(2)]}, {"fid": unit}, {"fid": [torch.zeros(2)]})
    assert changes[0].difference is None and math.isnan(changes[0].z)
    save_changes(tmp_path / "c.json", changes)
    (loaded,) = load_changes(tmp_path / "c.json")
    assert loaded.difference is None and math.isnan(loaded.before.stderr)
    assert "NaN" not in (tmp_path / "c.json").read_text()
    assert change_table(changes).row_count == 1


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.61234, 0.0213, 9), "0.612 ± 0.021"),
        (Estimate(12.34, 1.5, 9), "12.3 ± 1.5"),
        (Estimate(1.0, 0.0, 9), "1.0000 ± 0.0000"),
        (Estimate(0.5, math.nan, 1), "0.5"),
        (Estimate(1234.5, 67.0, 9), "1234 ± 67"),
    ],
)
def test_numbers_are_written_with_the_digits_their_error_leaves(estimate, text):
    assert plus_minus(estimate) == text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.13, 0.92, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 40.0, [-10.0, 0.0, 10.0, 20.0, 30.0, 40.0]),
        (2.0, 2.0, [1.8, 1.9, 2.0, 2.1, 2.2]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_smoothing_has_no_bias_at_the_start():
    """With weight 1/2: s1 = x1; s2 = (x1/4 + x2/2) / (3/4) = (x1 + 2 x2) / 3."""
    assert smooth([3.0, 6.0], 0.5) == pytest.approx([3.0, 5.0])
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)


def test_plots_put_evaluations_first_and_rewards_together():
    records = [
        {"step": 0, "eval/iou": 0.1, "eval/iou/stderr": 0.05, "eval/iou/n": 20.0},
        {
            "step": 1,
            "reward": 0.2,
            "reward/iou": 0.2,
            "reward/iou/unscored": 0.0,
            "kl/kl": 0.0,
            "loss/pg": 1.0,
            "turns": 1.0,
        },
        {"step": 1, "eval/iou": 0.3, "eval/iou/stderr": math.nan, "eval/iou/n": 20.0},
    ]
    found = plots(records)
    assert [plot.title for plot in found] == ["held-out iou", "rewards in training", "kl/kl", "losses", "turns"]
    assert [s.name for s in found[1].series] == ["reward", "iou"]
    assert found[0].series[0].errors[0] == 0.05
    for plot in found:
        assert "nan" not in svg(plot)


def test_long_series_are_thinned():
    drawn = svg(Plot("long", [Series("long", range(10_000), [float(i % 7) for i in range(10_000)])]))
    points = re.findall(r'points="([^"]*)"', drawn)
    assert max(len(line.split()) for line in points) <= 400


def test_a_plot_of_nothing_is_nothing():
    assert svg(Plot("empty", [Series("empty", [], [])])) == ""
