"""Detectors over the policy's state: distance from the reference, entropy, length of outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saccade.core.errors import ConfigError
from saccade.evaluate.detectors.finding import Detector, Finding, Seen, better, ends, first_known, keys_ending
from saccade.evaluate.detectors.history import History

NO_KL = "no divergence from a reference was recorded: no objective or advantage asks for one"


@dataclass(frozen=True)
class KLBlowUp(Detector):
    """The policy runs away from its reference, faster and faster.

    Over the means of the middle fifth and of the last fifth of the run: "fail" if the last is above ``most``, or above
    ``far`` and ``growth`` times the middle's; "warn" if it is above ``far`` alone. A healthy run climbs early and then
    levels off.
    """

    far: float = 1.0
    """Nats an action: half of the policy's choices are then ones that the reference hardly makes."""
    most: float = 5.0
    """Nats an action: half of what k3 can reach before its clamp."""
    growth: float = 3.0
    """Last over middle; a straight climb gives at most 1.8."""

    def __post_init__(self) -> None:
        if not 0 < self.far < self.most or not self.growth > 1:
            raise ConfigError(
                f"KLBlowUp needs 0 < far < most and growth > 1, got {self.far}, {self.most} and {self.growth}"
            )

    def __call__(self, history: History) -> Finding:
        key = first_known(history, ["reference/k3", *keys_ending(history, "/kl")])
        if key is None:
            return self.unknown(NO_KL)
        steps, values = history.series(key)
        fifth = max(2, round(0.2 * len(values)))
        start = (len(values) - fifth) // 2
        middle, end = float(values[start : start + fifth].mean()), float(values[-fifth:].mean())
        others = [f"reference/{kind}" for kind in ("k1", "k2") if len(history.series(f"reference/{kind}")[0])]
        evidence: list[tuple[str, float | str]] = [("in the middle", middle), ("at the end", end)]
        evidence += [(f"largest, at step {steps[values.argmax()]:.0f}", float(values.max()))]
        evidence += [(f"{other} at the end", float(history.series(other)[1][-fifth:].mean())) for other in others]
        told = f"{key} is {end:.3g} nats an action at the end and {middle:.3g} in the middle of the run"
        explodes = end > self.far and end > self.growth * max(middle, 1e-12)
        verdict = "fail" if end > self.most or explodes else "warn" if end > self.far else "pass"
        return Finding(self.name, verdict, told, tuple(evidence))


@dataclass(frozen=True)
class EntropyCollapse(Detector):
    """The policy has stopped exploring before it was good: its entropy is a small part of what it was.

    From the recorded entropy or, where there is none, from the mean of ``-logp`` of its own samples, which estimates
    it. A policy that gets better on gold may grow sure of itself: that is no collapse.
    """

    low: float = 0.2
    """Share of the starting entropy below which to look."""
    gone: float = 0.1
    """Share below which little can be found by sampling any more."""
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.gone < self.low < 1:
            raise ConfigError(f"EntropyCollapse needs 0 < gone < low < 1, got {self.gone} and {self.low}")

    def __call__(self, history: History) -> Finding:
        key = first_known(history, ["policy/entropy", *keys_ending(history, "/entropy"), "policy/logp"])
        level = None if key is None else ends(history, key)
        if key is None or level is None:
            return self.unknown("neither entropies nor log-probabilities were recorded, or for too few steps")
        sampled = key == "policy/logp"
        start, end = (-level[0], -level[1]) if sampled else level
        if not start > 0:
            return self.unknown(
                f"the starting entropy is {start:.3g} nats, of a density or of given outputs: shares of it mean nothing"
            )
        share = max(end, 0.0) / start
        evidence = (("at the start", start), ("at the end", end), ("from", "-logp of samples" if sampled else key))
        told = f"the entropy of an action is {end:.3g} nats, {100 * share:.0f} % of the {start:.3g} at the start"
        if share >= self.low:
            return Finding(self.name, "pass", told, evidence)
        rising = better(history, self.confidence)
        if rising:
            return Finding(self.name, "pass", f"{told}, while {rising[0]}", evidence)
        return Finding(self.name, "fail" if share < self.gone else "warn", told, evidence)


@dataclass(frozen=True)
class LengthDrift(Detector):
    """Outputs grow or shrink far beyond their start, and nothing held-out gets better by it.

    ``|mean_end - mean_start| / std_start`` of the number of actions, over the first and last fifth of the run.
    """

    far: float = 1.0
    """Standard deviations of the start: the mean output is then as long as one in six was."""
    most: float = 2.0
    """Standard deviations: as long as one in forty was."""
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.far < self.most:
            raise ConfigError(f"LengthDrift needs 0 < far < most, got {self.far} and {self.most}")

    def __call__(self, history: History) -> Finding:
        level = ends(history, "actions")
        if level is None or ends(history, "actions/std") is None:
            return self.unknown("the length of outputs, or its spread, was not recorded, or for too few steps")
        start, end = level
        spread = self._spread(history)
        drift = abs(end - start) / spread if spread > 0 else (0.0 if end == start else math.inf)
        evidence: list[tuple[str, float | str]] = [("at the start", start), ("at the end", end)]
        evidence += [("standard deviation at the start", spread), ("drift", drift)]
        over = ends(history, "overlong")
        evidence += [("cut off at the end", over[1])] if over else []
        told = f"outputs have {end:.3g} actions after {start:.3g}, {drift:.2g} standard deviations of the start away"
        if drift <= self.far:
            return Finding(self.name, "pass", told, tuple(evidence))
        rising = better(history, self.confidence)
        if rising:
            return Finding(self.name, "pass", f"{told}, while {rising[0]}", tuple(evidence))
        verdict = "fail" if drift > self.most else "warn"
        return Finding(self.name, verdict, told, tuple(evidence), _longest(history) if end > start else ())

    @staticmethod
    def _spread(history: History) -> float:
        """Between trajectories and between steps: the mean length of a step depends on its tasks too."""
        within, means = history.series("actions/std")[1], history.series("actions")[1]
        first = max(2, round(0.2 * len(means)))
        return math.hypot(float(np.sqrt((within[:first] ** 2).mean())), float(means[:first].std()))


def _longest(history: History) -> tuple[Seen, ...]:
    texts = [
        (len(rollout.text), answers.task, i)
        for answers in history.after
        for i, rollout in enumerate(answers.rollouts)
        if rollout.text
    ]
    found = sorted(texts, key=lambda one: (-one[0], one[1], one[2]))[:3]
    return tuple(Seen("after", task, i, f"{length} characters") for length, task, i in found)
