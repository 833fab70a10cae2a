"""Pick-a-Pic (arXiv:2305.01569): which of two pictures did the person who wrote the prompt prefer?

Files: ``data/<part>-*.parquet`` with ``caption``, ``jpg_0``, ``jpg_1`` (bytes), ``label_0``, ``label_1`` (1 and 0, or
0.5 and 0.5 for a tie) and ``has_label``. A model that looks at both pictures answers; a reward that scores one picture
at a time is measured by ``PairAccuracy``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import ClassVar

from PIL import Image as Picture

from saccade.core.content import Text, images_of
from saccade.core.environment import EnvironmentSpec
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Metric, Models, Row
from saccade.core.reward import Reward, SampleReward, Score
from saccade.core.trajectory import Group, Prompt, Task, Trajectory, forced_turn
from saccade.envs.datasets.media import short
from saccade.envs.single import SingleTurn
from saccade.evaluate.benchmark import Benchmark, Entry, Item, entries
from saccade.evaluate.rules.pointing import answer_body
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean, totals
from saccade.rewards.parse import plain

ASKED = "Which picture fits this prompt better: {prompt}? Answer with one word: first, second or tie."
CHOICES = {
    "first": 1.0, "second": 0.0, "tie": 0.5, "1": 1.0, "2": 0.0, "a": 1.0, "b": 0.0, "picture 1": 1.0,
    "picture 2": 0.0, "both": 0.5, "equal": 0.5,
}  # fmt: skip


def agreement(said: float, label: float) -> float:
    """The authors' score: 1 if prediction and label agree, 0.5 if one of them alone is a tie, else 0.

    Both are 1 for the first picture, 0 for the second, 0.5 for a tie.
    """
    if said == label:
        return 1.0
    return 0.5 if 0.5 in (said, label) else 0.0


def choice(first: float, second: float, margin: float) -> float:
    """A scorer's prediction: a tie if the two probabilities, the softmax of the scores, differ by less than margin."""
    ahead = math.tanh((first - second) / 2)  # p_1 - p_2
    return 0.5 if abs(ahead) < margin else float(ahead > 0) if ahead else 0.5


def best_margin(pairs: Sequence[tuple[float, float, float]]) -> float:
    """The margin with the highest mean agreement on (first score, second score, label): chosen on validation pairs.

    Raises:
        ConfigError: there are no pairs.
    """
    if not pairs:
        raise ConfigError("best_margin needs pairs to choose on, got none")
    margins = [k / 100 for k in range(101)]
    return max(margins, key=lambda t: math.fsum(agreement(choice(a, b, t), label) for a, b, label in pairs))


@dataclass(frozen=True, kw_only=True)
class PreferenceAgreement(SampleReward):
    """``agreement`` of the answer, one of ``CHOICES``, with the label; 0 for anything else."""

    def score(self, trajectory: Trajectory) -> Score:
        said = CHOICES.get(plain(answer_body(trajectory.text)))
        if said is None:
            return Score(0.0, note="no choice")
        return Score(agreement(said, trajectory.task.target["label"]))


@dataclass(frozen=True)
class PairAccuracy(Metric):
    """``agreement`` of a reward's choice between the two pictures with the label, whatever the policy said.

    Pairs that the reward leaves unscored have no row.
    """

    reward: Reward
    margin: float = 0.0
    """Difference of the two probabilities below which the reward calls a tie."""

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ConfigError(f"margin must be in [0, 1], got {self.margin}")

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        tasks = [group[0].task for group in groups]
        found = totals(self.reward, [_pair(task) for task in tasks])
        return [
            Row(task.id, agreement(choice(first, second, self.margin), task.target["label"]))
            for task, (first, second) in zip(tasks, found, strict=True)
            if first is not None and second is not None
        ]


def _pair(task: Task) -> Group:
    caption = (Text(task.info["caption"]),)
    prompt = Prompt(Task(task.id, caption), caption)
    return [Trajectory(prompt, [forced_turn((image,), None, 1)]) for image in images_of(task.prompt)]


@dataclass(frozen=True)
class PickAPic(Benchmark):
    """Labelled pairs of Pick-a-Pic v1."""

    name: ClassVar = "pick_a_pic"
    title: ClassVar = "Pick-a-Pic"
    paper: ClassVar = "2305.01569"
    pillar: ClassVar = "generation"
    hub: ClassVar = "yuvalkirstain/pickapic_v1"
    files: ClassVar = ("data/test_unique-*", "data/validation_unique-*")
    parts: ClassVar = ("test_unique", "validation_unique", "test", "validation")
    rule_in_words: ClassVar = "1 if the choice is the person's, half if only one of the two calls a tie, else 0."

    @property
    def rule(self) -> PreferenceAgreement:
        return PreferenceAgreement()

    def metrics(self) -> Mapping[str, Metric]:
        columns: Mapping[str, tuple[str, str | bool]] = {
            "of_preferences": ("category", "preference"), "of_ties": ("category", "tie"),
        }  # fmt: skip
        return {"accuracy": Mean(self.rule), **by_value(self.rule, columns)}

    def env(self) -> EnvironmentSpec:
        return SingleTurn(self, template=ASKED)

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        files = sorted((*folder.glob(f"data/{part}-*.parquet"), *folder.glob(f"{part}-*.parquet")))
        if not files:
            raise DataError(f"{folder}: found no data/{part}-*.parquet, expected the files of {self.title}")
        return [
            self._item(entry)
            for path in files
            for entry in entries(path)
            if entry.columns.get("has_label") is not False
        ]

    def _item(self, entry: Entry) -> Item:
        first, second = entry.number_of("label_0"), entry.number_of("label_1")
        if (first, second) not in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
            entry.wrong("label_0", short((first, second)), "1 and 0, 0 and 1, or 0.5 and 0.5")
        caption = entry.text("caption")
        said = {1.0: "first", 0.0: "second", 0.5: "tie"}[first]
        info = {"caption": caption, "models": tuple(str(entry.columns.get(name)) for name in ("model_0", "model_1"))}
        prompt = (entry.media("jpg_0"), entry.media("jpg_1"), Text(caption))
        category = "tie" if first == 0.5 else "preference"
        name = f"{entry.file.stem}-{entry.number}"
        return Item(name, prompt, {"label": first}, category, ((Text(said),),), info)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        import pyarrow as arrow
        from pyarrow import parquet

        (folder / "data").mkdir(parents=True, exist_ok=True)
        rows = []
        for i in range(n):
            label = (1.0, 0.0, 0.5)[i % 3]
            rows.append({
                "are_different": label != 0.5, "best_image_uid": f"uid-{i}", "caption": f"a green square, number {i}",
                "has_label": True, "jpg_0": _square((40, 160, 60), i), "jpg_1": _square((160, 40, 60), i),
                "label_0": label, "label_1": 1 - label, "model_0": "one", "model_1": "other", "ranking_id": i,
            })  # fmt: skip
        rows.append({**rows[0], "has_label": False})
        for part in cls.parts:
            parquet.write_table(arrow.Table.from_pylist(rows), folder / "data" / f"{part}-00000-of-00001.parquet")


def _square(colour: tuple[int, int, int], index: int) -> bytes:
    picture = Picture.new("RGB", (32, 32), (230, 230, 230))
    picture.paste(colour, (4 + index % 4, 4, 24 + index % 4, 24))
    file = BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()
