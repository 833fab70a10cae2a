"""The likelihood of a finished image through the error of denoising it: actions are draws of (time, noise).

``logp_k = -w(t_k) mean (prediction(x_{t_k}, t_k) - target)^2``  with  ``x_t = a_t x0 + s_t e_k``

is, up to a constant, a term of the evidence lower bound for the right w. It needs no chain and no noise in sampling:
DPO, KTO, reward-weighted regression, AWM and NFT are objectives over it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.errors import ConfigError
from saccade.core.random import fold_in, torch_generator
from saccade.policies.denoise.noise import Process


@dataclass(frozen=True)
class Times(ABC):
    """How the times of the draws are chosen."""

    @abstractmethod
    def __call__(self, process: Process, steps: int, count: int, generator: torch.Generator) -> Float[Tensor, "K"]:
        """``count`` process times in float64.

        Args:
            process: whose times they are.
            steps: T of the policy's chains.
            count: K.
            generator: on the CPU.
        """


@dataclass(frozen=True)
class UniformTimes(Times):
    """One uniform draw from each of K equal parts of [low, high], in random order; as fractions of the way to noise."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ConfigError(f"times needs 0 <= low < high <= 1, got {self.low} and {self.high}")

    def __call__(self, process: Process, steps: int, count: int, generator: torch.Generator) -> Float[Tensor, "K"]:
        part = torch.randperm(count, generator=generator) + torch.rand(count, dtype=torch.float64, generator=generator)
        return process.at(self.low + (self.high - self.low) * part / count)


