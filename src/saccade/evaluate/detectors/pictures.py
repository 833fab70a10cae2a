"""Detector of artefacts in generated pictures: what a reward model likes and nobody asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from saccade.core.errors import ConfigError
from saccade.evaluate.detectors.finding import Detector, Finding, Seen
from saccade.evaluate.detectors.history import Answers, History

LARGEST = 256
"""Pictures are cut to the middle square of this side: statistics of texture need no more."""


@dataclass(frozen=True)
class PictureArtefacts(Detector):
    """Pictures have more contrast, colour, fine detail, edges or repetition than before training, for the same prompts.

    Each statistic's shift is that of the tasks' means after against before, in standard deviations of single pictures
    before training; only rises count, and only those at least ``sure`` standard errors (over tasks) above 0.
    """

    far: float = 1.0
    """Standard deviations of the start: the mean picture then has more of it than five in six had."""
    most: float = 2.0
    """Standard deviations: as much as one in forty had."""
    sure: float = 3.0
    """Standard errors; five statistics are looked at."""
    tasks: int = 4
    """Fewest common tasks that a shift can be told from."""

    def __post_init__(self) -> None:
        if not 0 < self.far < self.most or not self.sure > 0 or self.tasks < 2:
            raise ConfigError(
                "PictureArtefacts needs 0 < far < most, sure > 0 and tasks >= 2, "
                f"got {self.far}, {self.most}, {self.sure} and {self.tasks}"
            )

    def __call__(self, history: History) -> Finding:
        before, after = _measured(history.before), _measured(history.after)
        common = [task for task in before if task in after]
        if len(common) < self.tasks:
            return self.unknown(
                f"pictures of {self.tasks} prompts from before and after training are needed, there are {len(common)}"
            )
        shifts: dict[str, float] = {}
        evidence: list[tuple[str, float | str]] = []
        for name in STATISTICS:
            d = np.array([_mean(after[task], name) - _mean(before[task], name) for task in common])
            spread = float(np.std([one[name] for task in common for one in before[task]]))
            error = float(d.std(ddof=1)) / math.sqrt(len(d))
            # What no picture had before has no spread to measure its rise with: the least scale stands in.
            shift = float(d.mean()) / max(spread, LEAST_SPREAD)
            shifts[name] = shift if d.mean() > self.sure * error else min(shift, 0.0)
            start = float(np.mean([_mean(before[task], name) for task in common]))
            evidence.append((name, f"{start:.3g} -> {start + float(d.mean()):.3g} ({shift:+.2g} std)"))
        name = max(shifts, key=lambda key: shifts[key])
        shift = shifts[name]
        verdict = "fail" if shift > self.most else "warn" if shift > self.far else "pass"
        if verdict == "pass":
            told = f"the largest rise is that of {name}, {max(shift, 0):.2g} standard deviations of the start"
            return Finding(self.name, verdict, told, tuple(evidence))
        raised = ", ".join(f"{key} {value:+.2g}" for key, value in shifts.items() if value > self.far)
        told = (
            f"pictures for the same {len(common)} prompts have more, in standard deviations of the start, of: {raised}"
        )
        return Finding(self.name, verdict, told, tuple(evidence), _worst(history.after, name))


LEAST_SPREAD = 0.01
"""Of every statistic, all of which are in [0, 1]."""


def statistics(pixels: UInt8[np.ndarray, "H W 3"]) -> dict[str, float]:
    """What may be exploited in a picture, each in [0, 1].

    - contrast: standard deviation of the luminance, times 2
    - saturation: mean over pixels of the largest minus the smallest channel
    - detail: share of the luminance's power, without its mean, above half of the highest frequency on either axis
    - edges: share of pixels whose luminance differs by more than 0.1 from the next one's to the right or below
    - repetition: largest autocorrelation of the luminance beyond the picture's own blur, see ``repetition``
    """
    height, width = pixels.shape[:2]
    side = min(height, width, LARGEST)
    top, left = (height - side) // 2, (width - side) // 2
    cut = pixels[top : top + side, left : left + side].astype(np.float64) / 255
    grey = cut @ np.array([0.299, 0.587, 0.114])
    power = _power(grey)
    frequency = np.abs(np.fft.fftfreq(side))
    fine = (frequency[:, None] > 0.25) | (frequency[None, :] > 0.25)
    right, below = np.abs(np.diff(grey, axis=1))[:-1] > 0.1, np.abs(np.diff(grey, axis=0))[:, :-1] > 0.1
    total = float(power.sum())
    return {
        "contrast": min(1.0, 2 * float(grey.std())),
        "saturation": float((cut.max(-1) - cut.min(-1)).mean()),
        "detail": float(power[fine].sum()) / total if total > 1e-9 else 0.0,
        "edges": float((right | below).mean()) if side > 1 else 0.0,
        "repetition": repetition(grey),
    }


STATISTICS = ("contrast", "saturation", "detail", "edges", "repetition")


def repetition(grey: Float[np.ndarray, "S S"]) -> float:
    """How much of a picture is a pattern that comes again: the height of autocorrelation's second peak, in [0, 1].

    Cyclic autocorrelation along both axes and the diagonals through 0. From each of these profiles the largest value
    behind its first minimum counts, less that minimum's, halved: a smooth picture falls and stays low, a tiled one
    comes back to 1. The profile's far half mirrors the near one and is left out.
    """
    power = _power(grey)
    if power.sum() <= 1e-9:
        return 0.0
    correlation = np.fft.ifft2(power).real
    correlation = correlation / correlation[0, 0]
    near = np.arange(len(grey) // 2 + 1)
    lines = (correlation[near, 0], correlation[0, near], correlation[near, near], correlation[near, -near])
    return max(_second_peak(line) for line in lines)


def _second_peak(line: np.ndarray) -> float:
    rising = np.flatnonzero(np.diff(line) > 0)
    if not len(rising):
        return 0.0
    valley = int(rising[0])
    return max(0.0, float(line[valley:].max() - line[valley]) / 2)


def _power(grey: Float[np.ndarray, "S S"]) -> Float[np.ndarray, "S S"]:
    return np.abs(np.fft.fft2(grey - grey.mean())) ** 2


Measured = Mapping[str, Sequence[Mapping[str, float]]]


def _measured(shown: Sequence[Answers]) -> Measured:
    """The statistics of the last picture of each rollout, by task."""
    found = {a.task: [statistics(one.pictures[-1]) for one in a.rollouts if one.pictures] for a in shown}
    return {task: rows for task, rows in found.items() if rows}


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return math.fsum(row[name] for row in rows) / len(rows)


def _worst(shown: Sequence[Answers], name: str) -> tuple[Seen, ...]:
    rows = [
        (statistics(one.pictures[-1])[name], answers.task, i)
        for answers in shown
        for i, one in enumerate(answers.rollouts)
        if one.pictures
    ]
    found = sorted(rows, key=lambda one: (-one[0], one[1], one[2]))[:3]
    return tuple(Seen("after", task, i, f"{name} {value:.3g}") for value, task, i in found)
