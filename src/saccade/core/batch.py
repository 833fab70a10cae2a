"""The ``[N, T]`` table: N trajectories, T actions, one float per action and quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.errors import ConfigError
from saccade.core.reward import Score
from saccade.core.segments import group_count
from saccade.core.state import Progress, TaskHistory
from saccade.core.trajectory import Group, Prompt, StopReason, Trajectory


@dataclass(eq=False)
class Batch:
    """Trajectories with their scalars. Outside the mask streams hold zeros: no NaN can travel through a where."""

    trajectories: list[Trajectory]
    """N; payloads stay ragged."""
    prompts: list[Prompt]
    """P; each object once."""
    group: Int[Tensor, "N"]
    """Index into ``prompts``; groups are contiguous and may differ in size."""
    mask: Bool[Tensor, "N T"]
    """Actions that may be trained."""
    turn: Int[Tensor, "N T"]
    """Turn of each action; -1 is padding."""
    segment: Int[Tensor, "N T"]
    old_logp: Float[Tensor, "N T"]
    rewards: dict[str, Float[Tensor, "N T"]]
    """One stream per reward, unweighted."""
    reward_weight: dict[str, float]
    scored: Bool[Tensor, "N"]
    """False where a reward could not score the trajectory: no part in statistics or training."""
    advantage: Float[Tensor, "N T"] | None = None
    weight: Float[Tensor, "N T"] | None = None
    """Averaging rule as numbers; sums to 1 over an optimiser batch. Set by ``learn.step``."""
    ref_logp: Float[Tensor, "N T"] | None = None
    value: Float[Tensor, "N T"] | None = None
    """V of the state before each action, under the critic that saw the rollout."""
    final_value: Float[Tensor, "N"] | None = None
    """V of the state after the last action."""
    counts: tuple[float, float] | None = None
    """Trained trajectories and groups in the optimiser batch, all ranks. Set by ``learn.step``."""
    progress: Progress = field(default_factory=Progress)
    history: TaskHistory = field(default_factory=TaskHistory)

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def real(self) -> Bool[Tensor, "N T"]:
        """Actions, trainable or not; False is padding."""
        return self.turn >= 0

    @property
    def trained(self) -> Bool[Tensor, "N"]:
        """Trajectories with at least one trainable action."""
        return self.mask.any(1)

    @property
    def length(self) -> Int[Tensor, "N"]:
        """Actions of each trajectory."""
        return self.real.sum(1)

    @property
    def truncated(self) -> Bool[Tensor, "N"]:
        """Episodes cut off by a limit outside the task; their values may bootstrap."""
        return self._stopped("truncated")

    @property
    def overlong(self) -> Bool[Tensor, "N"]:
        """Episodes that ended because the policy ran into its action budget."""
        return self._stopped("budget")

    def _stopped(self, reason: StopReason) -> Bool[Tensor, "N"]:
        flags = [trajectory.stop == reason for trajectory in self.trajectories]
        return torch.tensor(flags, dtype=torch.bool, device=self.mask.device)

    @property
    def reward(self) -> Float[Tensor, "N T"]:
        """Weighted sum of the reward streams."""
        total = torch.zeros_like(self.old_logp)
        for name, stream in self.rewards.items():
            total = total + self.reward_weight[name] * stream
        return total

    @property
    def outcome(self) -> Float[Tensor, "N"]:
        """Reward summed over actions."""
        return self.reward.sum(1)

    def adding(self, name: str, stream: Float[Tensor, "N T"], weight: float = 1.0) -> Batch:
        """The batch with one more reward stream."""
        if name in self.rewards:
            raise ValueError(f"the batch has a reward stream {name!r} already")
        rewards = {**self.rewards, name: stream}
        return replace(self, rewards=rewards, reward_weight={**self.reward_weight, name: weight})

    def take(self, index: Int[Tensor, "n"]) -> Batch:
        """The trajectories with these indices, in this order, as long as groups stay contiguous; prompts once each."""
        rows = index.tolist()
        old_group = self.group[index]
        kept, group = torch.unique_consecutive(old_group, return_inverse=True)
        if kept.unique().numel() != kept.numel():
            raise ValueError("Batch.take would tear a group apart: indices of one group must be adjacent")
        width = int(self.length[index].max()) if rows else 0

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else (x[index, :width] if x.ndim > 1 else x[index])

        return replace(
            self,
            trajectories=[self.trajectories[i] for i in rows],
            prompts=[self.prompts[g] for g in kept.tolist()],
            group=group,
            rewards={name: stream[index, :width] for name, stream in self.rewards.items()},
            **{
                name: cut(getattr(self, name))
                for name in (
                    "mask", "turn", "segment", "old_logp", "scored", "advantage", "weight", "ref_logp", "value",
                    "final_value",
                )
            },
        )  # fmt: skip

    def mean_actions(self, x: Float[Tensor, "N T"]) -> Float[Tensor, ""]:
        """This micro-batch's part of the mean over actions of the optimiser batch: ``sum(weight * x)``."""
        assert self.weight is not None, "weights are set by learn.step"
        return (self.weight * x).sum()

    def mean_trajectories(self, x: Float[Tensor, "N"]) -> Float[Tensor, ""]:
        """This micro-batch's part of the mean over trained trajectories of the optimiser batch."""
        assert self.counts is not None, "counts are set by learn.step"
        return torch.where(self.trained, x, 0.0).sum() / max(self.counts[0], 1.0)

    def mean_groups(self, x: Float[Tensor, "P"]) -> Float[Tensor, ""]:
        """This micro-batch's part of the mean over groups of the optimiser batch."""
        assert self.counts is not None, "counts are set by learn.step"
        return x.sum() / max(self.counts[1], 1.0)


