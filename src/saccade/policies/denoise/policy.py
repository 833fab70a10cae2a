"""What all policies over denoising steps have in common: drawing images, scoring chains and finished samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.batch import Batch
from saccade.core.content import Content, Image, Video
from saccade.core.errors import CapabilityError, ConfigError, DataError
from saccade.core.policy import Act, LogProbs, Need, Policy, PolicySpec, Sampling
from saccade.core.random import fold_in
from saccade.core.reference import AdaptersOff
from saccade.core.trajectory import Context, Prompt, Trajectory, Turn
from saccade.policies.denoise import chain as chains
from saccade.policies.denoise.chain import Chain, ChainRecord, Drawn, Plan
from saccade.policies.denoise.denoiser import Denoiser, Predictor
from saccade.policies.denoise.noise import Process
from saccade.policies.denoise.pathwise import last_steps
from saccade.policies.denoise.steps import Euler, EveryStep, Sampler, StepChoice, Table
from saccade.policies.denoise.surrogate import LogitNormalTimes, Surrogate, SurrogateRecord, matching

_PROCESS = os.urandom(8)
"""Tells this process's stamps from those of others, whose version counters may be equal."""


@dataclass(frozen=True)
class DenoiseSpec(PolicySpec):
    """How a denoising policy draws and is scored, whatever its network."""

    sampler: Sampler = Euler()
    choice: StepChoice = EveryStep()
    """Which steps are random and trained."""
    likelihood: Chain | Surrogate = Chain()
    """Whether actions are the steps of the chain, or draws of (time, noise) on the finished image."""
    demonstrations: Surrogate = Surrogate(draws=1, times=LogitNormalTimes(0.3, 1.2), dropout=0.1)
    """How images of others are scored where ``likelihood`` is a chain."""
    guidance: float = 1.0
    """w of classifier-free guidance, in chains and evaluation; 1 is none. Surrogates are never guided."""
    guidance_gradient: Literal["conditional", "both"] = "conditional"
    """Whether the unconditional half takes gradient."""
    reuse_unconditional: bool = False
    """Keep the unconditional predictions of a rollout for the update under the same weights (needs "conditional")."""
    shared_noise: bool = False
    """Whether the members of a group start from one noise: what they have in common is evaluated once."""
    eval_steps: int = 20
    """Steps of deterministic rollouts."""
    rows: int = 128
    """Most rows in one forward pass of the network."""

    def __post_init__(self) -> None:
        if not self.guidance >= 0:
            raise ConfigError(f"guidance must be >= 0, got {self.guidance}")
        for name in ("eval_steps", "rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.guidance_gradient not in ("conditional", "both"):
            raise ConfigError(f'guidance_gradient must be "conditional" or "both", got {self.guidance_gradient!r}')
        if self.reuse_unconditional and self.guidance_gradient == "both":
            raise ConfigError(
                'reuse_unconditional needs guidance_gradient "conditional": stored halves have no gradient'
            )


class DenoisePolicy(Policy):
    """Draws an image or a clip in one turn. Actions are denoising steps, or draws of (time, noise) on what is finished.

    Prompts are encoded once per call. Equal states of a group (``shared_noise``) are evaluated once, in ``act`` and in
    ``log_prob``. With ``Sampling(deterministic=True)`` images come from ``eval_steps`` Euler steps, each seed with its
    own noise. ``Sampling.max_actions`` has no meaning here.
    """

    spec: DenoiseSpec

    def __init__(self, spec: DenoiseSpec, denoiser: Denoiser) -> None:
        """The policy of this network.

        Raises:
            ConfigError: sampler, choice and process do not fit together.
        """
        super().__init__()
        self.spec = spec
        self.denoiser = denoiser
        table = self.table
        if isinstance(spec.likelihood, Chain):
            if float(table.std.max()) == 0:
                raise ConfigError(
                    f"sampler {type(spec.sampler).__name__} has no random steps to score; choose another or a Surrogate"
                )
            spec.choice.check(table.steps)
        self.evaluation_table()

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        """The surrogate stands for the evidence lower bound of finished images; chains can be differentiated."""
        found = frozenset({"kl", "pathwise"})
        return found | {"elbo"} if isinstance(self.spec.likelihood, Surrogate) else found

    @property
    def process(self) -> Process:
        return self.denoiser.process

    @property
    def table(self) -> Table:
        """The numbers of training chains."""
        return self.spec.sampler.table(self.process)

    def evaluation_table(self) -> Table:
        """The numbers of deterministic chains."""
        return Euler(self.spec.eval_steps).table(self.process)

    @property
    def states(self) -> Tensor:
        """An empty tensor with the device and dtype in which latents are handed from step to step and recorded.

        Float64 if the network is. Scores are taken of what was handed on, so that the first ratio is 1.
        """
        double = any(p.dtype == torch.float64 for p in self.denoiser.parameters())
        return torch.empty(0, device=self.device, dtype=torch.float64 if double else torch.float32)

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which the network is run."""
        return nullcontext()

    def stamp(self) -> Any:
        """Equal as long as the network computes the same function, in this process."""
        versions = [(p._version, p.data_ptr()) for p in self.denoiser.parameters()]
        return hashlib.blake2b(_PROCESS + repr(versions).encode(), digest_size=16).digest()

    def predictor(self, prompts: Sequence[Prompt], scale: float) -> Predictor:
        """The network under these prompts."""
        spec = self.spec
        return Predictor(self.denoiser, prompts, scale=scale, gradient=spec.guidance_gradient, rows=spec.rows)

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        if sampling.temperature != 1 or sampling.top_p != 1:
            raise ConfigError("sampling.temperature and top_p must be 1: policy.sampler says how random a chain is")
        likelihood = self.spec.likelihood
        scored = isinstance(likelihood, Chain)
        prompts, plan = self._plan(contexts, n, seeds, still=sampling.deterministic)
        table = self.evaluation_table() if sampling.deterministic else self.table
        with self.precision():
            drawn = chains.run(
                self.predictor(prompts, self.spec.guidance),
                self.process,
                table,
                likelihood if scored else Chain(),
                plan,
                self.denoiser.shape,
                self.states,
            )
            names = [context.prompt.task.id for context in contexts for _ in range(n)]
            chains.check_finite(drawn.final, names)
            pixels = [p for part in drawn.final.split(self.spec.rows) for p in self.denoiser.to_pixels(part)]
        if scored:
            acts = self._chain_acts(drawn, plan, table, pixels, sampling.deterministic)
        else:
            acts = self._surrogate_acts(drawn, plan, prompts, pixels, sampling.deterministic)
        return [acts[i * n : (i + 1) * n] for i in range(len(contexts))]

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        columns: dict[str, list[Tensor]] = {"logp": [], "kl": []}
        places: list[tuple[Tensor, Tensor]] = []
        with self.precision():
            for kind in (self._score_chains, self._score_samples):
                if (found := kind(batch, need)) is not None:
                    rows, cols, logp, kl = found
                    places.append((rows, cols))
                    columns["logp"].append(logp)
                    if kl is not None:
                        columns["kl"].append(kl)
        if not places:
            zero = torch.zeros(batch.mask.shape, device=self.device)
            return LogProbs(zero, kl=zero.clone() if need.kl_to is not None else None)
        where = tuple(torch.cat(part).to(self.device) for part in zip(*places, strict=True))

        def table(values: list[Tensor]) -> Tensor:
            together = torch.cat(values)
            return together.new_zeros(batch.mask.shape).index_put(where, together)

        return LogProbs(table(columns["logp"]), kl=table(columns["kl"]) if need.kl_to is not None else None)

    @torch.no_grad()
    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        likelihood = self.spec.likelihood
        rule = likelihood if isinstance(likelihood, Surrogate) else self.spec.demonstrations
        acts = []
        for context, output in zip(contexts, outputs, strict=True):
            wanted = self.denoiser.draws
            drawn = [part for part in output if isinstance(part, wanted)]
            if len(drawn) != 1 or len(output) != 1:
                kinds = ", ".join(type(part).__name__ for part in output) or "nothing"
                what = f"a denoising policy draws one {wanted.__name__}"
                raise DataError(f"task {context.prompt.task.id!r}: {what}, got {kinds}")
            pixels = self.denoiser.pixels_of(drawn[0])
            latent = self.denoiser.from_pixels(pixels).to(self.states.dtype).cpu()
            # Both sides of a pair have the same task, and so the same draws.
            seed = fold_in(0, context.prompt.task.id)
            if not rule.shared:
                seed = fold_in(seed, hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest())
            record = SurrogateRecord(latent, rule, seed, self.spec.sampler.steps, renewed=True)
            acts.append(_act(drawn[0], record, torch.zeros(rule.draws), torch.ones(rule.draws, dtype=torch.bool)))
        return acts

    def rsample(
        self,
        contexts: Sequence[Context],
        *,
        n: int = 1,
        seeds: Sequence[int],
        keep_last: int = 1,
        stop: int | None = None,
    ) -> Float[Tensor, "N 3 *frames H W"]:
        """Images or clips in [0, 1] with gradient through the last steps of their chains.

        Steps before them run without gradient; each of the last ones is checkpointed, so that memory does not grow with
        their number. Random steps are differentiated with their noise held fixed.

        Args:
            contexts: what to draw.
            n: images of each.
            seeds: ``len(contexts) * n``; equal seeds give the images that ``act`` draws.
            keep_last: how many of the last steps carry gradient (DRaFT-K, arXiv:2309.17400).
            stop: leave the chain at this step with the image that the network predicts there, as ReFL does
                (arXiv:2304.05977); the prediction counts as one of the last steps.

        Raises:
            ConfigError: ``keep_last`` or ``stop`` is not a number of steps of the chain.
        """
        prompts, plan = self._plan(contexts, n, seeds, still=False)
        with self.precision():
            latent = last_steps(
                self.predictor(prompts, self.spec.guidance),
                self.process,
                self.table,
                plan,
                self.denoiser.shape,
                self.states,
                keep_last=keep_last,
                stop=stop,
            )
            return torch.cat([self.denoiser.decode(part) for part in latent.split(self.spec.rows)])

    @torch.no_grad()
    def preview(self, turn: Turn, most: int) -> list[Image]:
        """States of the chain from noise to image, evenly spaced, where the turn's record has them.

        Those of a clip are its frames side by side.
        """
        if not isinstance(turn.record, ChainRecord):
            return []
        states = turn.record.states
        chosen = torch.linspace(0, len(states) - 1, min(most, len(states))).round().long()
        with self.precision():
            drawn = self.denoiser.to_pixels(states[chosen].to(self.states))
        return [Image(np.concatenate(p, 1) if p.ndim == 4 else p.copy()) for p in drawn]

    def size(self, trajectory: Trajectory) -> int:
        """Latent positions of the rows that carry gradient."""
        rows = sum(int(turn.mask.sum()) for turn in trajectory.turns)
        positions = 1
        for length in self.denoiser.shape[1:]:
            positions *= length
        return max(rows, 1) * positions

    def _plan(
        self, contexts: Sequence[Context], n: int, seeds: Sequence[int], *, still: bool
    ) -> tuple[list[Prompt], Plan]:
        spec, steps = self.spec, self.spec.sampler.steps
        prompts, of = _different([context.prompt for context in contexts])
        groups = [seeds[i * n] for i in range(len(contexts))]
        if still:
            kinds: list[list[Any]] = [["still"] * spec.eval_steps for _ in groups]
        else:
            kinds = [spec.choice.kinds(steps, self.version, fold_in(seed, "choice")) for seed in groups]
        shared = spec.shared_noise and not still
        return prompts, Plan(torch.tensor(of), kinds, groups, list(seeds), shared)

    def _chain_acts(self, drawn: Drawn, plan: Plan, table: Table, pixels: list[Any], still: bool) -> list[Act]:
        stamp = self.stamp() if self.spec.reuse_unconditional and not still else None
        kept = chains.records(drawn, plan, table, stamp)
        logp, acts = drawn.logp.float().cpu(), []
        for m, record in enumerate(kept):
            mask = torch.zeros(table.steps, dtype=torch.bool)
            if not still:
                kinds = plan.kinds[m // plan.n]
                mask = self.spec.choice.trained(kinds, fold_in(plan.seeds[m], "choice")) & (table.std > 0)
            acts.append(_act(self.denoiser.content(pixels[m]), record, logp[m].clone(), mask))
        return acts

    def _surrogate_acts(
        self, drawn: Drawn, plan: Plan, prompts: list[Prompt], pixels: list[Any], still: bool
    ) -> list[Act]:
        rule = self.spec.likelihood
        assert isinstance(rule, Surrogate)
        final, kept = drawn.final.cpu(), []
        for m in range(len(plan.seeds)):
            seed = fold_in(plan.group_seeds[m // plan.n] if rule.shared else plan.seeds[m], "draws")
            kept.append(SurrogateRecord(final[m].clone(), rule, seed, self.spec.sampler.steps, renewed=False))
        logp = torch.zeros(len(kept), rule.draws)
        if rule.behaviour and not still:
            wanted = [torch.arange(rule.draws)] * len(kept)
            of = plan.prompt.repeat_interleave(plan.n).tolist()
            logp = self._matching(kept, wanted, of, prompts, 0, Need())[0].reshape(logp.shape).float().cpu()
        mask = torch.full((rule.draws,), not still)
        made = [self.denoiser.content(p) for p in pixels]
        return [_act(part, r, lp.clone(), mask.clone()) for part, r, lp in zip(made, kept, logp, strict=True)]

    def _score_chains(self, batch: Batch, need: Need) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
        found = _turns(batch, ChainRecord)
        if not found.records:
            return None
        likelihood = self.spec.likelihood
        if not isinstance(likelihood, Chain):
            raise CapabilityError("a policy with a surrogate likelihood cannot score the steps of a chain")
        table, like = self.table, self.states
        if any(len(record.random) != table.steps for record in found.records):
            raise CapabilityError(
                f"a chain of {len(found.records[0].random)} steps cannot be scored by a sampler of {table.steps}; "
                "deterministic rollouts have no log-probability"
            )
        steps = [index.tolist() for index in found.wanted]
        # Finding out which weights these are takes longer than looking whether anything was kept.
        stamp = self.stamp() if any(record.unguided is not None for record in found.records) else None
        rows = chains.rows_of(found.records, steps, found.prompt, stamp, like)
        mean = chains.means(self.predictor(batch.prompts, self.spec.guidance), self.process, table, rows)
        source = rows.source.to(mean.device)
        std = table.std[rows.step[rows.source]].to(mean.device)
        logp = likelihood.log_density(rows.after.to(mean), mean[source], std)
        kl = None
        if need.kl_to is not None:
            other = _other(need.kl_to, lambda them: them._chain_means(batch, rows))
            shared = std.new_zeros(len(mean)).index_put((source,), std)
            kl = likelihood.divergence(mean, other.to(mean), shared)[source]
        return found.row, found.column, logp, kl

    def _chain_means(self, batch: Batch, rows: chains.Rows) -> Tensor:
        predictor = self.predictor(batch.prompts, self.spec.guidance)
        return chains.means(predictor, self.process, self.table, rows, use_stored=False)

    def _score_samples(self, batch: Batch, need: Need) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
        found = _turns(batch, SurrogateRecord)
        if not found.records:
            return None
        logp, kl = self._matching(found.records, found.wanted, found.prompt, batch.prompts, batch.progress.step, need)
        return found.row, found.column, logp, kl

    def _matching(
        self,
        records: list[SurrogateRecord],
        wanted: list[Tensor],
        of: list[int],
        prompts: Sequence[Prompt],
        step: int,
        need: Need,
    ) -> tuple[Tensor, Tensor | None]:
        """Surrogate log-probabilities of draws, and the distance to another policy's predictions."""
        rule = records[0].rule
        if any(record.rule != rule for record in records):
            raise CapabilityError("samples scored together need one surrogate likelihood")
        rows = matching(records, wanted, of, len(prompts), self.process, step, self.states)
        prediction = self.predictor(prompts, 1.0).plain(rows.x, rows.t, rows.prompt)
        error = ((prediction - rows.target) ** 2).flatten(1).mean(1)
        level = rows.t / self.process.span
        kl = None
        if need.kl_to is not None:
            other = _other(need.kl_to, lambda them: them.predictor(prompts, 1.0).plain(rows.x, rows.t, rows.prompt))
            kl = rule.weighting.distance(((prediction - other.to(prediction)) ** 2).flatten(1).mean(1), level)
        return -rule.weighting(error, level), kl


def _act(drawn: Image | Video, record: Any, logp: Tensor, mask: Tensor) -> Act:
    return Act((drawn,), record, logp, mask, torch.zeros(len(logp), dtype=torch.int64))


def _different(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
    """Each prompt object once, and which one stands at each place."""
    index: dict[int, int] = {}
    for prompt in prompts:
        index.setdefault(id(prompt), len(index))
    of = [index[id(prompt)] for prompt in prompts]
    return [prompts[of.index(k)] for k in range(len(index))], of


def _other(policy: Policy, ask: Any) -> Tensor:
    """What another denoising policy answers, without gradient."""
    if isinstance(policy, AdaptersOff):
        with policy.without_adapters():
            return _other(policy.policy, ask)
    if not isinstance(policy, DenoisePolicy):
        raise CapabilityError(f"exact KL needs a denoising reference policy, got {type(policy).__name__}")
    with torch.no_grad(), policy.precision():
        return ask(policy)


@dataclass(frozen=True, eq=False)
class _Turns:
    """Turns of a batch with one kind of record that have something to be scored."""

    records: list[Any]
    wanted: list[Tensor]
    """Actions of each that are in the mask."""
    prompt: list[int]
    row: Tensor
    column: Tensor
    """Place of every such action in the table."""


def _turns(batch: Batch, kind: type) -> _Turns:
    group, mask = batch.group.tolist(), batch.mask.cpu()
    records, wanted, prompt, row, column = [], [], [], [], []
    for i, trajectory in enumerate(batch.trajectories):
        start = 0
        for turn in trajectory.turns:
            index = mask[i, start : start + turn.num_actions].nonzero()[:, 0]
            if isinstance(turn.record, kind) and len(index):
                records.append(turn.record)
                wanted.append(index)
                prompt.append(group[i])
                row.append(torch.full_like(index, i))
                column.append(index + start)
            start += turn.num_actions
    none = [torch.zeros(0, dtype=torch.int64)]
    return _Turns(records, wanted, prompt, torch.cat(row or none), torch.cat(column or none))
