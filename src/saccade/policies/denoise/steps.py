"""Samplers: how a chain goes from pure noise to an image, and which of its steps are drawn at random and trained.

Every step of every sampler here has the form  x' = a' x0hat + k ehat + s eps  with x0hat and ehat the network's idea of
the image and the noise in x, a' the signal at the next time and eps standard normal. With k = s' (the level at the next
time) and s = 0 it is the deterministic step, an Euler step of the probability-flow equation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.errors import ConfigError
from saccade.core.random import torch_generator
from saccade.policies.denoise.noise import Diffusion, Flow, Process, along


@dataclass(frozen=True, eq=False)
class Table:
    """The numbers of a chain's T steps, in float64 on the CPU."""

    time: Float[Tensor, "T+1"]
    """Process time before each step and after the last."""
    signal: Float[Tensor, "T"]
    """a' = signal at the next time."""
    level: Float[Tensor, "T"]
    """s' = noise level at the next time: weight of ehat in a deterministic step."""
    direction: Float[Tensor, "T"]
    """k: weight of ehat in a random step."""
    std: Float[Tensor, "T"]
    """s: standard deviation of a random step; 0 where the step can only be deterministic."""

    @property
    def steps(self) -> int:
        return len(self.std)

    def mean(
        self,
        clean: Float[Tensor, "R *latent"],
        noise: Float[Tensor, "R *latent"],
        step: Int[Tensor, "R"],
        random: Bool[Tensor, "R"],
    ) -> Float[Tensor, "R *latent"]:
        """Mean of x' for rows at these steps, taken at random or deterministically."""
        step, random = step.cpu(), random.cpu()
        weight = torch.where(random, self.direction[step], self.level[step])
        return along(self.signal[step], clean) * clean + along(weight, noise) * noise


Numbers = tuple[Float[Tensor, "T"], Float[Tensor, "T"]]
"""k and s of every step, in float64."""


@dataclass(frozen=True)
class Sampler(ABC):
    """A frozen dataclass that fixes the mean and standard deviation of random steps."""

    steps: int = 8
    """T: network evaluations of a chain."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"sampler.steps must be >= 1, got {self.steps}")

    @abstractmethod
    def random_step(self, process: Process, time: Float[Tensor, "T+1"]) -> Numbers:
        """``k`` and ``s`` of every step.

        Raises:
            ConfigError: the sampler does not belong to this process.
        """

    def table(self, process: Process) -> Table:
        """The numbers of all steps."""
        return _table(self, process)


@cache
def _table(sampler: Sampler, process: Process) -> Table:
    time = process.grid(sampler.steps)
    direction, std = sampler.random_step(process, time)
    after = time[1:]
    return Table(time, process.signal(after), process.level(after), direction, std)


@dataclass(frozen=True)
class Euler(Sampler):
    """Deterministic:  x' = a' x0hat + s' ehat;  x + v dt for a flow, DDIM with eta = 0 for a diffusion."""

    def random_step(self, process: Process, time: Float[Tensor, "T+1"]) -> Numbers:
        level = process.level(time[1:])
        return level, torch.zeros_like(level)


