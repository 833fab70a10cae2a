"""One optimiser step: minibatches, micro-batches, the sum of objectives, clipping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from saccade.core.batch import Batch, finish
from saccade.core.errors import CapabilityError, ContractError
from saccade.core.kl import K1, K2, K3
from saccade.core.objective import Objective, View
from saccade.core.policy import LogProbs, Need, Policy
from saccade.core.state import TrainState
from saccade.recipe import Recipe, Train


def minibatches(batch: Batch, train: Train, generator: torch.Generator) -> Iterator[Batch]:
    """``epochs`` passes of ``minibatches`` optimiser batches; groups are shuffled and stay whole."""
    groups = len(batch.prompts)
    for _ in range(train.epochs):
        if train.minibatches == 1:
            yield batch
            continue
        order = torch.randperm(groups, generator=generator)
        for chunk in order.tensor_split(min(train.minibatches, groups)):
            rows = torch.cat([torch.nonzero(batch.group == g).flatten() for g in chunk.tolist()])
            yield batch.take(rows)


def microbatches(batch: Batch, policy: Policy, micro_size: int, *, split_groups: bool) -> Iterator[Batch]:
    """Cuts of at most ``micro_size`` units, in order. Groups are split only if allowed and needed."""
    sizes = [policy.size(trajectory) for trajectory in batch.trajectories]
    shared = [policy.shared_size(prompt) for prompt in batch.prompts]
    if sum(sizes) + sum(shared) <= micro_size:
        yield batch
        return
    group = batch.group.tolist()
    blocks = list(range(len(batch))) if split_groups else group
    cost: dict[int, int] = {}
    for block, size in zip(blocks, sizes, strict=True):
        cost[block] = cost.get(block, 0) + size
    rows: list[int] = []
    filled = 0
    current = None
    for row, block in enumerate(blocks):
        if block != current:
            prompt = 0 if rows and group[rows[-1]] == group[row] else shared[group[row]]
            if rows and filled + prompt + cost[block] > micro_size:
                yield batch.take(torch.tensor(rows))
                rows, filled, prompt = [], 0, shared[group[row]]
            filled += prompt + cost[block]
            current = block
        rows.append(row)
    yield batch.take(torch.tensor(rows))


def total_loss(
    objectives: Mapping[str, Objective], batch: Batch, out: LogProbs
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Sum of the objectives, and every objective's value and statistics under its own name."""
    total = batch.old_logp.new_zeros(())
    stats: dict[str, torch.Tensor] = {}
    for name, objective in objectives.items():
        loss = objective(batch, out)
        total = total + loss.value
        stats[f"loss/{name}"] = loss.value.detach()
        for key, value in loss.stats.items():
            stats[f"{name}/{key}"] = value.detach()
    return total, stats


def evaluate_actions(recipe: Recipe, state: TrainState, batch: Batch) -> LogProbs:
    """Everything the recipe's objectives need to know of a micro-batch, with gradient."""
    needs = recipe.needs
    kl_to = state.reference if "kl" in needs else None
    need = Need(entropy="entropy" in needs, kl_to=kl_to, distribution="distribution" in needs)
    out = state.policy.log_prob(batch, need)
    if state.critic is not None:
        out = replace(out, value=state.critic(batch).value)
    views = {name: view for objective in recipe.objective.values() for name, view in objective.views.items()}
    if "pathwise" in needs:
        out = replace(out, draw=state.policy.rsample)
    if views:
        seen = {name: state.policy.log_prob(_viewed(batch, view), need) for name, view in views.items()}
        out = replace(out, views=seen)
    return out


def _viewed(batch: Batch, view: View) -> Batch:
    prompts = [view(prompt) for prompt in batch.prompts]
    group = batch.group.tolist()
    trajectories = [replace(t, prompt=prompts[g]) for t, g in zip(batch.trajectories, group, strict=True)]
    return replace(batch, prompts=prompts, trajectories=trajectories)


