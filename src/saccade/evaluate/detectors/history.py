"""What detectors look at: a run's numbers, and what the policy put out before and after training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image

from saccade.core import config
from saccade.core.errors import DataError

Moment = Literal["before", "after", "early", "late"]
"""Before and after training, on the same held-out tasks; early and late in training, on training tasks."""

_HIGHER = ("Mean", "PassAtK", "WinRate", "Success", "SPL", "OracleSuccess", "StepSuccess", "Grounding", "TypeMatch")
"""Metrics in which more is better."""
_FORM = "saccade.rewards.format."
_LESS = ("PathError", "Roughness")
"""Rewards that stand in evaluations only, and of which less is better."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """One trajectory, as far as a run's folder keeps it."""

    text: str = ""
    """All texts of its outputs, turns one after the other."""
    pictures: tuple[np.ndarray, ...] = ()
    """uint8 RGB, the pictures and video frames of the last turn's output; large ones were scaled down."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Totals by reward, without weights; None is unscored."""
    total: float | None = None
    """Weighted sum; None if a reward of non-zero weight is unscored."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Rollouts of one task."""

    task: str
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, eq=False)
class History:
    """A run, to be judged. ``History.of`` reads one from its folder; parts that are unknown are empty."""

    records: Sequence[Mapping[str, float]] = ()
    """Lines of ``metrics.jsonl``: training steps, and evaluations under ``eval/``; NaN where they say null."""
    before: Sequence[Answers] = ()
    after: Sequence[Answers] = ()
    early: Sequence[Answers] = ()
    late: Sequence[Answers] = ()
    gold: tuple[str, ...] = ()
    """Keys of numbers in which more is better and which are not trained on: held-out metrics, rewards of weight 0."""
    trained: tuple[str, ...] = ()
    """Keys of held-out metrics that are means of rewards which are trained on."""
    formats: tuple[str, ...] = ()
    """Names of the rewards that pay for the form of an output only."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Factors of the rewards at the start; 1 for names that are missing."""

    @classmethod
    def of(cls, folder: Path) -> History:
        """Read a run's folder.

        Gold are the headline of the recipe's ablation, if more of it is better, and the evaluation's success rates and
        means of rewards, but not of rewards for the form, of negative weight, or of which less is better; besides, the
        training's rewards of weight 0.

        Raises:
            DataError: there is no ``metrics.jsonl``, or a file is damaged.
        """
        path = folder / "metrics.jsonl"
        if not path.exists():
            raise DataError(f"{path}: there is no such file; is {folder} a run's folder?")
        known = _settings(folder / "config.yaml")
        shown = folder / "rollouts"
        steps = sorted(shown.glob("step-*.json"))
        return cls(
            records=tuple(_records(path)),
            before=_answers(shown / "before.json"),
            after=_answers(shown / "after.json"),
            early=_answers(steps[0]) if len(steps) > 1 else (),
            late=_answers(steps[-1]) if len(steps) > 1 else (),
            gold=known["gold"],
            trained=known["trained"],
            formats=known["formats"],
            weights=known["weights"],
        )

    @property
    def training(self) -> list[Mapping[str, float]]:
        """The lines of training steps."""
        return [record for record in self.records if "reward" in record]

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values where a key has finite ones; a step that was evaluated twice counts once."""
        found = {record["step"]: record[key] for record in self.records if math.isfinite(record.get(key, math.nan))}
        return np.array(list(found), dtype=np.float64), np.array(list(found.values()), dtype=np.float64)

    @property
    def terms(self) -> list[str]:
        """Names of the rewards that are trained on."""
        names = dict.fromkeys(key for record in self.training for key in record if key.startswith("reward/"))
        plain = [key.removeprefix("reward/") for key in names if not key.endswith("/unscored")]
        return [name for name in plain if self.weights.get(name, 1.0) != 0]

    def rollouts(self, moment: Moment) -> Sequence[Answers]:
        return {"before": self.before, "after": self.after, "early": self.early, "late": self.late}[moment]


def _records(path: Path) -> Iterator[dict[str, float]]:
    for number, row in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        # A kill may leave half a line at the end.
        if not row.endswith("\n"):
            return
        try:
            record: Any = json.loads(row)
            yield {key: math.nan if value is None else float(value) for key, value in record.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: row {number} is not an object of numbers ({error})") from None


def _answers(path: Path) -> tuple[Answers, ...]:
    if not path.exists():
        return ()
    try:
        groups: Any = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            Answers(group["task"], tuple(_rollout(one, path.parent / "images") for one in group["rollouts"]))
            for group in groups
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path}: not rollouts as a run keeps them ({type(error).__name__}: {error})") from None


def _rollout(plain: Mapping[str, Any], images: Path) -> Rollout:
    turns = plain["turns"]
    texts = [part["text"] for turn in turns for part in turn["output"] if "text" in part]
    names = [
        kept["image"]
        for part in (turns[-1]["output"] if turns else ())
        for kept in ([part] if "image" in part else part.get("video", []))
    ]
    scores = {name: score["value"] for name, score in plain["scores"].items()}
    counted = {name: score["weight"] for name, score in plain["scores"].items() if score["weight"] != 0}
    unscored = any(scores[name] is None for name in counted)
    total = None if unscored else math.fsum(scores[name] * weight for name, weight in counted.items())
    return Rollout("\n".join(texts), tuple(_picture(images / f"{name}.png") for name in names), scores, total)


def _picture(path: Path) -> np.ndarray:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _settings(path: Path) -> dict[str, Any]:
    """What the recipe says about its numbers."""
    plain: Any = config.load(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}
    rewards: Mapping[str, Any] = plain.get("rewards", {})
    weights = {name: float(reward.get("weight", 1.0)) for name, reward in rewards.items()}
    paid = [_unweighted(reward) for name, reward in rewards.items() if weights[name] > 0]
    gold: list[str] = []
    trained: list[str] = []
    ablation = plain.get("ablation") or {}
    headline = ablation.get("metric", "")
    if headline and ablation.get("higher", True) and not headline.startswith("train/"):
        gold.append(f"eval/{headline}")
    for name, metric in plain.get("evaluation", {}).get("metrics", {}).items():
        inner = _inner(metric)
        if str(inner.get("class", "")).endswith(".Mean") and _unweighted(inner.get("reward", {})) in paid:
            trained.append(f"eval/{name}")
        counted = str(inner.get("class", "")).rpartition(".")[2] in _HIGHER and _upwards(inner.get("reward", {}))
        if counted and not (name == headline and not ablation.get("higher", True)):
            gold.append(f"eval/{name}")
    gold += [f"reward/{name}" for name, weight in weights.items() if weight == 0]
    formats = tuple(name for name, reward in rewards.items() if _formal(reward))
    return {"gold": tuple(dict.fromkeys(gold)), "trained": tuple(trained), "formats": formats, "weights": weights}


def _unweighted(reward: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in reward.items() if key not in ("weight", "weight_schedule")}


def _inner(metric: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metric itself, where another one restricts it to some tasks."""
    return _inner(metric["metric"]) if isinstance(metric.get("metric"), Mapping) else metric


def _upwards(reward: Mapping[str, Any]) -> bool:
    """Whether more of a metric's reward, if it has one, is better, and not a matter of form."""
    less = any(name.endswith(_LESS) for name in _classes(reward))
    return not less and not _formal(reward) and float(reward.get("weight", 1.0)) > 0


def _formal(reward: Mapping[str, Any]) -> bool:
    """Whether all that a reward is made of looks at the form only."""
    parts = [name for name in _classes(reward) if not name.startswith(("saccade.rewards.combine.", "saccade.core."))]
    return bool(parts) and all(name.startswith(_FORM) for name in parts)


def _classes(plain: Any) -> list[str]:
    """Every class that a part of a configuration names."""
    if isinstance(plain, Mapping):
        own = [str(plain["class"])] if "class" in plain else []
        return own + [name for value in plain.values() for name in _classes(value)]
    return [name for value in plain for name in _classes(value)] if isinstance(plain, list) else []
