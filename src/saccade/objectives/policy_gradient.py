"""Policy-gradient objectives: they raise the probability of actions in proportion to their advantage.

In the formulas ``r = exp(logp - old_logp)`` is the ratio of current to behaviour probability; its logarithm is clamped
to [-20, 20]. Means are over actions under the recipe's ``average`` unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.objective import Loss, Objective
from saccade.core.policy import LogProbs

_LOG_RATIO = 20.0
_UNSET = "advantages are filled in before the loss"


@dataclass(frozen=True)
class Reinforce(Objective):
    """Score-function gradient (Williams, 1992).  ``L = -mean A logp``"""

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        return Loss(-batch.mean_actions(batch.advantage * out.logp))


@dataclass(frozen=True)
class PPOClip(Objective):
    """Clipped surrogate (arXiv:1707.06347).  ``L = -mean min(r A, clip(r, 1 - low, 1 + high) A)``

    ``high > low`` is the clip-higher of DAPO (arXiv:2503.14476).
    """

    low: float = 0.2
    """Lower clip range: ratios below 1 - low get no gradient when the advantage is negative."""
    high: float = 0.2
    """Upper clip range: ratios above 1 + high get no gradient when the advantage is positive."""

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        ratio = _ratio(out.logp - batch.old_logp)
        surrogate, cut = _clipped(ratio, batch.advantage, self.low, self.high)
        return Loss(-batch.mean_actions(surrogate), _cut_apart(batch.mean_actions, cut, batch.advantage))


@dataclass(frozen=True)
class ClampedRatio(Objective):
    """The ratio is cut on both sides, whatever the advantage's sign.  ``L = -mean clip(r, 1 - low, 1 + high) A``

    Unlike PPO's minimum, actions outside the range get no gradient even where they should come back. DPOK
    (arXiv:2305.16381), whose range of 1e-4 is for log-probabilities averaged over latent dimensions.
    """

    low: float = 1e-4
    high: float = 1e-4

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        ratio = _ratio(out.logp - batch.old_logp)
        clamped = ratio.clamp(1 - self.low, 1 + self.high)
        cut = (clamped != ratio).to(ratio.dtype)
        return Loss(-batch.mean_actions(clamped * batch.advantage), {"clip_fraction": batch.mean_actions(cut)})


@dataclass(frozen=True)
class DualClip(Objective):
    """PPO clip whose loss is bounded for negative advantages (arXiv:1912.09729).

    ``L = -mean S``,  ``S = min(r A, clip(r, 1 - low, 1 + high) A)``, and ``max(S, c A)`` in its place where A < 0
    """

    low: float = 0.2
    high: float = 0.2
    c: float = 3.0
    """Ratio above which actions of negative advantage get no gradient; > 1 + high."""

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        if not self.c > 1 + self.high:
            raise ConfigError(f"c must be > 1 + high, got {self.c} with high {self.high}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        ratio = _ratio(out.logp - batch.old_logp)
        surrogate, cut = _clipped(ratio, batch.advantage, self.low, self.high)
        bound = self.c * batch.advantage
        negative = batch.advantage < 0
        stats = {
            **_cut_apart(batch.mean_actions, cut, batch.advantage),
            "dual_clip_fraction": batch.mean_actions((negative & (surrogate < bound)).to(ratio.dtype)),
        }
        bounded = torch.where(negative, torch.maximum(surrogate, bound), surrogate)
        return Loss(-batch.mean_actions(bounded), stats)


@dataclass(frozen=True)
class GSPO(Objective):
    """Clipped surrogate with one ratio a trajectory (arXiv:2507.18071).

    ``L = -mean_i min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i)``,  ``s_i = exp(mean_t (logp_it - old_logp_it))``

    A_i is the mean advantage of the trajectory's actions. The mean is over trajectories whatever the recipe's
    ``average``. The defaults are the paper's.
    """

    low: float = 3e-4
    high: float = 4e-4

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        actions = batch.mask.sum(1).clamp(min=1)
        log_ratio = torch.where(batch.mask, out.logp - batch.old_logp, 0.0).sum(1) / actions
        advantage = torch.where(batch.mask, batch.advantage, 0.0).sum(1) / actions
        surrogate, cut = _clipped(_ratio(log_ratio), advantage, self.low, self.high)
        return Loss(-batch.mean_trajectories(surrogate), _cut_apart(batch.mean_trajectories, cut, advantage))


@dataclass(frozen=True)
class CISPO(Objective):
    """Clipped importance weight that never cuts the gradient (arXiv:2506.13585).

    ``L = -mean sg(clip(r, 1 - low, 1 + high)) A logp``, sg without gradient
    """

    low: float = 1.0
    """1 leaves small ratios as they are, as the paper does."""
    high: float = 4.0
    """Weights are capped at 1 + high; 4 is the cap of 5 of ScaleRL (arXiv:2510.13786)."""

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        ratio = _ratio(out.logp.detach() - batch.old_logp)
        weight = ratio.clamp(1 - self.low, 1 + self.high)
        stats = {"clip_fraction": batch.mean_actions((weight != ratio).to(ratio.dtype))}
        return Loss(-batch.mean_actions(weight * batch.advantage * out.logp), stats)


@dataclass(frozen=True)
class TruncatedImportance(Objective):
    """Another objective whose advantages are weighted for the gap between actor and learner.

    ``A' = min(exp(old_logp - actor_logp), cap) A``

    Actor_logp is what the actor reported with each turn. The weight differs from 1 where a served engine acted and
    ``train.old_logp`` is "recompute" (truncated importance sampling, Yao et al., "Your efficient RL framework secretly
    brings you off-policy RL training", 2025).
    """

    inner: Objective
    """An objective over advantages."""
    cap: float = 2.0

    def __post_init__(self) -> None:
        if "advantage" not in self.inner.requires:
            raise ConfigError(f"inner must be an objective over advantages, got {type(self.inner).__name__}")
        if not self.cap > 0:
            raise ConfigError(f"cap must be > 0, got {self.cap}")

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        ratio = _ratio(torch.where(batch.mask, batch.old_logp - actor_logp(batch), 0.0))
        weight = ratio.clamp(max=self.cap)
        loss = self.inner(replace(batch, advantage=weight * batch.advantage), out)
        stats = {"truncated_fraction": batch.mean_actions((ratio > self.cap).to(ratio.dtype))}
        return Loss(loss.value, loss.stats | stats)


def actor_logp(batch: Batch) -> Float[Tensor, "N T"]:
    """Log-probabilities that the actor reported when it acted."""
    rows = [torch.cat([turn.logp for turn in trajectory.turns]) for trajectory in batch.trajectories]
    table = pad_sequence(rows, batch_first=True).to(batch.old_logp)
    return torch.nn.functional.pad(table, (0, batch.mask.shape[1] - table.shape[1]))


def _ratio(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return log_ratio.clamp(-_LOG_RATIO, _LOG_RATIO).exp()


def _clipped(
    ratio: Float[Tensor, "*shape"], advantage: Float[Tensor, "*shape"], low: float, high: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The clipped surrogate, and 1 where the clip cuts the gradient."""
    free, clipped = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return torch.minimum(free, clipped), (clipped < free).to(ratio.dtype)


def _cut_apart(
    mean: Callable[[Float[Tensor, "*shape"]], Tensor], cut: Float[Tensor, "*shape"], advantage: Float[Tensor, "*shape"]
) -> dict[str, Tensor]:
    """Shares that the clip cuts, in all, at the upper range (positive advantages) and at the lower (negative ones)."""
    high, low = torch.where(advantage > 0, cut, 0.0), torch.where(advantage < 0, cut, 0.0)
    return {"clip_fraction": mean(cut), "clip_high": mean(high), "clip_low": mean(low)}


def _check_range(low: float, high: float) -> None:
    if not 0 <= low <= 1:
        raise ConfigError(f"low must be in [0, 1], got {low}")
    if not high >= 0:
        raise ConfigError(f"high must be >= 0, got {high}")
