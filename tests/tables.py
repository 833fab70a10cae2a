"""Ragged tables for tests: trajectories put together by hand or at random, packed by the library itself.

Batches and log-probabilities are returned as Any: the optional streams that a test has filled in are not None to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from saccade.core.batch import Average, Batch, finish, pack
from saccade.core.content import Text
from saccade.core.policy import LogProbs
from saccade.core.reward import Score
from saccade.core.trajectory import Group, Prompt, Task, Trajectory, Turn

FLOAT_STREAMS = ("old_logp", "advantage", "weight", "ref_logp", "value", "final_value")


def prompt(name: str = "task") -> Prompt:
    content = (Text("question"),)
    return Prompt(Task(name, content), content)


def trajectory(
    shared: Prompt,
    *turns: Sequence[float],
    scores: Mapping[str, float | Score | None] | None = None,
    mask: Sequence[Sequence[bool]] | None = None,
    stop: Any = "done",
) -> Trajectory:
    """One turn for each sequence of log-probabilities; a plain number as score is paid at the end."""
    masks = mask or [[True] * len(logp) for logp in turns]
    made = [
        Turn(
            output=(Text("answer"),),
            record=None,
            logp=torch.tensor(list(logp), dtype=torch.float32),
            mask=torch.tensor(list(kept), dtype=torch.bool),
            segment=torch.zeros(len(logp), dtype=torch.int64),
        )
        for logp, kept in zip(turns, masks, strict=True)
    ]
    given = {k: Score(float(s)) if isinstance(s, int | float) else s or Score(None) for k, s in (scores or {}).items()}
    return Trajectory(shared, made, stop, given)


def outcomes(*groups: Sequence[float | None], actions: int = 1) -> Batch:
    """Single-turn trajectories with these outcomes (None: unscored), all of one length."""
    made: list[Group] = []
    for g, group in enumerate(groups):
        shared = prompt(f"task{g}")
        made.append([trajectory(shared, [-1.0] * actions, scores={"r": outcome}) for outcome in group])
    return pack(made)


def random_batch(
    seed: int,
    sizes: Sequence[int] = (3, 1, 4),
    *,
    greedy: bool = False,
    forced: bool = True,
    distinct: bool = False,
    unscored: float = 0.15,
) -> Any:
    """Ragged trajectories of up to three turns, with forced actions, unscored trajectories, several rewards.

    Rewards are multiples of 1/64, so that sums are exact. All streams but weights are filled in, in float64.

    Args:
        greedy: every group gets one more trajectory without trainable actions.
        forced: some actions are masked, and then some trajectories have no trainable action.
        distinct: no two outcomes of a group are equal.
        unscored: share of trajectories that could not be scored.
    """
    rng = np.random.default_rng(seed)
    groups: list[Group] = []
    for g, size in enumerate(sizes):
        shared = prompt(f"task{g}")
        levels = rng.permutation(128)
        group = []
        for i in range(size + greedy):
            lengths = rng.integers(0, 4, size=rng.integers(1, 4))
            lengths[-1] = max(1, lengths[-1])
            is_greedy = greedy and i == size
            keep = 0.0 if is_greedy else 0.8 if forced else 1.0
            level = (levels[i] - 64 if distinct else rng.integers(-64, 65)) / 64
            paid = {int(k): float(rng.integers(-8, 9) / 8) for k in np.flatnonzero(lengths) if rng.random() < 0.4}
            per_action = (rng.integers(-8, 9, size=lengths.sum()) / 8).tolist() if rng.random() < 0.3 else None
            scores = {"right": Score(float(level), {} if distinct else paid), "steps": Score(0.0, actions=per_action)}
            if distinct:
                scores = {"right": scores["right"]}
            if not is_greedy and rng.random() < unscored:
                scores["right"] = Score(None)
            group.append(
                trajectory(
                    shared,
                    *[(-2 * rng.random(n)).tolist() for n in lengths],
                    scores=scores,
                    mask=[(rng.random(n) < keep).tolist() for n in lengths],
                    stop=str(rng.choice(["done", "truncated", "budget", "invalid"])),
                )
            )
        groups.append(group)
    batch = doubled(pack(groups, {"right": 1.0, "steps": 0.5}))
    noise = torch.from_numpy(rng.normal(size=(4, *batch.mask.shape)))
    return replace(
        batch,
        ref_logp=torch.where(batch.mask, batch.old_logp + 0.3 * noise[0], 0.0),
        value=torch.where(batch.real, noise[1], 0.0),
        final_value=torch.from_numpy(rng.normal(size=len(batch))),
        advantage=torch.where(batch.mask, noise[2], 0.0),
    )


def random_out(batch: Batch, seed: int, spread: float = 0.3) -> Any:
    """Current log-probabilities and all else a policy may give, as leaves that take gradients."""
    rng = np.random.default_rng((seed, 1))
    noise = torch.from_numpy(rng.normal(size=(5, *batch.mask.shape)))

    def leaf(x):
        return torch.where(batch.mask, x, 0.0).requires_grad_()

    assert batch.value is not None
    return LogProbs(
        logp=leaf((batch.old_logp + spread * noise[0]).clamp(max=-0.05)),
        entropy=leaf(noise[1].abs()),
        kl=leaf(noise[2] ** 2),
        value=leaf(batch.value + 0.3 * noise[3]),
        views={"view": LogProbs(leaf(batch.old_logp + spread * noise[4]))},
    )


def doubled(batch: Batch) -> Any:
    """The batch in float64."""
    streams = {name: x if x is None else x.double() for name in FLOAT_STREAMS for x in (getattr(batch, name),)}
    return replace(batch, rewards={name: x.double() for name, x in batch.rewards.items()}, **streams)


def cut_out(out: LogProbs, index: torch.Tensor, width: int) -> Any:
    """What a policy would give for the batch taken at these indices."""

    def cut(x):
        return None if x is None else x[index, :width]

    views = {name: cut_out(view, index, width) for name, view in out.views.items()}
    return LogProbs(out.logp[index, :width], cut(out.entropy), cut(out.kl), cut(out.value), views=views)


def padded(batch: Batch, columns: int, garbage: float = 0.0) -> Any:
    """The batch with more padding; streams that no contract sets to zero there hold ``garbage`` on all padding."""

    def wide(x, fill):
        return torch.nn.functional.pad(x, (0, columns), value=fill)

    turn = wide(batch.turn, -1)
    streams = {}
    for name in ("old_logp", "advantage", "weight", "ref_logp", "value"):
        x = getattr(batch, name)
        zero = name in ("advantage", "weight")
        streams[name] = None if x is None else torch.where(turn >= 0, wide(x, 0.0), 0.0 if zero else garbage)
    return replace(
        batch,
        mask=wide(batch.mask, False),
        turn=turn,
        segment=wide(batch.segment, 0),
        rewards={name: wide(x, 0.0) for name, x in batch.rewards.items()},
        **streams,
    )


def padded_out(out: LogProbs, batch: Batch, garbage: float = 0.0) -> Any:
    """What a policy would give for the padded batch, with ``garbage`` on all padding."""

    def wide(x) -> Any:
        if x is None:
            return None
        return torch.where(batch.turn >= 0, torch.nn.functional.pad(x, (0, batch.turn.shape[1] - x.shape[1])), garbage)

    views = {name: padded_out(view, batch, garbage) for name, view in out.views.items()}
    return LogProbs(wide(out.logp), wide(out.entropy), wide(out.kl), wide(out.value), views=views)


def finished(batch: Batch, average: Average = "action") -> Any:
    return doubled(finish(batch, average))