@dataclass(frozen=True)
class DDIM(Sampler):
    """``s = eta sqrt((1 - A') / (1 - A) (1 - A / A'))``,  ``k = sqrt(1 - A' - s^2)``  for diffusions.

    eta = 1 is the ancestral sampler of DDPM, eta = 0 deterministic. Paper: Denoising Diffusion Implicit Models
    (arXiv:2010.02502); as a policy: DDPO (arXiv:2305.13301).
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"sampler.eta must be in [0, 1], got {self.eta}")

    def random_step(self, process: Process, time: Float[Tensor, "T+1"]) -> Numbers:
        if not isinstance(process, Diffusion):
            raise ConfigError(f"sampler DDIM belongs to a diffusion, got {type(process).__name__}")
        before, after = process.kept(time[:-1]), process.kept(time[1:])
        variance = (1 - after) / (1 - before) * (1 - before / after)
        std = self.eta * variance.clamp(min=0).sqrt()
        return (1 - after - std**2).clamp(min=0).sqrt(), std


@dataclass(frozen=True)
class _FlowSampler(Sampler):
    """A stochastic equation with the same marginals as the flow, discretised by Euler and Maruyama.

    ``x' = x + [v + sig^2 / (2 t) (x + (1 - t) v)] dt + sig sqrt(-dt) eps``, that is
    ``k = t' + sig^2 dt / (2 t)``,  ``s = sig sqrt(-dt)``
    """

    noise: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise >= 0:
            raise ConfigError(f"sampler.noise must be >= 0, got {self.noise}")

    @abstractmethod
    def diffusion(self, time: Float[Tensor, "T+1"]) -> Float[Tensor, "T"]:
        """``sig`` of every step."""

    def random_step(self, process: Process, time: Float[Tensor, "T+1"]) -> Numbers:
        _check_flow(self, process)
        now, dt = time[:-1], time[1:] - time[:-1]
        sig = self.diffusion(time)
        return time[1:] + sig**2 * dt / (2 * now), sig * (-dt).sqrt()


@dataclass(frozen=True)
class FlowSDE(_FlowSampler):
    """``sig_t = noise sqrt(t / (1 - t))``  of Flow-GRPO (arXiv:2505.05470); at t = 1 the second time stands in 1 - t.

    The last step leaves noise of std ``sig sqrt(t)`` in the image if it is taken at random.
    """

    def diffusion(self, time: Float[Tensor, "T+1"]) -> Float[Tensor, "T"]:
        now = time[:-1]
        rest = torch.where(now < 1, 1 - now, 1 - time[1])
        return self.noise * (now / rest).sqrt()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2:
            raise ConfigError(f"sampler.steps must be >= 2, got {self.steps}")


@dataclass(frozen=True)
class DanceSDE(_FlowSampler):
    """``sig_t = noise``  of DanceGRPO (arXiv:2505.07818)."""

    noise: float = 0.3

    def diffusion(self, time: Float[Tensor, "T+1"]) -> Float[Tensor, "T"]:
        return torch.full_like(time[:-1], self.noise)


@dataclass(frozen=True)
class CPS(Sampler):
    """``s = t' sin(noise pi / 2)``,  ``k = sqrt(t'^2 - s^2)``: coefficient-preserving sampling (arXiv:2509.05952).

    x' has exactly the noise level t', and the last step is deterministic.
    """

    noise: float = 0.7
    """In [0, 1]: 0 is the deterministic step, 1 replaces all noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise <= 1:
            raise ConfigError(f"sampler.noise must be in [0, 1], got {self.noise}")

    def random_step(self, process: Process, time: Float[Tensor, "T+1"]) -> Numbers:
        _check_flow(self, process)
        after = time[1:]
        return after * math.cos(self.noise * math.pi / 2), after * math.sin(self.noise * math.pi / 2)


def _check_flow(sampler: Sampler, process: Process) -> None:
    if not isinstance(process, Flow):
        raise ConfigError(f"sampler {type(sampler).__name__} belongs to a flow, got {type(process).__name__}")


Kind = Literal["still", "common", "own"]
"""A step is deterministic, takes noise that all members of a group share, or noise of each member's own."""


@dataclass(frozen=True)
class StepChoice(ABC):
    """Which steps of a chain are random, and which of these are trained."""

    @abstractmethod
    def kinds(self, steps: int, version: int, seed: int) -> list[Kind]:
        """The kind of every step of a group's chains.

        Args:
            steps: T.
            version: optimiser batches that the acting weights have seen.
            seed: of the group.
        """

    def trained(self, kinds: list[Kind], seed: int) -> Bool[Tensor, "T"]:
        """Steps of one chain that are trained; ``seed`` is the chain's."""
        return torch.tensor([kind == "own" for kind in kinds])

    def check(self, steps: int) -> None:
        """Raise ``ConfigError`` if no step of T would be trained."""
        if "own" not in self.kinds(steps, 0, 0):
            raise ConfigError(f"choice trains no step of a chain of {steps}: {self}")