Average = Literal["action", "trajectory", "group"] | int
"""What counts equally in the loss: every action, every trajectory, every group; an int c divides by N * c."""


def average_weights(batch: Batch, average: Average) -> Float[Tensor, "N T"]:
    """Weights of the averaging rule over this (whole) optimiser batch.

    - "action":      mask_it / sum(mask)
    - "trajectory":  mask_it / (T_i * N')         with T_i = sum_t mask_it and N' trajectories that have T_i > 0
    - "group":       mask_it / (T_g * P')         with T_g actions in group g and P' groups that have any
    - c (int):       mask_it / (N' * c)           the constant of Dr. GRPO; sums to 1 only if every T_i = c
    """
    mask = batch.mask.float()
    trajectories = batch.trained.float().sum().clamp(min=1)
    if average == "action":
        return mask / mask.sum().clamp(min=1)
    if average == "trajectory":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / trajectories
    if average == "group":
        actions = torch.zeros(len(batch.prompts), device=mask.device).index_add(0, batch.group, mask.sum(1))
        return mask / actions.clamp(min=1)[batch.group][:, None] / (actions > 0).float().sum().clamp(min=1)
    if isinstance(average, int) and average > 0:
        return mask / (trajectories * average)
    raise ConfigError(f"average must be action, trajectory, group or a positive int, got {average!r}")


def finish(batch: Batch, average: Average) -> Batch:
    """The optimiser batch with ``weight`` and ``counts`` set."""
    groups = group_count(batch.group, batch.trained)
    counts = (float(batch.trained.sum()), float((groups > 0).sum()))
    return replace(batch, weight=average_weights(batch, average), counts=counts)


