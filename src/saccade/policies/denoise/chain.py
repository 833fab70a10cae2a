"""Chains of denoising steps: run, recorded, and scored again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.errors import ConfigError, ContractError
from saccade.core.random import fold_in, torch_generator
from saccade.policies.denoise.denoiser import Predictor
from saccade.policies.denoise.noise import Process, along, upcast
from saccade.policies.denoise.steps import Kind, Table


@dataclass(frozen=True)
class Chain:
    """Actions are the steps of the chain; the density of a random step is  N(x'; mean, s^2 I).

    ``logp = reduce_d [-(x'_d - mean_d)^2 / (2 s^2) - log s - log sqrt(2 pi)]``
    """

    reduce: Literal["mean", "sum"] = "mean"
    """Over latent dimensions: the sum is the true density; with the mean, published clip ranges (1e-4 ... 1e-3) fit."""

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "sum"):
            raise ConfigError(f'likelihood.reduce must be "mean" or "sum", got {self.reduce!r}')

    def log_density(
        self, x: Float[Tensor, "R *latent"], mean: Float[Tensor, "R *latent"], std: Float[Tensor, "R"]
    ) -> Float[Tensor, "R"]:
        """Log N(x; mean, std^2 I); no gradient goes through x."""
        z = (x.detach() - mean) / along(std, x)
        return self._over(-0.5 * z**2) + self._times(x) * (-std.to(x).log() - 0.5 * math.log(2 * math.pi))

    def divergence(
        self, mean: Float[Tensor, "R *latent"], other: Float[Tensor, "R *latent"], std: Float[Tensor, "R"]
    ) -> Float[Tensor, "R"]:
        """KL(N(mean, std^2 I) || N(other, std^2 I)) = ||mean - other||^2 / (2 std^2)."""
        return self._over(0.5 * ((mean - other) / along(std, mean)) ** 2)

    def _over(self, values: Float[Tensor, "R *latent"]) -> Float[Tensor, "R"]:
        flat = values.flatten(1)
        return flat.mean(1) if self.reduce == "mean" else flat.sum(1)

    def _times(self, x: Float[Tensor, "R *latent"]) -> int:
        return 1 if self.reduce == "mean" else x[0].numel()


@dataclass(eq=False)
class ChainRecord:
    """What scoring a chain again takes: the states around its random steps."""

    states: Float[Tensor, "m+1 *latent"]
    """x before step ``first``, ..., after the last random step; in the dtype in which they were handed on."""
    first: int
    random: Bool[Tensor, "T"]
    """Steps that were drawn at random."""
    group: int
    """Seed of the group; with ``common`` it says which states several chains have in common."""
    common: int
    """Steps whose input state is that of the whole group; 0 if each member started from its own noise."""
    unguided: Float[Tensor, "m *latent"] | None = None
    """Unconditional predictions at these states."""
    stamp: Any = None
    """Equal to the policy's as long as ``unguided`` is what it would predict now."""

    def state(self, step: int) -> Float[Tensor, "*latent"]:
        """X before this step."""
        return self.states[step - self.first]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be drawn: groups of n members each."""

    prompt: Int[Tensor, "P"]
    """Prompt of each group."""
    kinds: list[list[Kind]]
    """[P][T]"""
    group_seeds: list[int]
    seeds: list[int]
    """P n, one a member."""
    shared: bool
    """Whether the members of a group start from one noise."""

    @property
    def n(self) -> int:
        return len(self.seeds) // len(self.group_seeds)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Finished chains of P n members."""

    final: Float[Tensor, "N *latent"]
    states: list[Tensor]
    """T + 1 tensors ``[U_i, *latent]``: the different states before each step and after the last."""
    owner: list[Int[Tensor, "N"]]
    """T + 1: which of these states each member was in."""
    logp: Float[Tensor, "N T"]
    """Of random steps; 0 elsewhere."""
    unguided: list[Tensor | None]
    """T: unconditional predictions at the states."""


def initial_noise(seed: int, shape: Sequence[int]) -> Float[Tensor, "*latent"]:
    """The pure noise that this seed stands for, in float32 on the CPU."""
    return torch.randn(*shape, generator=torch_generator(fold_in(seed, "start")))


class NoiseSource:
    """The noise of a plan's random steps, step after step. Every member and every group has a stream of its own."""

    def __init__(self, plan: Plan, shape: Sequence[int]) -> None:
        self._plan, self._shape = plan, shape
        self._own = [torch_generator(fold_in(seed, "steps")) for seed in plan.seeds]
        self._common = [torch_generator(fold_in(seed, "common steps")) for seed in plan.group_seeds]

    def kinds(self, table: Table, step: int) -> list[Kind]:
        """The kind of this step in every group; steps without noise are deterministic."""
        possible = float(table.std[step]) > 0
        return [kinds[step] if possible else "still" for kinds in self._plan.kinds]

    def draw(self, kinds: list[Kind], members: Int[Tensor, "R"]) -> Float[Tensor, "R *latent"]:
        """Noise for these members' next step, in float32 on the CPU; none of their groups stands still."""
        shared = {g: self._normal(self._common[g]) for g, kind in enumerate(kinds) if kind == "common"}
        rows = members.tolist()
        groups = [m // self._plan.n for m in rows]
        return torch.stack(
            [shared[g] if g in shared else self._normal(self._own[m]) for m, g in zip(rows, groups, strict=True)]
        )

    def _normal(self, generator: torch.Generator) -> Tensor:
        return torch.randn(*self._shape, generator=generator)


@torch.no_grad()
def run(
    predictor: Predictor,
    process: Process,
    table: Table,
    chain: Chain,
    plan: Plan,
    shape: Sequence[int],
    like: Tensor,
    *,
    noise: NoiseSource | None = None,
    end: int | None = None,
) -> Drawn:
    """Draw all chains of a plan together. States that members have in common are evaluated once.

    Args:
        predictor: the guided network.
        process: what the network was trained on.
        table: the sampler's numbers.
        chain: how steps are scored.
        plan: what is to be drawn.
        shape: of a latent.
        like: device and dtype of states; steps are computed in it and never below float32.
        noise: where the noise of random steps comes from; a fresh source by default.
        end: step before which to stop; T by default.
    """
    noise = noise or NoiseSource(plan, shape)
    end = table.steps if end is None else end
    n, total = plan.n, len(plan.seeds)
    member = torch.arange(total)
    group = member // n
    start = plan.group_seeds if plan.shared else plan.seeds
    x = torch.stack([initial_noise(seed, shape) for seed in start]).to(like)
    owner = group.clone() if plan.shared else member.clone()
    logp = torch.zeros(total, table.steps, device=like.device)
    states, owners, unguided = [x], [owner], []
    for i in range(end):
        kinds = noise.kinds(table, i)
        random = torch.tensor([kind != "still" for kind in kinds])
        own = torch.tensor([kind == "own" for kind in kinds])
        now = group[_representatives(owner)]
        t = table.time[i].expand(len(x)).to(like.device)
        prediction, blank = predictor(x, t, plan.prompt[now])
        clean, rest = process.split(upcast(x), prediction, t)
        mean = table.mean(clean, rest, torch.full((len(x),), i), random[now])
        unguided.append(blank)

        # Members that take noise of their own leave the state they shared.
        _, after = torch.unique(torch.where(own[group], total + member, owner), return_inverse=True)
        first = _representatives(after)
        mean = mean[owner[first].to(like.device)]
        pushed = first[random[group[first]]]
        if len(pushed):
            where = after[pushed].to(like.device)
            std = table.std[i].to(mean)
            x = mean.index_add(0, where, std * noise.draw(kinds, pushed).to(mean)).to(like.dtype)
            scored = chain.log_density(upcast(x), mean, table.std[i].expand(len(x)).to(like.device))
            logp[:, i] = torch.where(random[group].to(like.device), scored[after.to(like.device)].float(), 0.0)
        else:
            x = mean.to(like.dtype)
        owner = after
        states.append(x)
        owners.append(owner)
    return Drawn(x[owner.to(like.device)], states, owners, logp, unguided)


def check_finite(final: Float[Tensor, "N *latent"], names: Sequence[str]) -> None:
    """Raise ``ContractError`` naming the first task whose image is not finite."""
    good = torch.isfinite(final).flatten(1).all(1)
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        count = int((~good).sum())
        raise ContractError(f"task {names[first]!r}: the drawn latent is not finite ({count} of {len(good)} are not)")


def records(drawn: Drawn, plan: Plan, table: Table, stamp: Any) -> list[ChainRecord]:
    """One record a member, on the CPU."""
    n = plan.n
    states = [x.cpu() for x in drawn.states]
    blanks = [None if u is None else u.cpu() for u in drawn.unguided]
    found = []
    for m in range(len(plan.seeds)):
        kinds = plan.kinds[m // n]
        random = torch.tensor([kind != "still" for kind in kinds]) & (table.std > 0)
        own = [i for i in range(table.steps) if random[i] and kinds[i] == "own"]
        places = random.nonzero()[:, 0].tolist() or [0]
        first, last = (own or places)[0], (own or places)[-1]
        before = range(first, last + 1)
        row = [int(drawn.owner[i][m]) for i in range(table.steps + 1)]
        kept = torch.stack([states[i][row[i]] for i in range(first, last + 2)])
        known = [blanks[i] for i in before]
        stored = None
        if stamp is not None and all(u is not None for u in known):
            stored = torch.stack([u[row[i]] for i, u in zip(before, known, strict=True) if u is not None])
        # The state before the first step with noise of its own is still the group's.
        common = (own[0] + 1 if own else table.steps) if plan.shared else 0
        found.append(ChainRecord(kept, first, random, plan.group_seeds[m // n], common, stored, stamp))
    return found


@dataclass(frozen=True, eq=False)
class Rows:
    """Steps that are scored again: U different inputs of the network, and M steps, each with its own outcome."""

    x: Float[Tensor, "U *latent"]
    step: Int[Tensor, "U"]
    prompt: Int[Tensor, "U"]
    unguided: Float[Tensor, "U *latent"] | None
    source: Int[Tensor, "M"]
    """Which input each step started from."""
    after: Float[Tensor, "M *latent"]


def rows_of(
    chains: Sequence[ChainRecord], wanted: Sequence[Sequence[int]], prompts: Sequence[int], stamp: Any, like: Tensor
) -> Rows:
    """The rows of these steps of each chain; the unconditional halves if all of them are still valid.

    Raises:
        ContractError: a step was deterministic and has no density.
    """
    index: dict[tuple[int, ...], int] = {}
    inputs: list[tuple[ChainRecord, int, int]] = []
    source: list[int] = []
    after: list[Tensor] = []
    for place, (record, steps, prompt) in enumerate(zip(chains, wanted, prompts, strict=True)):
        for i in steps:
            if not bool(record.random[i]) or not 0 <= i - record.first < len(record.states) - 1:
                raise ContractError(
                    f"step {i} of a denoising chain was deterministic and has no log-probability; "
                    "rollouts to be scored need sampling.deterministic = false"
                )
            key = (prompt, record.group, i, -1) if i < record.common else (prompt, record.group, i, place)
            if key not in index:
                index[key] = len(inputs)
                inputs.append((record, i, prompt))
            source.append(index[key])
            after.append(record.state(i + 1))
    blanks = [r.unguided[i - r.first] for r, i, _ in inputs if r.unguided is not None and r.stamp == stamp]
    valid = stamp is not None and len(blanks) == len(inputs)
    return Rows(
        torch.stack([r.state(i) for r, i, _ in inputs]).to(like),
        torch.tensor([i for _, i, _ in inputs]),
        torch.tensor([p for *_, p in inputs]),
        torch.stack(blanks).to(like.device) if valid else None,
        torch.tensor(source),
        torch.stack(after).to(like),
    )


def means(
    predictor: Predictor, process: Process, table: Table, rows: Rows, *, use_stored: bool = True
) -> Float[Tensor, "U *latent"]:
    """Means of the random steps from these inputs."""
    t = table.time[rows.step].to(rows.x.device)
    prediction, _ = predictor(rows.x, t, rows.prompt, rows.unguided if use_stored else None)
    clean, noise = process.split(upcast(rows.x), prediction, t)
    return table.mean(clean, noise, rows.step, torch.ones_like(rows.step, dtype=torch.bool))


def _representatives(owner: Int[Tensor, "N"]) -> Int[Tensor, "U"]:
    """The first member in each state."""
    first = torch.full((int(owner.max()) + 1,), len(owner))
    return first.scatter_reduce(0, owner, torch.arange(len(owner)), "amin")
