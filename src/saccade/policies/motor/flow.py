"""A head that draws a chunk by denoising it: actions are inner steps of a flow, with exact normal densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.policy import Sampling
from saccade.core.random import torch_generator
from saccade.policies.denoise.chain import Chain
from saccade.policies.denoise.noise import Flow
from saccade.policies.denoise.steps import FlowSDE, Sampler
from saccade.policies.denoise.surrogate import Surrogate, SurrogateRecord, matching
from saccade.policies.motor.head import Asked, Drawn, Head, HeadNet, ValueRecord, refuse_nucleus, stacked
from saccade.policies.motor.scale import Quantiles, Scale

_WAVES = 8
_DENSITY = Chain("sum")


@dataclass(frozen=True)
class FlowHead(Head):
    """A flow from noise to chunks under the trunk's state; what was drawn is scored step by step.

    ``logp_i = log N(x_{i+1}; mean(x_i, state), (temperature s_i)^2 I)``  for the T steps of ``sampler`` but the last
    ``tail``, which are deterministic and not trained (Flow-GRPO, arXiv:2505.05470, on action heads). The trunk is
    evaluated once a turn, the head T times. Demonstrations are scored by minus the matching error at draws of (time,
    noise), ``logp_k = -w ||v(x_t, t, state) - (e - z)||^2 / (k D)``: their actions are these draws.

    z is in units of ``scale``. There is no closed form of the entropy of a chunk.
    """

    sampler: Sampler = FlowSDE(4)
    tail: int = 1
    demonstrations: Surrogate = Surrogate(draws=4)
    units: Quantiles = Quantiles()

    def __post_init__(self) -> None:
        table = self.sampler.table(Flow())
        if not 0 <= self.tail < table.steps:
            raise ConfigError(f"head.tail must be in [0, {table.steps}), got {self.tail}")
        if float(table.std[: table.steps - self.tail].min()) == 0:
            raise ConfigError(f"head.sampler {type(self.sampler).__name__} has steps without noise; choose another")
        if self.demonstrations.dropout:
            raise ConfigError(f"head.demonstrations.dropout must be 0, got {self.demonstrations.dropout}")

    @property
    def scale(self) -> Quantiles:
        return self.units

    def build(self, width: int, chunk: int, commands: int) -> FlowNet:
        return FlowNet(self, width, chunk, commands)


class FlowNet(HeadNet):
    """An MLP that predicts the velocity of a chunk from the chunk, the time and the trunk's state."""

    provides = frozenset({"kl"})

    def __init__(self, head: FlowHead, width: int, chunk: int, commands: int) -> None:
        super().__init__()
        self.rule = head
        self.process = Flow()
        self.shape = (chunk, commands)
        numbers = chunk * commands
        self.velocity = nn.Sequential(
            nn.Linear(numbers + 2 * _WAVES + width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, numbers),
        )

    def predict(
        self, hidden: Float[Tensor, "R W"], x: Float[Tensor, "R k D"], t: Float[Tensor, "R"]
    ) -> Float[Tensor, "R k D"]:
        """The velocity e - z."""
        phase = math.pi * t.to(x)[:, None] * torch.arange(1, _WAVES + 1, device=x.device)
        told = torch.cat([x.flatten(1), phase.cos(), phase.sin(), hidden], 1)
        return self.velocity(told).reshape(x.shape)

    def means(
        self, hidden: Float[Tensor, "R W"], x: Float[Tensor, "R k D"], step: Int[Tensor, "R"], random: Bool[Tensor, "R"]
    ) -> Float[Tensor, "R k D"]:
        """Means of the next states."""
        table = self.rule.sampler.table(self.process)
        time = table.time[step].to(x.device)
        clean, noise = self.process.split(x, self.predict(hidden, x, time), time)
        return table.mean(clean, noise, step, random)

    def draw(self, hidden: Float[Tensor, "R W"], scale: Scale, sampling: Sampling, seeds: Sequence[int]) -> Drawn:
        refuse_nucleus("FlowHead", sampling)
        table = self.rule.sampler.table(self.process)
        rows, steps = len(hidden), table.steps
        # Always float32 numbers: a policy in double precision meets the same draws.
        drawn = [torch.randn(steps + 1, *self.shape, generator=torch_generator(seed)) for seed in seeds]
        noise = torch.stack(drawn).to(hidden)
        states = [noise[:, 0]]
        mask = torch.arange(steps) < (0 if sampling.deterministic else steps - self.rule.tail)
        logp = hidden.new_zeros(rows, steps)
        for i in range(steps):
            random = mask[i].expand(rows)
            mean = self.means(hidden, states[-1], torch.full((rows,), i), random)
            if not mask[i]:
                states.append(mean)
                continue
            std = (sampling.temperature * table.std[i]).to(mean).expand(rows)
            states.append(mean + std[:, None, None] * noise[:, 1 + i])
            logp[:, i] = _DENSITY.log_density(states[-1], mean, std)
        kept = torch.stack(states, 1).cpu()
        records: list[Any] = [ValueRecord(row.clone(), sampling.temperature) for row in kept]
        return Drawn(scale.decode(states[-1]), records, logp, mask)

    def record(self, commands: Float[Tensor, "k D"], scale: Scale, seed: int) -> tuple[Any, int]:
        rule = self.rule.demonstrations
        z = scale.encode(commands).to(commands).cpu()
        return SurrogateRecord(z, rule, seed, self.rule.sampler.steps, renewed=True), rule.draws

    def score(
        self, hidden: Float[Tensor, "R W"], asked: Asked, other: tuple[HeadNet, Float[Tensor, "R W"]] | None
    ) -> dict[str, Tensor]:
        written = torch.tensor([isinstance(record, SurrogateRecord) for record in asked.records])[asked.row]
        parts = []
        if not bool(written.all()):
            parts.append((~written, self._chains))
        if bool(written.any()):
            parts.append((written, self._matching))
        found: dict[str, Tensor] = {}
        for chosen, kind in parts:
            index = chosen.nonzero()[:, 0]
            for name, values in kind(hidden, asked, index, other).items():
                table = found[name] if name in found else values.new_zeros(len(asked.row))
                found[name] = table.index_put((index.to(values.device),), values)
        return found

    def _chains(
        self,
        hidden: Float[Tensor, "R W"],
        asked: Asked,
        index: Int[Tensor, "m"],
        other: tuple[HeadNet, Float[Tensor, "R W"]] | None,
    ) -> dict[str, Tensor]:
        """Steps of chains that were drawn."""
        table = self.rule.sampler.table(self.process)
        rows, place = asked.row[index].unique(return_inverse=True)
        states, temperature = stacked([asked.records[r] for r in rows.tolist()], hidden, (table.steps + 1, *self.shape))
        step, at = asked.column[index], place.to(hidden.device)
        on = step.to(hidden.device)
        before, after = states[at, on].to(hidden), states[at, on + 1].to(hidden)
        random, row = torch.ones_like(step, dtype=torch.bool), asked.row[index].to(hidden.device)
        mean = self.means(hidden[row], before, step, random)
        std = temperature[at] * table.std[step].to(hidden)
        tables = {"logp": _DENSITY.log_density(after, mean, std)}
        if other is not None:
            net, theirs = other
            assert isinstance(net, FlowNet), "the policies have equal heads"
            with torch.no_grad():
                base = net.means(theirs[row], before.to(theirs), step, random).to(mean)
            tables["kl"] = _DENSITY.divergence(mean, base, std)
        return tables

    def _matching(
        self,
        hidden: Float[Tensor, "R W"],
        asked: Asked,
        index: Int[Tensor, "m"],
        other: tuple[HeadNet, Float[Tensor, "R W"]] | None,
    ) -> dict[str, Tensor]:
        """Draws of (time, noise) on demonstrations."""
        wanted: dict[int, list[int]] = {}
        for row, column in zip(asked.row[index].tolist(), asked.column[index].tolist(), strict=True):
            wanted.setdefault(row, []).append(column)
        records = [asked.records[row] for row in wanted]
        rule = self.rule.demonstrations
        if any(record.rule != rule or tuple(record.latent.shape) != self.shape for record in records):
            raise CapabilityError(f"this head scores demonstrations of shape {list(self.shape)} by {rule}")
        columns = [torch.tensor(some) for some in wanted.values()]
        found = matching(records, columns, list(wanted), -1, self.process, asked.step, hidden)
        row = found.prompt.to(hidden.device)
        prediction = self.predict(hidden[row], found.x, found.t)
        level = found.t / self.process.span
        error = ((prediction - found.target) ** 2).flatten(1).mean(1)
        tables = {"logp": -rule.weighting(error, level)}
        if other is not None:
            net, theirs = other
            assert isinstance(net, FlowNet), "the policies have equal heads"
            with torch.no_grad():
                base = net.predict(theirs[row], found.x.to(theirs), found.t).to(prediction)
            tables["kl"] = rule.weighting.distance(((prediction - base) ** 2).flatten(1).mean(1), level)
        return tables