def pack(
    groups: Sequence[Group],
    reward_weight: Mapping[str, float] | None = None,
    *,
    progress: Progress | None = None,
    history: TaskHistory | None = None,
    device: torch.device | str = "cpu",
) -> Batch:
    """Groups of scored trajectories as one table.

    A score's ``value`` is paid at the last action of the trajectory, ``turns[k]`` at the last action of turn k,
    ``actions[t]`` at action t. A trajectory with an unscored (None) reward of non-zero weight is masked out.

    Args:
        groups: trajectories of a group share one prompt object.
        reward_weight: factor of each reward; 1 for names that are missing.

    Raises:
        ValueError: empty batch or group, a trajectory without actions, non-finite log-probability or reward, a score
            that pays a turn or action that does not exist.
    """
    groups = [group for group in groups if group]
    trajectories = [trajectory for group in groups for trajectory in group]
    if not trajectories:
        raise ValueError("pack: the batch is empty")
    prompts = [group[0].prompt for group in groups]
    for group in groups:
        if any(trajectory.prompt is not group[0].prompt for trajectory in group):
            raise ValueError(f"pack: trajectories of task {group[0].task.id!r} do not share one prompt object")
    width = max(trajectory.num_actions for trajectory in trajectories)
    names = list(dict.fromkeys(name for trajectory in trajectories for name in trajectory.scores))
    weights = {name: float((reward_weight or {}).get(name, 1.0)) for name in names}

    shape = (len(trajectories), width)
    mask, turn = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -1, dtype=torch.int64)
    segment, old_logp = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    streams = {name: torch.zeros(shape) for name in names}
    scored = torch.ones(len(trajectories), dtype=torch.bool)
    for i, trajectory in enumerate(trajectories):
        _fill(trajectory, mask[i], turn[i], segment[i], old_logp[i])
        for name in names:
            score = trajectory.scores.get(name)
            if score is None or score.value is None:
                scored[i] = scored[i] & (weights[name] == 0)
            else:
                _pay(trajectory, name, score, streams[name][i])
    mask &= scored[:, None]
    sizes = torch.tensor([len(group) for group in groups])
    return Batch(
        trajectories=trajectories,
        prompts=prompts,
        group=torch.repeat_interleave(torch.arange(len(groups)), sizes).to(device),
        mask=mask.to(device),
        turn=turn.to(device),
        segment=segment.to(device),
        old_logp=torch.where(mask, old_logp, 0.0).to(device),
        rewards={name: stream.to(device) for name, stream in streams.items()},
        reward_weight=weights,
        scored=scored.to(device),
        progress=progress or Progress(),
        history=history or TaskHistory(),
    )


def _fill(trajectory: Trajectory, mask: Tensor, turn: Tensor, segment: Tensor, old_logp: Tensor) -> None:
    if trajectory.num_actions == 0:
        raise ValueError(f"pack: a trajectory of task {trajectory.task.id!r} has no actions")
    start = 0
    for k, step in enumerate(trajectory.turns):
        if not bool(torch.isfinite(step.logp).all()):
            raise ValueError(f"pack: non-finite log-probability in task {trajectory.task.id!r}, turn {k}")
        end = start + step.num_actions
        mask[start:end], turn[start:end], segment[start:end] = step.mask, k, step.segment
        old_logp[start:end] = step.logp
        start = end


def _pay(trajectory: Trajectory, name: str, score: Score, stream: Tensor) -> None:
    where = f"reward {name!r} of task {trajectory.task.id!r}"
    ends: list[int] = []
    for step in trajectory.turns:
        ends.append((ends[-1] if ends else -1) + step.num_actions)
    assert score.value is not None
    stream[ends[-1]] += score.value
    for k, value in score.turns.items():
        if not 0 <= k < len(ends) or trajectory.turns[k].num_actions == 0:
            raise ValueError(f"pack: {where} pays turn {k}, which has no actions; the trajectory has {len(ends)} turns")
        stream[ends[k]] += value
    if score.actions is not None:
        if len(score.actions) != trajectory.num_actions:
            raise ValueError(f"pack: {where} pays {len(score.actions)} actions of {trajectory.num_actions}")
        stream[: len(score.actions)] += torch.as_tensor(score.actions, dtype=stream.dtype)
    if not bool(torch.isfinite(stream).all()) or not math.isfinite(score.value):
        raise ValueError(f"pack: {where} is not finite: {score}")