@dataclass(frozen=True)
class EveryStep(StepChoice):
    """All steps but the last ``tail`` are random and trained; the tail is deterministic.

    A random last step would leave its noise in the image, and its density is steep: Flow-GRPO does not train on it.
    """

    tail: int = 1

    def __post_init__(self) -> None:
        if self.tail < 0:
            raise ConfigError(f"choice.tail must be >= 0, got {self.tail}")

    def kinds(self, steps: int, version: int, seed: int) -> list[Kind]:
        return ["own" if i < steps - self.tail else "still" for i in range(steps)]


@dataclass(frozen=True)
class RandomSteps(EveryStep):
    """As ``EveryStep``, but of each chain only ``count`` steps, drawn without replacement, are trained (DanceGRPO)."""

    count: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ConfigError(f"choice.count must be >= 1, got {self.count}")

    def trained(self, kinds: list[Kind], seed: int) -> Bool[Tensor, "T"]:
        random = super().trained(kinds, seed)
        places = random.nonzero()[:, 0]
        chosen = torch.randperm(len(places), generator=torch_generator(seed))[: self.count]
        mask = torch.zeros_like(random)
        mask[places[chosen]] = True
        return mask


@dataclass(frozen=True)
class Window(StepChoice):
    """Only ``size`` neighbouring steps are random and trained, the others deterministic: MixGRPO (arXiv:2507.21802).

    The window starts at step ``start``, moves on by ``stride`` after every ``every`` optimiser batches and returns to
    ``start`` when it would go beyond step ``end``.
    """

    size: int = 2
    start: int = 0
    stride: int = 1
    every: int = 0
    """0 leaves the window where it is."""
    end: int = 0
    """The window's last step is before this one; 0: before the last step, negative: counted from the end."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise ConfigError(f"choice.size and choice.stride must be >= 1, got {self.size} and {self.stride}")
        if self.start < 0 or self.every < 0:
            raise ConfigError(f"choice.start and choice.every must be >= 0, got {self.start} and {self.every}")

    def position(self, steps: int, version: int, seed: int) -> int:
        """First step of the window."""
        return self.start + self.stride * (version // self.every % self._places(steps) if self.every else 0)

    def kinds(self, steps: int, version: int, seed: int) -> list[Kind]:
        self._places(steps)
        first = self.position(steps, version, seed)
        return ["own" if first <= i < first + self.size else "still" for i in range(steps)]

    def _places(self, steps: int) -> int:
        """Number of positions the window takes."""
        end = self.end if self.end > 0 else steps - 1 + self.end
        room = min(end, steps) - self.size - self.start
        if room < 0:
            raise ConfigError(f"choice: a window of {self.size} steps from step {self.start} does not fit before {end}")
        return room // self.stride + 1


@dataclass(frozen=True)
class RandomWindow(Window):
    """A window whose position is drawn anew for every group."""

    def position(self, steps: int, version: int, seed: int) -> int:
        places = self._places(steps)
        return self.start + self.stride * int(torch.randint(places, (), generator=torch_generator(seed)))


@dataclass(frozen=True)
class Suffix(StepChoice):
    """The last steps are random and trained; those before take noise that the group shares, so that it branches there.

    Their number grows from ``size`` to ``most`` over ``over`` optimiser batches: the backward progressive training and
    branch sampling of B2-DiffuRL (arXiv:2503.11240). Members start from one noise where ``shared_noise`` says so.
    """

    size: int = 4
    most: int = 8
    over: int = 100
    tail: int = 0
    """Deterministic steps at the end, not counted in the above."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.most:
            raise ConfigError(f"choice needs 1 <= size <= most, got {self.size} and {self.most}")
        if self.over < 1 or self.tail < 0:
            raise ConfigError(f"choice needs over >= 1 and tail >= 0, got {self.over} and {self.tail}")

    def kinds(self, steps: int, version: int, seed: int) -> list[Kind]:
        if self.most + self.tail > steps:
            raise ConfigError(f"choice: most + tail = {self.most + self.tail} steps do not fit into {steps}")
        grown = self.size + version * (self.most - self.size + 1) // self.over
        random, last = min(grown, self.most), steps - self.tail
        return ["still" if i >= last else "own" if i >= last - random else "common" for i in range(steps)]
