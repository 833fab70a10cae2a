"""MME (arXiv:2306.13394): two questions about each picture, one to be answered yes and one no."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Estimate, Metric, Models, Row, clustered_mean
from saccade.core.reward import Reward
from saccade.core.trajectory import Group
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.miniatures import COLOURS, square, stored, write_table
from saccade.evaluate.rules.extraction import conclusion
from saccade.evaluate.rules.questions import (
    ExtractedAnswer,
    Form,
    Unread,
    combined,
    complete,
    forms,
    says,
    shards,
)
from saccade.evaluate.samples import Mean

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


@dataclass(frozen=True, kw_only=True)
class BeginsYesOrNo(ExtractedAnswer):
    """1 if the first four characters, in lower case without full stops, have the target's word; "y" and "n" do too."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        said = conclusion(text)[:4096].lower().replace(".", "").strip()
        if said in ("y", "n"):
            return {"y": "yes", "n": "no"}[said]
        return next((word for word in ("yes", "no") if word in said[:4]), None)

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"])


@dataclass(frozen=True)
class MMEScore(Metric):
    """Sum over subtasks of 100 accuracy + 100 accuracy+, the share of pictures with both questions right.

    At most 200 a subtask: 2,000 for perception, 800 for cognition. Subtasks without rows add nothing; pictures of which
    only one question was asked do not count. Subtasks are independent: ``se^2 = sum_c se_c^2``, clustered by picture.
    """

    reward: Reward
    subtasks: tuple[str, ...]

    def rows(self, groups: Sequence[Group], models: Models) -> list[Form]:
        return [row for row in forms(self.reward, groups) if row.category in self.subtasks]

    def compute(self, rows: Sequence[Form]) -> Estimate:
        pictures: dict[str, list[Row]] = {}
        for (subtask, picture), samples in complete(rows).items():
            pictures.setdefault(subtask, []).extend(
                Row(picture, 100 * sum(scores) / len(scores) + 100 * float(min(scores) >= 1)) for scores in samples
            )
        return combined([(1.0, clustered_mean(pictures[subtask])) for subtask in sorted(pictures)])


@dataclass(frozen=True)
class MME(Benchmark):
    """2,374 questions of fourteen subtasks in ``data/test-*.parquet``; both of a picture have its ``question_id``."""

    name: ClassVar = "mme"
    title: ClassVar = "MME"
    paper: ClassVar = "2306.13394"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "lmms-lab/MME"
    files: ClassVar = ("data/*.parquet",)
    parts: ClassVar = ("test",)
    rule_in_words: ClassVar = (
        "The first four characters have the right one of 'yes' and 'no'; a subtask gets 100 times accuracy plus 100 "
        "times the share of pictures with both questions right, and subtasks are added up."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        rows = list(shards(folder, f"data/{part}-*.parquet"))
        seen: Counter[tuple[str, str]] = Counter()
        found: list[Item] = []
        for entry in rows:
            picture = (entry.one_of("category", (*PERCEPTION, *COGNITION)), entry.text("question_id"))
            seen[picture] += 1
            found.append(_item(entry, *picture, seen[picture]))
        for entry in rows:
            number = seen[entry.text("category"), entry.text("question_id")]
            if number != 2:
                times = f"{short(entry.value('question_id'))} {number} times in {entry.text('category')}"
                entry.wrong("question_id", times, "two questions about each picture")
        return found

    @property
    def rule(self) -> BeginsYesOrNo:
        return BeginsYesOrNo()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "perception": MMEScore(self.rule, PERCEPTION),
            "cognition": MMEScore(self.rule, COGNITION),
            "accuracy": Mean(self.rule),
            "unread": Unread(self.rule),
        }

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        rows: list[dict[str, Any]] = []
        for i in range((n + 1) // 2):
            picture, colour = square(i)
            subtask = ("color", "code_reasoning", "existence", "count")[i % 4]
            other = next(one for one in COLOURS if one != colour)
            for asked, answer in ((colour, "Yes"), (other, "No")):
                rows.append(
                    {
                        "question_id": f"{subtask}/{i:04}.png",
                        "image": stored(picture, f"{i:04}.png"),
                        "question": f"Is the square {asked}? Please answer yes or no.",
                        "answer": answer,
                        "category": subtask,
                    }
                )
        write_table(folder / "data" / "test-00000-of-00001.parquet", rows)


def _item(entry: Entry, subtask: str, picture: str, number: int) -> Item:
    answer = entry.one_of("answer", ("Yes", "No"))
    info = {"question": picture, "forms": 2}
    prompt = (entry.media("image"), Text(entry.text("question")))
    name = f"{subtask}/{Path(picture).name}#{number}"
    return Item(name, prompt, {"answer": answer.lower()}, subtask, says(answer), info)