@dataclass
class Health:
    """Numbers about an update that no objective asks for: means over its trained actions, however it was cut.

    ==================  ===========================================================================================
    ``ratio/max``       largest ``r = exp(logp - old_logp)``, the logarithm clamped to [-20, 20]
    ``ratio/ess``       effective share of the actions, ``(sum r)^2 / (n sum r^2)``, in (0, 1]; 1 on-policy
    ``reference/k1``    also k2 and k3: estimates of KL(policy || reference) (``core.kl``), where ``ref_logp`` is known
    ``policy/entropy``  in nats, where an objective asked for entropies
    ==================  ===========================================================================================
    """

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    largest: list[torch.Tensor] = field(default_factory=list)

    @torch.no_grad()
    def add(self, batch: Batch, out: LogProbs, *, ratios: bool) -> None:
        """Take in a micro-batch; ``ratios`` where ``old_logp`` is a behaviour's."""
        logp = out.logp.detach()
        found = {"n": batch.mask.float()}
        if ratios:
            ratio = (logp - batch.old_logp).clamp(-20.0, 20.0).exp()
            found |= {"r": ratio, "r2": ratio**2}
            self.largest.append(torch.where(batch.mask, ratio, 0.0).max())
        if batch.ref_logp is not None:
            estimators = {"k1": K1(), "k2": K2(), "k3": K3()}
            found |= {f"reference/{k}": estimator(logp, batch.ref_logp) for k, estimator in estimators.items()}
        if out.entropy is not None:
            found["policy/entropy"] = out.entropy.detach()
        for key, value in found.items():
            total = torch.where(batch.mask, value, 0.0).sum()
            self.sums[key] = self.sums[key] + total if key in self.sums else total

    def record(self) -> dict[str, float]:
        count = max(1.0, float(self.sums["n"]))
        record = {key: float(total) / count for key, total in self.sums.items() if "/" in key}
        if "r" in self.sums:
            square = max(float(self.sums["r2"]), 1e-30)
            largest = max(map(float, self.largest))
            record |= {"ratio/max": largest, "ratio/ess": float(self.sums["r"]) ** 2 / (count * square)}
        return record


def optimise(recipe: Recipe, state: TrainState, batch: Batch) -> dict[str, float]:
    """One optimiser step on one (whole) optimiser batch; returns its statistics."""
    batch = finish(batch, recipe.average)
    units = {objective.unit for objective in recipe.objective.values()}
    stats: dict[str, torch.Tensor] = {}
    state.optimiser.zero_grad(set_to_none=True)
    cut = microbatches(batch, state.policy, recipe.train.micro_size, split_groups=units <= {"trajectory"})
    micros = [batch] if "batch" in units else list(cut)
    health = Health()
    for micro in state.policy.accumulate(micros):
        out = evaluate_actions(recipe, state, micro)
        loss, found = total_loss(recipe.objective, micro, out)
        found["policy/actor_mismatch_k1"] = micro.mean_actions(micro.old_logp - out.logp.detach())
        found["loss/total"] = loss.detach()
        health.add(micro, out, ratios="advantage" in recipe.needs)
        if loss.requires_grad:
            loss.backward()
        for key, value in found.items():
            stats[key] = stats[key] + value if key in stats else value
    parameters = [p for group in state.optimiser.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.train.max_grad_norm)
    if not bool(torch.isfinite(norm)):
        raise ContractError(f"the gradient's norm at step {state.step} is {float(norm)}; nothing was updated")
    factor = recipe.train.lr_schedule(state.progress)
    for group in state.optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    state.optimiser.step()
    record = {key: float(value) for key, value in stats.items()}
    return {**record, **health.record(), "policy/grad_norm": float(norm)}


@torch.no_grad()
def with_streams(recipe: Recipe, state: TrainState, batch: Batch) -> Batch:
    """The batch with the streams that advantages and objectives ask for: reference, values, recomputed ``old_logp``."""
    needs = recipe.needs
    if recipe.train.old_logp == "recompute":
        batch = replace(batch, old_logp=_in_pieces(recipe, state.policy, batch))
    if "ref_logp" in needs:
        assert state.reference is not None
        batch = replace(batch, ref_logp=_in_pieces(recipe, state.reference, batch))
    if state.critic is not None:
        # Passes without gradient hold little: groups stay whole, so that each prompt is read once.
        micros = microbatches(batch, state.policy, recipe.train.micro_size, split_groups=False)
        pieces = [state.critic(micro) for micro in micros]
        width = batch.mask.shape[1]
        value = torch.cat([_widen(piece.value, width) for piece in pieces])
        batch = replace(batch, value=value, final_value=torch.cat([piece.final for piece in pieces]))
    return batch


def _in_pieces(recipe: Recipe, policy: Policy, batch: Batch) -> torch.Tensor:
    pieces = microbatches(batch, policy, recipe.train.micro_size, split_groups=False)
    return torch.cat([_widen(policy.log_prob(piece).logp, batch.mask.shape[1]) for piece in pieces])


def _widen(x: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))


def check_capabilities(recipe: Recipe, policy: Policy) -> None:
    """Refuse a recipe whose objectives need what its policy does not provide, before the first rollout."""
    from_policy = recipe.needs & {"entropy", "kl", "distribution", "pathwise", "elbo"}
    missing = from_policy - policy.provides
    if missing:
        what = ", ".join(sorted(missing))
        raise CapabilityError(f"{type(policy).__name__} does not provide {what}, which an objective requires")