@dataclass(frozen=True)
class LogitNormalTimes(Times):
    """``sigmoid(mean + std N(0, 1))`` as a fraction of the way to noise (arXiv:2403.03206)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigError(f"times.std must be > 0, got {self.std}")

    def __call__(self, process: Process, steps: int, count: int, generator: torch.Generator) -> Float[Tensor, "K"]:
        normal = torch.randn(count, dtype=torch.float64, generator=generator)
        return process.at(torch.sigmoid(self.mean + self.std * normal))


@dataclass(frozen=True)
class ChainTimes(Times):
    """Times at which the policy's own chain evaluates the network, without replacement as long as there are enough."""

    first: int = 0
    """Steps left out at the noisy end."""
    last: int = 0
    """Steps left out at the clean end."""

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < 0:
            raise ConfigError(f"times.first and times.last must be >= 0, got {self.first} and {self.last}")

    def __call__(self, process: Process, steps: int, count: int, generator: torch.Generator) -> Float[Tensor, "K"]:
        times = process.grid(steps)[self.first : steps - self.last]
        if not len(times):
            raise ConfigError(f"times leave out all {steps} steps")
        rounds = -(-count // len(times))
        order = torch.cat([torch.randperm(len(times), generator=generator) for _ in range(rounds)])
        return times[order[:count]]


@dataclass(frozen=True)
class Weighting(ABC):
    """How the matching error becomes minus a log-probability. The noise level is t / span, 1 for pure noise."""

    @abstractmethod
    def __call__(self, error: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """Minus the surrogate log-probability of an error."""

    @abstractmethod
    def distance(self, squared: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """What a squared distance between two predictions counts."""


@dataclass(frozen=True)
class NoiseWeighting(Weighting):
    """``level^power error``: 0 is the plain matching loss; for a flow 2 is the error of the predicted image."""

    power: float = 0.0

    def __call__(self, error: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        return self.distance(error, level)

    def distance(self, squared: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        return squared if self.power == 0 else level.to(squared) ** self.power * squared


@dataclass(frozen=True)
class SignalWeighting(Weighting):
    """``(1 - level)^power error``: with power 2 the weight that Flow-DPO's derivation gives (arXiv:2501.13918).

    Errors at high noise, where a flow decides what is drawn, hardly count.
    """

    power: float = 2.0

    def __call__(self, error: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        return self.distance(error, level)

    def distance(self, squared: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        return (1 - level.to(squared)) ** self.power * squared


@dataclass(frozen=True)
class GeneralisedHuber(Weighting):
    """``level / p ((error + d)^p - d^p)``,  ``d = 1e-10``: large errors count less (AWM, arXiv:2509.25050).

    Distances between predictions stay unweighted.
    """

    p: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ConfigError(f"weighting.p must be in (0, 1], got {self.p}")

    def __call__(self, error: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        small = 1e-10
        return level.to(error) / self.p * ((error + small) ** self.p - small**self.p)

    def distance(self, squared: Float[Tensor, "R"], level: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        return squared


@dataclass(frozen=True)
class Surrogate:
    """Actions are K draws of (time, noise) on the finished image.  ``logp_k = -weighting(error_k, t_k)``

    Errors are means over latent dimensions of the network's own prediction, without guidance. ``Need.kl_to`` gives the
    mean squared distance between the predictions of two policies at the same draws, weighted likewise.
    """

    draws: int = 4
    """K."""
    times: Times = UniformTimes()
    weighting: Weighting = NoiseWeighting()
    shared: bool = True
    """Whether members of a group share their draws: their likelihoods are then compared at equal (time, noise)."""
    behaviour: bool = False
    """Whether ``act`` evaluates the draws under the acting policy. Otherwise ``logp`` is 0 there, and ratios need
    ``train.old_logp = "recompute"``."""
    dropout: float = 0.0
    """Probability that a draw sees the blank caption, from which guidance's unconditional half is learned."""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ConfigError(f"likelihood.draws must be >= 1, got {self.draws}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"likelihood.dropout must be in [0, 1), got {self.dropout}")


@dataclass(eq=False)
class SurrogateRecord:
    """A finished sample and where its draws come from."""

    latent: Float[Tensor, "*latent"]
    rule: Surrogate
    seed: int
    """Of the draws; equal in a group that shares them."""
    steps: int
    """T of the policy's chains."""
    renewed: bool
    """Whether every optimiser batch draws anew, as for images that come back many times in a data set."""


@dataclass(frozen=True, eq=False)
class Draws:
    """K draws of one seed."""

    time: Float[Tensor, "K"]
    noise: Float[Tensor, "K *latent"]
    dropped: Bool[Tensor, "K"]


def draws_of(record: SurrogateRecord, process: Process, step: int) -> Draws:
    """The draws of a record in optimiser batch ``step``."""
    seed = fold_in(record.seed, step) if record.renewed else record.seed
    generator, rule = torch_generator(seed), record.rule
    time = rule.times(process, record.steps, rule.draws, generator)
    # Always float32 numbers: a policy in double precision meets the same draws.
    noise = torch.randn(rule.draws, *record.latent.shape, generator=generator)
    dropped = torch.rand(rule.draws, generator=generator) < rule.dropout
    return Draws(time, noise, dropped)


@dataclass(frozen=True, eq=False)
class Matching:
    """Rows of noisy latents, one for each draw that is to be scored."""

    x: Float[Tensor, "R *latent"]
    t: Float[Tensor, "R"]
    target: Float[Tensor, "R *latent"]
    prompt: Int[Tensor, "R"]
    """The blank one where the caption is dropped."""


def matching(
    records: list[SurrogateRecord],
    wanted: list[Int[Tensor, "k"]],
    prompts: list[int],
    blank: int,
    process: Process,
    step: int,
    like: Tensor,
) -> Matching:
    """The rows of these draws of each record.

    Args:
        records: finished samples.
        wanted: indices of the draws of each record.
        prompts: index of each record's prompt.
        blank: index of the blank prompt.
        process: of the policy.
        step: of the optimiser batch.
        like: device and dtype of the rows.
    """
    known: dict[tuple[int, bool], Draws] = {}
    clean, noise, time, prompt = [], [], [], []
    for record, index, own in zip(records, wanted, prompts, strict=True):
        key = (record.seed, record.renewed)
        if key not in known:
            known[key] = draws_of(record, process, step)
        draws = known[key]
        clean.append(record.latent.expand(len(index), *record.latent.shape))
        noise.append(draws.noise[index])
        time.append(draws.time[index])
        prompt.append(torch.where(draws.dropped[index], blank, own))
    t = torch.cat(time).to(like.device)
    x0, e = torch.cat(clean).to(like), torch.cat(noise).to(like)
    return Matching(process.corrupt(x0, e, t), t, process.target(x0, e, t), torch.cat(prompt))
