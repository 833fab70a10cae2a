"""Scatter arithmetic on the table: reductions over groups and turns, first and last actions.

``group [N]`` holds the group index of each trajectory, ``turn [N, T]`` the turn index of each action (-1 is padding).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def group_count(group: Int[Tensor, "N"], valid: Bool[Tensor, "N"] | None = None) -> Float[Tensor, "P"]:
    """Number of (valid) trajectories in each group."""
    ones = torch.ones_like(group, dtype=torch.float32) if valid is None else valid.float()
    return group_sum(ones, group)


def group_sum(x: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Float[Tensor, "P"]:
    """Sum of x over each group."""
    count = int(group.max()) + 1 if group.numel() else 0
    return x.new_zeros(count).index_add(0, group, x)


def group_mean(
    x: Float[Tensor, "N"], group: Int[Tensor, "N"], valid: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """Mean of x over the valid members of each trajectory's group, one value a trajectory; 0 where there is none."""
    kept = x if valid is None else torch.where(valid, x, 0.0)
    mean = group_sum(kept, group) / group_count(group, valid).to(x.dtype).clamp(min=1)
    return mean[group]


def group_std(
    x: Float[Tensor, "N"], group: Int[Tensor, "N"], ddof: int = 0, valid: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """Standard deviation of x over the valid members of each trajectory's group; 0 with ``ddof`` or fewer."""
    squared = (x - group_mean(x, group, valid)) ** 2
    kept = squared if valid is None else torch.where(valid, squared, 0.0)
    degrees = (group_count(group, valid).to(x.dtype) - ddof).clamp(min=1)
    return (group_sum(kept, group) / degrees).sqrt()[group]


def group_max(x: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Largest x of each trajectory's group, one value a trajectory."""
    count = int(group.max()) + 1
    return x.new_full((count,), -torch.inf).scatter_reduce(0, group, x, "amax")[group]


def group_argmax(x: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Int[Tensor, "P"]:
    """Index of the first trajectory with the largest x in each group."""
    best = x == group_max(x, group)
    index = torch.arange(x.shape[0], device=x.device)
    candidates = torch.where(best, index, x.shape[0])
    count = int(group.max()) + 1
    return index.new_full((count,), x.shape[0]).scatter_reduce(0, group, candidates, "amin")


def group_argmin(x: Float[Tensor, "N"], group: Int[Tensor, "N"]) -> Int[Tensor, "P"]:
    """Index of the first trajectory with the smallest x in each group."""
    return group_argmax(-x, group)


def last_action(turn: Int[Tensor, "N T"]) -> Bool[Tensor, "N T"]:
    """True at the last action of each trajectory."""
    real = turn >= 0
    position = torch.arange(turn.shape[1], device=turn.device)
    last = torch.where(real, position, -1).amax(1, keepdim=True)
    return real & (position == last)


def last_of_turn(turn: Int[Tensor, "N T"]) -> Bool[Tensor, "N T"]:
    """True at the last action of each turn."""
    following = torch.cat([turn[:, 1:], turn.new_full((turn.shape[0], 1), -1)], 1)
    return (turn >= 0) & (turn != following)


def per_turn(x: Float[Tensor, "N T"], turn: Int[Tensor, "N T"]) -> Float[Tensor, "N K"]:
    """Sum of x over each turn; columns are turns."""
    turns = int(turn.max()) + 1 if turn.numel() else 0
    real = turn >= 0
    return x.new_zeros(x.shape[0], turns).scatter_add(1, turn.clamp(min=0), torch.where(real, x, 0.0))


def spread_turns(x: Float[Tensor, "N K"], turn: Int[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """The value of its turn at every action; 0 at padding."""
    return torch.where(turn >= 0, x.gather(1, turn.clamp(min=0)), 0.0)


def reverse_cumsum(x: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """``y_t = sum over u >= t of x_u``."""
    return x.flip(1).cumsum(1).flip(1)
