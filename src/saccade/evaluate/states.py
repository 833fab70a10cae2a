"""State metrics: the policy itself on held-out rollouts, to be followed over training."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.batch import Batch, pack
from saccade.core.content import text_of
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.kl import K1, K2, K3, Estimator
from saccade.core.metric import Metric, Models, Row
from saccade.core.policy import LogProbs, Need, Policy
from saccade.core.reward import Reward
from saccade.core.trajectory import Group, Trajectory
from saccade.evaluate.samples import totals


@dataclass(frozen=True)
class ActionMean(Metric):
    """Mean over a trajectory's actions of a number about each, one row a trajectory.

    Actions are those that may be trained; all of them where none may (deterministic rollouts).
    """

    tier: ClassVar[Literal["set", "sample", "state"]] = "state"

    at_once: int = 64
    """About how many trajectories go through the policy at a time; groups stay whole."""

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise ConfigError(f"at_once must be >= 1, got {self.at_once}")

    @abstractmethod
    def per_action(self, batch: Batch, models: Models) -> Float[Tensor, "N T"]:
        """The number about each action."""

    @torch.no_grad()
    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        for part in _parts(groups, self.at_once):
            # Weights of 0: here a trajectory counts whether or not a reward could score it.
            unweighted = {name: 0.0 for group in part for trajectory in group for name in trajectory.scores}
            batch = pack(part, unweighted, device=models.policy.device)
            batch = replace(batch, mask=torch.where(batch.trained[:, None], batch.mask, batch.real))
            value = torch.where(batch.mask, self.per_action(batch, models), 0.0)
            mean = value.sum(1) / batch.mask.sum(1)
            rows += [Row(t.task.id, v) for t, v in zip(batch.trajectories, mean.tolist(), strict=True)]
        return rows


@dataclass(frozen=True)
class KLDrift(ActionMean):
    """Drift from the reference:  mean over a trajectory's actions of an estimator of KL(policy || reference).

    Unbiased where the rollouts are samples of the policy; on greedy rollouts it is the drift along the likeliest path.

    Raises:
        CapabilityError: the recipe has no reference policy.
    """

    needs_reference: ClassVar[bool] = True
    estimator: Estimator = K3()

    def per_action(self, batch: Batch, models: Models) -> Float[Tensor, "N T"]:
        if models.reference is None:
            raise CapabilityError("KLDrift needs a reference policy: it compares log-probabilities with its own")
        logp = _log_prob(models.policy, batch).logp
        return self.estimator(logp, _log_prob(models.reference, batch).logp.to(logp.device))


def kl_drifts(at_once: int = 64) -> dict[str, Metric]:
    """``KLDrift`` with each estimator, for a recipe's metrics: k1 is unbiased, k2 and k3 vary less (``core.kl``).

    Where they disagree by much, few actions carry the divergence, and none of them is to be trusted.
    """
    estimators: dict[str, Estimator] = {"k1": K1(), "k2": K2(), "k3": K3()}
    return {f"kl_{name}": KLDrift(at_once, estimator) for name, estimator in estimators.items()}


@dataclass(frozen=True)
class EntropyDrift(ActionMean):
    """Mean entropy in nats of the policy's distribution at a trajectory's actions: its fall is the end of exploration.

    Raises:
        CapabilityError: the policy gives no entropies.
    """

    def per_action(self, batch: Batch, models: Models) -> Float[Tensor, "N T"]:
        entropy = _log_prob(models.policy, batch, Need(entropy=True)).entropy
        if entropy is None:
            raise CapabilityError(f"EntropyDrift needs entropies, which {type(models.policy).__name__} does not give")
        return entropy


@dataclass(frozen=True)
class LengthDrift(Metric):
    """Mean of T - start over trajectories: how far their length has moved from where it was."""

    tier: ClassVar[Literal["set", "sample", "state"]] = "state"

    start: float = 0.0
    """Mean number of actions before training."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [Row(t.task.id, t.num_actions - self.start) for group in groups for t in group]


@dataclass(frozen=True)
class UniformGroups(Metric):
    """Share of groups whose scored trajectories all have the same total: group-relative methods learn nothing there.

    Groups with fewer than two scored trajectories have no row.
    """

    tier: ClassVar[Literal["set", "sample", "state"]] = "state"

    reward: Reward
    tolerance: float = 1e-6
    """Totals this close are the same."""

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ConfigError(f"tolerance must be >= 0, got {self.tolerance}")

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        for group, found in zip(groups, totals(self.reward, groups), strict=True):
            scored = [total for total in found if total is not None]
            if len(scored) > 1:
                rows.append(Row(group[0].task.id, float(max(scored) - min(scored) <= self.tolerance)))
        return rows


@dataclass(frozen=True)
class TextMetric(Metric):
    """A number about the words of a trajectory's outputs, one row a trajectory that has any."""

    tier: ClassVar[Literal["set", "sample", "state"]] = "state"

    @abstractmethod
    def measure(self, text: str) -> float | None: ...

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        found = [(t.task.id, self.measure(_all_text(t))) for group in groups for t in group]
        return [Row(task, value) for task, value in found if value is not None]


@dataclass(frozen=True)
class DistinctNgrams(TextMetric):
    """distinct-n (arXiv:1510.03055): different sequences of n words over all of them, in (0, 1]; low in loops.

    It falls with length by nature: compare outputs of like length. Texts of fewer than n words have no row.
    """

    n: int = 2

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n must be >= 1, got {self.n}")

    def measure(self, text: str) -> float | None:
        found = _ngrams(text.split(), self.n)
        return len(set(found)) / len(found) if found else None


@dataclass(frozen=True)
class Repetition(TextMetric):
    """Share of a text's words that its longest repeated sequence of at least n words covers (``longest_repeat``)."""

    n: int = 3

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n must be >= 1, got {self.n}")

    def measure(self, text: str) -> float | None:
        return longest_repeat(text, self.n) if text.split() else None


MOST_WORDS = 2000
"""Words of a text that are searched for repetitions: loops show at the start of what is degenerate."""


def longest_repeat(text: str, least: int = 3) -> float:
    """Share of a text's words that lie in an occurrence of its longest sequence of words that occurs more than once.

    Occurrences may overlap. 0 if no sequence of at least ``least`` words occurs twice; near 1 in a loop. The first 2000
    words count.
    """
    words = text.split()[:MOST_WORDS]
    low, high = 0, len(words) - 1
    # If a sequence of k words occurs twice, so does one of k - 1: the longest is found by halving.
    while low < high:
        middle = (low + high + 1) // 2
        if max(Counter(map(hash, _ngrams(words, middle))).values(), default=0) > 1:
            low = middle
        else:
            high = middle - 1
    if low < max(1, least):
        return 0.0
    found = _ngrams(words, low)
    counts = Counter(found)
    covered = {i + j for i, sequence in enumerate(found) if counts[sequence] > 1 for j in range(low)}
    return len(covered) / len(words)


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _all_text(trajectory: Trajectory) -> str:
    return "\n".join(text_of(turn.output) for turn in trajectory.turns)


def _parts(groups: Sequence[Group], at_once: int) -> Iterator[list[Group]]:
    part: list[Group] = []
    for group in groups:
        if part and sum(map(len, part)) + len(group) > at_once:
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _log_prob(policy: Policy, batch: Batch, need: Need = Need()) -> LogProbs:
    training = policy.training
    policy.eval()
    try:
        return policy.log_prob(batch, need)
    finally:
        policy.train(training)
