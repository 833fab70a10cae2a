"""Detectors over rewards: what rises, what should rise with it, and which term a policy feeds on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from saccade.core.errors import ConfigError
from saccade.evaluate.detectors.finding import (
    LEAST_STEPS,
    Detector,
    Finding,
    Seen,
    Trend,
    better,
    ends,
    trend,
)
from saccade.evaluate.detectors.history import History

NO_STEPS = f"fewer than {LEAST_STEPS} training steps with a reward were recorded"
SHOWN = 3
"""Rollouts that a finding points at."""


@dataclass(frozen=True)
class GoldFalls(Detector):
    """The trained reward rises while held-out gold falls: the reward is no longer a measure (Goodhart).

    The reward is that of training, whose prompts change from step to step, or its mean on held-out tasks where that is
    evaluated. Trends over the whole run, and over its second half, where over-optimisation shows first (Gao et al.,
    arXiv:2210.10760). "fail": a gold number falls beyond doubt and none rises. "warn": some fall and some rise, or none
    even points upwards.
    """

    effect: float = 0.1
    """Rise of the reward, in its standard deviations inside groups at the start, below which it is no rise: rewards of
    given data wander by less."""
    confidence: float = 0.99
    """Level of the trends' intervals; several are looked at, so that 0.95 would alarm too often."""

    def __post_init__(self) -> None:
        _check_share("confidence", self.confidence)
        if not self.effect >= 0:
            raise ConfigError(f"effect must be >= 0, got {self.effect}")

    def __call__(self, history: History) -> Finding:
        if trend(history, "reward") is None:
            return self.unknown(NO_STEPS)
        if not history.gold:
            return self.unknown("no held-out metric is known in which more is better")
        verdict, found = "pass", "the reward does not rise while gold falls"
        evidence: dict[str, float | str] = {}
        looked = 0
        spread = ends(history, "group/std")
        least = self.effect * spread[0] if spread else 0.0
        for since, window in ((0.5, "second half"), (0.0, "whole run")):
            proxy = trend(history, "reward", since=since, confidence=self.confidence)
            golds = [trend(history, key, since=since, confidence=self.confidence) for key in history.gold]
            known = [one for one in golds if one is not None]
            if proxy is None or not known:
                continue
            looked += 1
            evidence |= {f"{window}: {one.key}": _told(one) for one in (proxy, *known)}
            falling, rising = [one for one in known if one.falls], [one for one in known if one.rises]
            worst = min(falling or known, key=lambda one: one.change)
            held_out = [trend(history, key, since=since, confidence=self.confidence) for key in history.trained]
            for one in held_out:
                if one is not None and one.rises and not proxy.rises:
                    proxy = one
            up = proxy.rises and proxy.change > least
            if up and falling and not rising:
                verdict, found = "fail", f"over the {window} {proxy} while {worst}"
            elif verdict == "pass" and up and falling:
                verdict, found = "warn", f"over the {window} {proxy}, some gold rises, but {worst}"
            elif verdict == "pass" and not since and up and all(one.change <= 0 for one in known):
                verdict, found = "warn", f"over the {window} {proxy} while no gold number rises ({worst})"
        if not looked:
            return self.unknown(f"none of {', '.join(history.gold)} was evaluated at two steps or more")
        if verdict == "pass":
            found += ": " + ", ".join(f"{key} {value}" for key, value in list(evidence.items())[-3:])
            return Finding(self.name, verdict, found, tuple(evidence.items()))
        return Finding(self.name, verdict, found, tuple(evidence.items()), _paid_best(history))


@dataclass(frozen=True)
class FormatOnly(Detector):
    """The reward rises because outputs have the right form, and nothing else gets better.

    "fail" if the terms for the form make ``share`` of the gain and no gold number (without gold: no other term) rises.
    """

    share: float = 0.8
    """Part of the weighted terms' gains above which the form explains the rise."""
    confidence: float = 0.99

    def __post_init__(self) -> None:
        _check_share("share", self.share)
        _check_share("confidence", self.confidence)

    def __call__(self, history: History) -> Finding:
        if not history.formats:
            return self.unknown("no reward is known to pay for the form of outputs only")
        whole = trend(history, "reward", confidence=self.confidence)
        terms = {name: trend(history, f"reward/{name}", confidence=self.confidence) for name in history.terms}
        gains = {n: history.weights.get(n, 1.0) * one.change for n, one in terms.items() if one is not None}
        formal = [terms[name] for name in history.formats if terms.get(name) is not None]
        if whole is None or not formal:
            return self.unknown(NO_STEPS)
        others = better(history, self.confidence)
        if not history.gold:
            others = [one for name, one in terms.items() if one and one.rises and name not in history.formats]
        paid = math.fsum(gains[name] for name in history.formats if name in gains)
        gained = math.fsum(gain for gain in gains.values() if gain > 0)
        part = paid / gained if gained > 0 else 0.0
        evidence = (*((f"gain of {name}", gain) for name, gain in gains.items()), ("share of the form", part))
        risen = whole.rises and any(one is not None and one.rises for one in formal)
        if risen and part >= self.share and not others:
            told = f"{whole}, and {100 * part:.0f} % of the terms' gain is form, while nothing else rises beyond doubt"
            return Finding(self.name, "fail", told, evidence, _paid_best(history))
        told = f"the form makes {100 * part:.0f} % of the terms' gain ({whole})"
        if others:
            told += f", and {others[0]}"
        return Finding(self.name, "pass", told, evidence)


