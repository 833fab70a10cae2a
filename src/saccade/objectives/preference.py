"""Objectives over preferences, read from the order of outcomes within a group.

w and l are the first trained trajectories with the highest and the lowest outcome of a group. Groups in which these are
equal have no preference: they contribute nothing, but count in the mean over groups. In the formulas ``l_i`` is logp
summed over the trainable actions of a trajectory, ``n_i`` their number, ``D_i = l_i - l_i^ref`` and ``sigma`` the
logistic function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from saccade.core.batch import Batch
from saccade.core.content import text_of
from saccade.core.errors import ConfigError
from saccade.core.objective import Loss, Objective
from saccade.core.policy import LogProbs
from saccade.core.segments import group_argmax, group_argmin, group_count, group_mean
from saccade.core.trajectory import Prompt

_LEAST_NLL = 1e-6


@dataclass(frozen=True)
class DPO(Objective):
    """Direct preference optimisation (arXiv:2305.18290).

    ``L = -mean_g [(1 - smoothing) log sigma(z) + smoothing log sigma(-z)]``,  ``z = beta (D_w - D_l)``
    """

    unit: ClassVar[Literal["trajectory", "group"]] = "group"
    beta: float = 0.1
    smoothing: float = 0.0
    """Probability that a label is wrong (conservative DPO); in [0, 0.5)."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        if not 0 <= self.smoothing < 0.5:
            raise ConfigError(f"smoothing must be in [0, 0.5), got {self.smoothing}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        pairs = _pairs(batch)
        z = self.beta * pairs.difference(_gain(batch, out))
        loss = -(1 - self.smoothing) * logsigmoid(z) - self.smoothing * logsigmoid(-z)
        return pairs.loss(batch, loss, z)


@dataclass(frozen=True)
class RelativeDPO(Objective):
    """Relative preference optimisation: every winner against the losers of related prompts too (arXiv:2406.06382).

    ``L = -mean_g sum_h w_gh log sigma(beta (D_w(g) - D_l(h)))``,  ``w_g = softmax_h(-d_gh / tau)``

    d_gh is the cosine distance of the word counts of two prompts, where the paper has that of CLIP embeddings. With
    tau -> 0 and prompts that differ it is DPO; with tau -> inf all losers count alike.
    """

    unit: ClassVar[Literal["trajectory", "group", "batch"]] = "batch"
    beta: float = 0.1
    tau: float = 0.3
    """Temperature of the comparison between prompts."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        if not self.tau > 0:
            raise ConfigError(f"tau must be > 0, got {self.tau}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        pairs, gain = _pairs(batch), _gain(batch, out)
        margin = self.beta * (gain[pairs.best][:, None] - gain[pairs.worst][None, :])
        nearness = -word_distance(batch.prompts).to(gain) / self.tau
        # A group without a preference is no loser; its own row is left out by ``pairs.loss``.
        weight = torch.where(pairs.valid, nearness, -torch.inf).softmax(1).nan_to_num(0.0)
        return pairs.loss(batch, -(weight * logsigmoid(margin)).sum(1), margin.diagonal())


def word_distance(prompts: Sequence[Prompt]) -> Float[Tensor, "P P"]:
    """1 - cosine of the word counts of the prompts' texts, in float64; 1 to a prompt without words, 0 to itself."""
    counts = [Counter(text_of(prompt.content).lower().split()) for prompt in prompts]
    words = {word: i for i, word in enumerate(sorted(set().union(*counts)))}
    table = torch.zeros(len(prompts), max(1, len(words)), dtype=torch.float64)
    for row, count in zip(table, counts, strict=True):
        for word, times in count.items():
            row[words[word]] = times
    unit = table / table.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (1 - unit @ unit.T).clamp(min=0).fill_diagonal_(0)


@dataclass(frozen=True)
class IPO(Objective):
    """Identity preference optimisation (arXiv:2310.12036).  ``L = mean_g (D_w / n_w - D_l / n_l - 1 / (2 beta))^2``

    Log-ratios are averaged over actions, as TRL does.
    """

    unit: ClassVar[Literal["trajectory", "group"]] = "group"
    beta: float = 0.1

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        pairs = _pairs(batch)
        margin = pairs.difference(_gain(batch, out) / _actions(batch))
        return pairs.loss(batch, (margin - 1 / (2 * self.beta)) ** 2, margin)


@dataclass(frozen=True)
class Hinge(Objective):
    """Sequence likelihood calibration on log-ratios (arXiv:2305.10425, arXiv:2309.06657).

    ``L = mean_g max(0, 1 - beta (D_w - D_l))``
    """

    unit: ClassVar[Literal["trajectory", "group"]] = "group"
    beta: float = 0.1

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        pairs = _pairs(batch)
        z = self.beta * pairs.difference(_gain(batch, out))
        return pairs.loss(batch, relu(1 - z), z)


@dataclass(frozen=True)
class RPO(Objective):
    """DPO plus the winner's likelihood: iterative reasoning preference optimisation (arXiv:2404.19733).

    ``L = mean_g [-log sigma(beta (D_w - D_l)) - alpha l_w / n_w]``

    Not to be confused with relative preference optimisation, which compares across prompts.
    """

    unit: ClassVar[Literal["trajectory", "group"]] = "group"
    beta: float = 0.1
    alpha: float = 1.0
    """Weight of the winner's negative log-likelihood per action."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        if not self.alpha >= 0:
            raise ConfigError(f"alpha must be >= 0, got {self.alpha}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        pairs = _pairs(batch)
        z = self.beta * pairs.difference(_gain(batch, out))
        mean_logp = _sum(batch, out.logp) / _actions(batch)
        return pairs.loss(batch, -logsigmoid(z) - self.alpha * mean_logp[pairs.best], z)


@dataclass(frozen=True)
class SimPO(Objective):
    """Preference optimisation without a reference (arXiv:2405.14734).

    ``L = -mean_g log sigma(beta (l_w / n_w - l_l / n_l) - margin)``
    """

    unit: ClassVar[Literal["trajectory", "group"]] = "group"
    beta: float = 2.0
    margin: float = 0.5
    """The paper's gamma: least difference aimed at."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        pairs = _pairs(batch)
        z = self.beta * pairs.difference(_sum(batch, out.logp) / _actions(batch))
        return pairs.loss(batch, -logsigmoid(z - self.margin), z)


@dataclass(frozen=True)
class ORPO(Objective):
    """Odds-ratio preference optimisation without a reference (arXiv:2403.07691).

    ``L = mean_g [-p_w - beta log sigma(log odds(p_w) - log odds(p_l))]``,  ``p_i = l_i / n_i``,
    ``log odds(p) = p - log(1 - exp p)``

    For discrete actions, whose mean logp is negative; it is held below -1e-6 in the odds.
    """

    unit: ClassVar[Literal["trajectory", "group"]] = "group"
    beta: float = 0.1
    """Weight of the odds-ratio term; the paper's lambda."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        pairs = _pairs(batch)
        mean_logp = _sum(batch, out.logp) / _actions(batch)
        bounded = mean_logp.clamp(max=-_LEAST_NLL)
        log_odds = pairs.difference(bounded - torch.log(-torch.expm1(bounded)))
        return pairs.loss(batch, -mean_logp[pairs.best] - self.beta * logsigmoid(log_odds), log_odds)


@dataclass(frozen=True)
class KTO(Objective):
    """Preference optimisation from single good and bad trajectories (arXiv:2402.01306).

    ``L = mean_i v_i``,  ``v_i = desirable (1 - sigma(beta (D_i - z)))`` where the outcome is above ``threshold``,
    ``undesirable (1 - sigma(beta (z - D_i)))`` elsewhere

    The reference point z, without gradient, stands for KL(policy || reference) on the task's prompt. The paper wants
    the mean of D over samples of the policy and, having none, takes completions of other prompts from the micro-batch,
    which costs further evaluations and ties the loss to the micro-batch. A group here has several completions of one
    prompt, so ``z = max(0, mean of D over the group's trained members)``: with an on-policy feed the sample mean that
    the paper wants, with fixed pairs a reference point like that of BCO (arXiv:2404.04656), which averages over good
    and bad completions. A group of one has no such mean and takes z = 0, as APO-zero does (arXiv:2408.06266).
    """

    unit: ClassVar[Literal["trajectory", "group"]] = "group"
    beta: float = 0.1
    desirable: float = 1.0
    """Weight of good trajectories; with n good and m bad ones the paper wants ``n desirable / (m undesirable)`` in
    [1, 4/3]."""
    undesirable: float = 1.0
    """Weight of bad trajectories."""
    threshold: float = 0.5
    """Trajectories whose outcome is above this are good."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        if not (self.desirable >= 0 and self.undesirable >= 0):
            found = f"{self.desirable} and {self.undesirable}"
            raise ConfigError(f"desirable and undesirable must be >= 0, got {found}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        gain = _gain(batch, out)
        several = group_count(batch.group, batch.trained)[batch.group] > 1
        mean = group_mean(gain.detach(), batch.group, batch.trained)
        origin = torch.where(several, mean.clamp(min=0), 0.0)
        good = batch.outcome > self.threshold
        sign = torch.where(good, 1.0, -1.0)
        weight = torch.where(good, self.desirable, self.undesirable)
        value = weight * torch.sigmoid(-self.beta * sign * (gain - origin))
        stats = {
            "origin": batch.mean_trajectories(origin),
            "accuracy": batch.mean_trajectories((sign * (gain - origin) > 0).to(gain.dtype)),
        }
        return Loss(batch.mean_trajectories(value), stats)


@dataclass(frozen=True)
class BatchKTO(Objective):
    """KTO with one reference point for the whole batch, as Diffusion-KTO has it (arXiv:2404.04465).

    ``L = mean_i w_i (1 - sigma(y_i beta (G_i - Q)))``,  ``G_i = D_i / n_i``,  ``Q = max(0, mean G)`` without gradient

    y_i is 1 and w_i ``desirable`` where the outcome is above ``threshold``, -1 and ``undesirable`` elsewhere. Over a
    surrogate likelihood G is minus the difference of mean matching errors and the released beta is 1000.
    """

    unit: ClassVar[Literal["trajectory", "group", "batch"]] = "batch"
    beta: float = 1000.0
    desirable: float = 1.0
    undesirable: float = 1.0
    threshold: float = 0.5
    """Trajectories whose outcome is above this are good."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)
        if not (self.desirable >= 0 and self.undesirable >= 0):
            found = f"{self.desirable} and {self.undesirable}"
            raise ConfigError(f"desirable and undesirable must be >= 0, got {found}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        gain = _gain(batch, out) / _actions(batch)
        origin = batch.mean_trajectories(gain.detach()).clamp(min=0).to(gain)
        good = batch.outcome > self.threshold
        sign = torch.where(good, 1.0, -1.0)
        weight = torch.where(good, self.desirable, self.undesirable)
        value = weight * torch.sigmoid(-self.beta * sign * (gain - origin))
        stats = {
            "origin": batch.mean_trajectories(origin.expand_as(gain)),
            "good": batch.mean_trajectories(good.to(gain.dtype)),
            "accuracy": batch.mean_trajectories((sign * (gain - origin) > 0).to(gain.dtype)),
        }
        return Loss(batch.mean_trajectories(value), stats)


@dataclass(frozen=True, eq=False)
class _Pairs:
    best: Int[Tensor, "P"]
    worst: Int[Tensor, "P"]
    valid: Bool[Tensor, "P"]

    def difference(self, x: Float[Tensor, "N"]) -> Float[Tensor, "P"]:
        return x[self.best] - x[self.worst]

    def loss(self, batch: Batch, value: Float[Tensor, "P"], margin: Float[Tensor, "P"]) -> Loss:
        """Mean of ``value`` over groups, with statistics of the margin; groups without a preference count as 0."""
        valid, margin = self.valid.to(margin.dtype), margin.detach()
        stats = {
            "pairs": batch.mean_groups(valid),
            "accuracy": batch.mean_groups(valid * (margin > 0)),
            "margin": batch.mean_groups(torch.where(self.valid, margin, 0.0)),
        }
        return Loss(batch.mean_groups(torch.where(self.valid, value, 0.0)), stats)


def _pairs(batch: Batch) -> _Pairs:
    outcome, trained = batch.outcome, batch.trained
    best = group_argmax(torch.where(trained, outcome, -torch.inf), batch.group)
    worst = group_argmin(torch.where(trained, outcome, torch.inf), batch.group)
    return _Pairs(best, worst, trained[best] & trained[worst] & (outcome[best] > outcome[worst]))


def _gain(batch: Batch, out: LogProbs) -> Float[Tensor, "N"]:
    assert batch.ref_logp is not None, "reference log-probabilities are filled in before the loss"
    return _sum(batch, out.logp - batch.ref_logp)


def _sum(batch: Batch, x: Float[Tensor, "N T"]) -> Float[Tensor, "N"]:
    return torch.where(batch.mask, x, 0.0).sum(1)


def _actions(batch: Batch) -> Int[Tensor, "N"]:
    return batch.mask.sum(1).clamp(min=1)


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ConfigError(f"beta must be > 0, got {beta}")
