"""ScreenSpot, ScreenSpot-v2 and ScreenSpot-Pro: find the element of a screen that an instruction means.

Boxes come in three conventions, and a wrong guess still scores some: ScreenSpot's and v2's JSON files have x y width
height in pixels, ScreenSpot's parquet files x1 y1 x2 y2 in shares of the sides, ScreenSpot-Pro's x1 y1 x2 y2 in pixels
with ``img_size``. All become x1 y1 x2 y2 in shares; ``info["bbox"]`` keeps what the file says. A box whose middle is
outside its picture was read by the wrong convention and is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from saccade.core.content import Text
from saccade.core.environment import EnvironmentSpec
from saccade.core.errors import DataError
from saccade.core.metric import Metric
from saccade.envs.datasets.media import Media, short
from saccade.envs.single import SingleTurn
from saccade.evaluate.benchmark import Entry, Item, MeanOfCategories, entries
from saccade.evaluate.rules.pointing import WORDS, Box, PointedAt, PointInElement, drawn_screen, in_units, size_of
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

PLATFORMS = {
    "ios": "mobile", "android": "mobile", "macos": "desktop", "windows": "desktop", "forum": "web", "gitlab": "web",
    "shop": "web", "tool": "web",
}  # fmt: skip
"""Platform of a ``data_source``."""
ASKED = (
    'Where on this screen does one click to do this: "{prompt}"? Answer with JSON, x and y in %s:'
    ' {"action": "click", "point": [x, y]}'
)
REFUSING = ', or {"action": "none"} if it is not on the screen'


@dataclass(frozen=True)
class _Grounding(PointedAt):
    """What the three share; each row becomes an item by ``item``."""

    pillar: ClassVar = "vla"
    rule_in_words: ClassVar = "The point, or the middle of the box, lies in the element's box, borders included."

    @property
    def rule(self) -> PointInElement:
        return PointInElement(units=self.units)

    def env(self) -> EnvironmentSpec:
        return SingleTurn(self, template=ASKED % WORDS[self.units])

    def _item(
        self, name: str, entry: Entry, media: Media, instruction: str, box: Box, size: tuple[int, int], category: str,
        info: Mapping[str, object],
    ) -> Item:  # fmt: skip
        """An item; ``box`` is in shares."""
        x1, y1, x2, y2 = box
        middle = (x1 + x2) / 2, (y1 + y2) / 2
        if not (x1 < x2 and y1 < y2) or not all(0 <= share <= 1 for share in middle):
            found = f"{short(entry.value('bbox'))} in a picture of {size[0]} x {size[1]}"
            entry.wrong("bbox", found, f"{self._convention(entry)} around a point of the picture")
        x, y = in_units(middle, self.units, *size)
        gold = Text(json.dumps({"action": "click", "point": [round(x, 6), round(y, 6)]}))
        target = {"box": box, "negative": False}
        original = {"bbox": tuple(entry.value("bbox")), "convention": self._convention(entry)}
        return Item(name, (media, Text(instruction)), target, category, ((gold,),), {**original, **info})

    def _convention(self, entry: Entry) -> str:
        return "x y width height in pixels"


@dataclass(frozen=True)
class ScreenSpot(_Grounding):
    """ScreenSpot (arXiv:2401.10935): 1,272 elements of phones, desktops and the web.

    Published as ``screenspot_{mobile,desktop,web}.json`` with pictures in ``screenspot_imgs``, or as parquet files with
    pictures inside. The number reported is the mean of the six cells platform x kind, as in the paper, whose 53.4 is
    the mean of its six columns.
    """

    name: ClassVar = "screenspot"
    title: ClassVar = "ScreenSpot"
    paper: ClassVar = "2401.10935"
    hub: ClassVar = "rootsautomation/ScreenSpot"
    files: ClassVar = ("data/test-*",)
    parts: ClassVar = ("test",)
    json_files: ClassVar = "screenspot_{}.json"
    pictures: ClassVar = "screenspot_imgs"

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        tables = sorted((*folder.glob("data/test-*.parquet"), *folder.glob("test-*.parquet")))
        if tables:
            return [self._of_table(entry) for path in tables for entry in entries(path)]
        listed = [(platform, folder / self.json_files.format(platform)) for platform in ("mobile", "desktop", "web")]
        if not any(path.is_file() for _, path in listed):
            names = ", ".join(path.name for _, path in listed)
            raise DataError(f"{folder}: found none of {names} and no data/test-*.parquet, expected {self.title}")
        inner = folder / self.pictures
        root = inner if inner.is_dir() else folder
        return [
            self._of_json(entry, platform)
            for platform, path in listed
            if path.is_file()
            for entry in entries(path, root)
        ]

    def metrics(self) -> Mapping[str, Metric]:
        return {"mean_of_cells": MeanOfCategories(self.rule), "accuracy": Mean(self.rule), **self._columns()}

    def _columns(self) -> dict[str, Metric]:
        cells = {
            f"{platform}_{kind}": ("category", f"{platform} {kind}")
            for platform in ("mobile", "desktop", "web")
            for kind in ("text", "icon")
        }
        return by_value(self.rule, {"text": ("kind", "text"), "icon": ("kind", "icon"), **cells})

    def _of_json(self, entry: Entry, platform: str) -> Item:
        media = entry.media("img_filename")
        width, height = size = size_of(media)
        x, y, w, h = entry.numbers("bbox", 4)
        box = (x / width, y / height, (x + w) / width, (y + h) / height)
        return self._cell(entry, f"{platform}-{entry.number}", media, box, size, platform)

    def _of_table(self, entry: Entry) -> Item:
        media = entry.media("image")
        x1, y1, x2, y2 = entry.numbers("bbox", 4)
        if max(x1, y1, x2, y2) > 1.01:
            entry.wrong("bbox", short(entry.value("bbox")), self._convention(entry))
        platform = PLATFORMS[entry.one_of("data_source", tuple(PLATFORMS))]
        return self._cell(entry, f"{entry.file.stem}-{entry.number}", media, (x1, y1, x2, y2), size_of(media), platform)

    def _cell(self, entry: Entry, name: str, media: Media, box: Box, size: tuple[int, int], platform: str) -> Item:
        kind = entry.one_of("data_type", ("text", "icon"))
        info = {"kind": kind, "platform": platform, "source": entry.text("data_source")}
        return self._item(name, entry, media, entry.text("instruction"), box, size, f"{platform} {kind}", info)

    def _convention(self, entry: Entry) -> str:
        return "x1 y1 x2 y2 in shares" if entry.has("image") else super()._convention(entry)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        (folder / cls.pictures).mkdir(parents=True, exist_ok=True)
        sources = {"mobile": "ios", "desktop": "windows", "web": "shop"}
        rows: dict[str, list[dict[str, object]]] = {platform: [] for platform in sources}
        for i in range(n):
            platform = list(sources)[i % 3]
            picture, (x1, y1, x2, y2) = drawn_screen(i)
            picture.save(folder / cls.pictures / f"{platform}_{i}.png")
            rows[platform].append({
                "img_filename": f"{platform}_{i}.png", "bbox": [x1, y1, x2 - x1, y2 - y1],
                "instruction": f"press button {i % 6 + 1}", "data_type": ("text", "icon")[i // 3 % 2],
                "data_source": sources[platform],
            })  # fmt: skip
        for platform, listed in rows.items():
            if listed:
                (folder / cls.json_files.format(platform)).write_text(json.dumps(listed), encoding="utf-8")


@dataclass(frozen=True)
class ScreenSpotV2(ScreenSpot):
    """ScreenSpot-v2 (arXiv:2410.23218): ScreenSpot with wrong and ambiguous rows mended.

    ``screenspot_{mobile,desktop,web}_v2.json`` with the pictures of ``screenspotv2_image.zip`` unpacked beside them.
    The number reported is the mean over all elements.
    """

    name: ClassVar = "screenspot_v2"
    title: ClassVar = "ScreenSpot-v2"
    paper: ClassVar = "2410.23218"
    hub: ClassVar = ""
    files: ClassVar = ("*.json", "screenspotv2_image/*")
    json_files: ClassVar = "screenspot_{}_v2.json"
    pictures: ClassVar = "screenspotv2_image"

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Mean(self.rule), "mean_of_cells": MeanOfCategories(self.rule), **self._columns()}


@dataclass(frozen=True)
class ScreenSpotPro(_Grounding):
    """ScreenSpot-Pro (arXiv:2504.07981): 1,581 small elements of professional programs on large screens.

    ``annotations/*.json`` with pictures in ``images``. Rows with ``gt_type`` "negative" ask for what is not there:
    the model has to say so. Part ``cn`` has the same tasks in Chinese.
    """

    name: ClassVar = "screenspot_pro"
    title: ClassVar = "ScreenSpot-Pro"
    paper: ClassVar = "2504.07981"
    hub: ClassVar = "likaixin/ScreenSpot-Pro"
    files: ClassVar = ("annotations/*.json", "images/**")
    parts: ClassVar = ("en", "cn")
    rule_in_words: ClassVar = (
        "The point lies in the element's box, borders included; of what is not there the model says so."
    )
    GROUPS: ClassVar = ("Dev", "Creative", "CAD", "Scientific", "Office", "OS")

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return list(self._read(folder, part))

    def metrics(self) -> Mapping[str, Metric]:
        groups = {group.lower(): ("group", group) for group in self.GROUPS}
        kinds = {"text": ("kind", "text"), "icon": ("kind", "icon")}
        cells = {
            f"{group.lower()}_{kind}": ("category", f"{group} {kind}")
            for group in self.GROUPS
            for kind in ("text", "icon")
        }
        return {"accuracy": Mean(self.rule), **by_value(self.rule, {**kinds, **groups, **cells})}

    def env(self) -> EnvironmentSpec:
        refusing = REFUSING if any(item.target["negative"] for item in self._items) else ""
        return SingleTurn(self, template=ASKED % WORDS[self.units] + refusing)

    def _read(self, folder: Path, part: str) -> Iterator[Item]:
        root = folder / "images"
        for path in sorted((folder / "annotations").glob("*.json")):
            for entry in entries(path, root if root.is_dir() else folder):
                yield self._of_row(entry, part)

    def _of_row(self, entry: Entry, part: str) -> Item:
        media = entry.media("img_filename")
        width, height = (int(side) for side in entry.numbers("img_size", 2))
        if min(width, height) < 1:
            entry.wrong("img_size", short(entry.value("img_size")), "width and height in pixels")
        name = f"{entry.file.stem}-{entry.word('id') if entry.has('id') else entry.number}"
        instruction = entry.text("instruction_cn" if part == "cn" else "instruction")
        kind, group = entry.one_of("ui_type", ("text", "icon")), entry.text("group")
        info = {
            "kind": kind, "group": group, "application": entry.text("application"), "platform": entry.text("platform"),
        }  # fmt: skip
        if entry.has("gt_type") and entry.one_of("gt_type", ("positive", "negative")) == "negative":
            gold = Text('{"action": "none"}')
            nothing = {"box": None, "negative": True}
            return Item(name, (media, Text(instruction)), nothing, f"{group} {kind}", ((gold,),), info)
        x1, y1, x2, y2 = entry.numbers("bbox", 4)
        box = (x1 / width, y1 / height, x2 / width, y2 / height)
        return self._item(name, entry, media, instruction, box, (width, height), f"{group} {kind}", info)

    def _convention(self, entry: Entry) -> str:
        return "x1 y1 x2 y2 in pixels"

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "images" / "tool_linux").mkdir(parents=True, exist_ok=True)
        rows = []
        for i in range(n):
            picture, box = drawn_screen(i, 320, 180)
            picture.save(folder / "images" / "tool_linux" / f"{i}.png")
            negative = i % 4 == 3
            rows.append({
                "id": f"tool_linux_{i}", "img_filename": f"tool_linux/{i}.png", "bbox": list(box),
                "img_size": [320, 180], "instruction": f"press button {9 if negative else i % 6 + 1}",
                "instruction_cn": f"按下按钮 {9 if negative else i % 6 + 1}", "ui_type": ("text", "icon")[i % 2],
                "group": cls.GROUPS[i % 6], "application": "tool", "platform": "linux",
                "gt_type": "negative" if negative else "positive",
            })  # fmt: skip
        path = folder / "annotations" / "tool_linux.json"
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