@dataclass(frozen=True)
class TermDomination(Detector):
    """One reward term makes nearly all of the variance that advantages are made of, and drowns another.

    The share of a term is its weighted variance inside groups over the sum of all terms', at the end of the run. A term
    is drowned if it still differs inside groups (so there is something to learn) and stands still beyond doubt. "fail"
    if the sum rises all the same, "warn" otherwise; terms that everybody has earned are not drowned.
    """

    share: float = 0.8
    """Part of the variance above which the others hardly move the advantage."""
    alive: float = 0.15
    """Standard deviation, in a term's own units inside groups, above which it still differs: that of a reward of 0 or 1
    which 1 in 43 does not get. Terms for the form stay below it as soon as they are learned."""
    still: float = 0.25
    """A term stands still if the upper bound of its rise is below so many of its standard deviations inside groups."""
    confidence: float = 0.99

    def __post_init__(self) -> None:
        _check_share("share", self.share)
        _check_share("confidence", self.confidence)
        if not self.alive > 0 or not self.still > 0:
            raise ConfigError(f"alive and still must be > 0, got {self.alive} and {self.still}")

    def __call__(self, history: History) -> Finding:
        levels = {name: ends(history, f"variance/{name}") for name in history.terms}
        variances = {name: level[1] for name, level in levels.items() if level is not None}
        whole = trend(history, "reward", confidence=self.confidence)
        if len(history.terms) == 1:
            return Finding(self.name, "pass", f"there is one reward term, {history.terms[0]}")
        if whole is None or len(variances) < len(history.terms) or not variances:
            return self.unknown("the variance of each reward term was not recorded, or for too few steps")
        total = math.fsum(variances.values())
        if total == 0:
            return self.unknown("no reward term differs inside groups: none of them has any variance")
        name = max(variances, key=lambda term: variances[term])
        part = variances[name] / total
        evidence = tuple((f"share of {term}", value / total) for term, value in variances.items())
        drowned: list[Trend] = []
        for term, variance in variances.items():
            own = math.sqrt(variance) / abs(history.weights.get(term, 1.0))
            moves = trend(history, f"reward/{term}", confidence=self.confidence)
            if term != name and own > self.alive and moves is not None and moves.high < self.still * own:
                drowned.append(moves)
        told = f"{name} makes {100 * part:.0f} % of the terms' variance inside groups"
        if part <= self.share or not drowned:
            return Finding(self.name, "pass", told, evidence)
        told += f", while {drowned[0]} ({whole})"
        return Finding(self.name, "fail" if whole.rises else "warn", told, evidence)


@dataclass(frozen=True)
class UniformGroups(Detector):
    """Nearly all groups have one outcome for all their members: group-relative advantages are zero there.

    Over the last fifth of the run. Groups that all have the step's best outcome have nothing left to learn ("warn" at
    most); others are stuck.
    """

    most: float = 0.8
    """Share of trajectories in uniform groups above which little is learned: five times fewer than were sampled."""
    stuck: float = 0.95
    """Share above which nothing is."""

    def __post_init__(self) -> None:
        _check_share("most", self.most)
        _check_share("stuck", self.stuck)

    def __call__(self, history: History) -> Finding:
        level = ends(history, "group/uniform")
        if level is None:
            return self.unknown(NO_STEPS)
        if not any(record.get("group/std", 0.0) > 0 for record in history.training) and level[1] == 1.0:
            singles = max((len(one.rollouts) for one in (*history.early, *history.late)), default=0) == 1
            if singles:
                return self.unknown("groups have one member each: they cannot differ")
        best, worst = (ends(history, f"group/uniform_{kind}") for kind in ("best", "worst"))
        evidence: list[tuple[str, float | str]] = [("at the start", level[0]), ("at the end", level[1])]
        evidence += [("at the end, with the best outcome", best[1])] if best else []
        evidence += [("at the end, with the worst outcome", worst[1])] if worst else []
        told = (
            f"{100 * level[1]:.0f} % of trajectories end in groups of one outcome (at the start {100 * level[0]:.0f} %)"
        )
        if level[1] <= self.most:
            return Finding(self.name, "pass", told, tuple(evidence))
        solved = best is not None and best[1] > level[1] / 2 and not (worst and worst[1] >= best[1])
        told += (
            ", most of them all best: the tasks are exhausted" if solved else ": nearly nothing is learned from them"
        )
        failed = level[1] > self.stuck and not solved
        return Finding(self.name, "fail" if failed else "warn", told, tuple(evidence))


def _told(one: Trend) -> str:
    return f"{one.change:+.3g} [{one.low:+.3g}, {one.high:+.3g}]"


def _paid_best(history: History) -> tuple[Seen, ...]:
    """The rollouts after training that are paid best."""
    paid = [
        (rollout.total, answers.task, i)
        for answers in history.after
        for i, rollout in enumerate(answers.rollouts)
        if rollout.total is not None
    ]
    best = sorted(paid, key=lambda one: (-one[0], one[1], one[2]))[:SHOWN]
    return tuple(Seen("after", task, i, f"paid {total:.3g}") for total, task, i in best)


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{name} must be in (0, 1), got {value}")
