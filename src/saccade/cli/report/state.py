"""State-level numbers and learning curves of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from saccade.cli.report.data import Plain
from saccade.cli.report.files import RunFiles
from saccade.report import curves

SIGNALS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("KL to the reference", ("reference/k1", "reference/k2", "reference/k3", "*/kl"),
     "per action in nats; k1 unbiased and noisy, k2 biased and never negative, k3 unbiased and never negative",
     "logged where an objective or a metric needs a reference policy"),
    ("Entropy", ("policy/entropy", "*/entropy"), "nats per action; a fall to 0 is the end of exploration",
     "logged where an objective asks the policy for entropies"),
    ("Log-probability of what was done", ("policy/logp",), "mean per action under the policy that acted", ""),
    ("Output length", ("actions", "turns"), "actions (tokens, denoising steps, commands) and turns of a rollout", ""),
    ("Length drift", ("drift",), "|mean length - mean length at the start| / its standard deviation there",
     "needs actions/std, which runs log since the spread of lengths is recorded"),
    ("Importance ratio", ("ratio/max", "ratio/ess"),
     "largest ratio of new to old probability, and effective share of actions; 1 on-policy",
     "logged by policy gradients since ratio health is recorded"),
    ("Clipped share", ("*/clip_fraction",), "share of actions whose ratio was clipped; 0 on-policy, above 0.3 too much",
     "logged by clipped objectives"),
    ("Actor against trainer", ("policy/actor_mismatch_k1",),
     "mean log-probability of the actor minus that of the trainer; has to be about 0", ""),
    ("Uniform groups", ("group/uniform", "group/uniform_best", "group/uniform_worst"),
     "share of groups whose rollouts all earned the same; best and worst: all the most, all the least", ""),
    ("Variance by reward term", ("variance/*",), "variance inside groups of each weighted term: what it teaches",
     "logged since the variance of terms is recorded"),
    ("Gradient norm", ("policy/grad_norm", "critic/grad_norm"),
     "before it is scaled down; peaks foretell a collapse", ""),
    ("Cut off", ("overlong",), "share of trajectories that were stopped by a limit", ""),
)  # fmt: skip
"""Name, keys of metrics.jsonl, what they say, why they may be missing."""


def signals(run: RunFiles) -> tuple[list[Plain], list[str]]:
    """State-level numbers over training, and why others are missing."""
    if not run.steps:
        return [], ["No state-level number: metrics.jsonl has no complete line."]
    found: list[Plain] = []
    absent: list[str] = []
    for name, patterns, told, why in SIGNALS:
        lines = [one for key in keys_of(run, patterns) if (one := curves.series(run.steps, key)).values]
        if name == "Output length":
            lines = [one for one in lines if one.name != "turns" or set(one.values) != {1.0}]
        if not lines:
            absent.append(f"{name}: {why or 'not logged by this run'}.")
            continue
        values = [_ends(line) for line in lines]
        start = values[0]["start"] if len(values) == 1 else None
        found.append(
            {"name": name, "told": told, "values": values, "plot": plain_plot(curves.Plot(name, lines, start))}
        )  # fmt: skip
    return found, absent


def keys_of(run: RunFiles, patterns: Sequence[str]) -> list[str]:
    """The keys of the log that a pattern names, each once; a star stands for at least one character."""
    known = list(dict.fromkeys(key for record in run.steps for key in record))
    found: list[str] = []
    for pattern in patterns:
        head, star, tail = pattern.partition("*")
        named = [k for k in known if k.startswith(head) and k.endswith(tail) and len(k) > len(head + tail)]
        found += [k for k in sorted(named) if not k.startswith("loss/")] if star else [k for k in known if k == pattern]
    return list(dict.fromkeys(found))


def _ends(line: curves.Series) -> Plain:
    """Mean over the first and the last tenth of the steps, and the smoothed curve between."""
    size = max(1, len(line.values) // 10)
    first, last = line.values[:size], line.values[-size:]
    return {
        "name": line.name,
        "start": math.fsum(first) / size,
        "final": math.fsum(last) / size,
        "curve": curves.smooth(line.values),
    }


def plain_plot(plot: curves.Plot) -> Plain:
    """A plot as the page draws it."""
    return {
        "title": plot.title,
        "start": plot.start,
        "series": [
            {"name": s.name, "steps": list(s.steps), "values": list(s.values), "errors": list(s.errors)}
            for s in plot.series
        ],
    }


def learning_curves(run: RunFiles) -> list[Plain]:
    """The rewards of training, then every held-out metric."""
    found = curves.plots(run.records)
    rewards = [plot for plot in found if plot.title == "rewards in training"]
    return [plain_plot(plot) for plot in (*rewards, *(p for p in found if p.title.startswith("held-out ")))]
