"""What must hold beside the seconds: equal gradients, equal log-probabilities, and how near the matrix-product bound.

``plain`` is a batch that repeats picture and prompt for every completion, written here with transformers alone.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from saccade.advantages.group import GroupNorm
from saccade.core.batch import Batch, finish, pack
from saccade.core.random import fold_in
from saccade.core.reward import Score
from saccade.core.trajectory import Context, Group, Prompt, Trajectory, Turn
from saccade.learn.step import total_loss
from saccade.policies.token.chat import IMAGE
from saccade.policies.token.hf_policy import HFVisionLanguagePolicy
from saccade.policies.token.record import TokenRecord
from vlm_grpo import ours, problem

Gradient = dict[str, Tensor]


def gradient(module: nn.Module) -> Gradient:
    """Gradients by name, moved out of the module."""
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def relative_error(found: Gradient, right: Gradient) -> dict[str, Any]:
    """``|found - right| / |right|`` over all parameters, and the worst of a single one.

    The bias of a key projection adds the same number to all scores of a query, so that its gradient is zero and its
    relative error means nothing: it counts in the whole, and is left out of the worst.
    """
    if found.keys() != right.keys():
        raise ValueError(f"gradients of different parameters: {sorted(found.keys() ^ right.keys())[:4]}")
    gaps = {name: float((found[name].double() - g.double()).norm()) for name, g in right.items()}
    sizes = {name: float(g.double().norm()) for name, g in right.items()}
    if not any(sizes.values()):
        raise ValueError("nothing to compare: the rewards of the first step are all equal; take a larger --group")
    whole = sum(gap**2 for gap in gaps.values()) ** 0.5 / sum(size**2 for size in sizes.values()) ** 0.5
    names = [name for name in gaps if not name.endswith("k_proj.bias") and sizes[name] > 0]
    worst = max(names, key=lambda name: gaps[name] / sizes[name])
    return {"whole": whole, "worst": gaps[worst] / sizes[worst], "worst_parameter": worst, "parameters": len(gaps)}


def drawn(policy: HFVisionLanguagePolicy, settings: problem.Settings) -> list[Group]:
    """A group of completions for each of the first prompts, sampled by the library."""
    tasks, size = ours.tasks(settings), settings.group
    prompts = [Prompt(tasks[i], tasks[i].prompt) for i in range(settings.prompts)]
    seeds = [fold_in(7, i) for i in range(settings.prompts * size)]
    answers = policy.act([Context(p) for p in prompts], n=size, sampling=ours.sampling(settings), seeds=seeds)
    return [
        [Trajectory(prompt, [Turn(act.output, act.record, act.logp, act.mask, act.segment)]) for act in acts]
        for prompt, acts in zip(prompts, answers, strict=True)
    ]


def without_pictures(groups: Sequence[Group], image_token: int) -> list[Group]:
    """The same with every sampled image token replaced: the stock model takes it for a picture."""
    for group in groups:
        for trajectory in group:
            (turn,) = trajectory.turns
            ids = turn.record.ids
            turn.record = TokenRecord(ids.masked_fill(ids == image_token, image_token + 2), turn.record.temperature)
    return list(groups)


def ready(policy: HFVisionLanguagePolicy, groups: Sequence[Group], seed: int) -> Batch:
    """The groups with advantages of either sign and old log-probabilities a little off, some of them out of range."""
    batch = finish(pack(groups, device=policy.device), "action")
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        logp = policy.log_prob(batch).logp.float()
    noise = torch.randn(batch.mask.shape, generator=dice).to(logp)
    advantage = torch.randn(len(batch), 1, generator=dice).to(logp)
    return replace(batch, old_logp=logp + 0.1 * noise, advantage=advantage * batch.mask)


@dataclass(frozen=True)
class Plain:
    """The stock model on one prompt and its completions: everything repeated G times."""

    inputs: dict[str, Tensor]
    ids: Tensor
    """Completions [G, C]."""
    old_logp: Tensor
    advantage: Tensor
    weight: Tensor
    bf16: bool
    """Whether the forward pass is autocast."""

    def __call__(self, model: Any) -> Tensor:
        """Forward and backward; returns the log-probabilities [G, C]."""
        prompt, group = self.inputs["input_ids"].shape[1], len(self.ids)
        ids = torch.cat([self.inputs["input_ids"].expand(group, -1), self.ids], 1)
        kinds = self.inputs["mm_token_type_ids"].expand(group, -1)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = model.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=self.inputs["pixel_values"].repeat(group, 1).to(model.dtype),
                image_grid_thw=self.inputs["image_grid_thw"].repeat(group, 1),
                mm_token_type_ids=torch.cat([kinds, torch.zeros_like(self.ids)], 1),
            ).last_hidden_state[:, prompt - 1 : -1]
            logits = model.lm_head(hidden)
        wide = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
        logp = wide.gather(-1, self.ids[..., None])[..., 0]
        ratio, clip = (logp - self.old_logp).exp(), problem.CLIP
        surrogate = torch.minimum(ratio * self.advantage, ratio.clamp(1 - clip, 1 + clip) * self.advantage)
        (-(self.weight * surrogate).sum()).backward()
        return logp.detach()


def plain_parts(settings: problem.Settings, batch: Batch) -> list[Plain]:
    """The batch for the stock model, prompt by prompt, so that nothing is padded and one graph is held at a time."""
    processor, rows = problem.load_processor(settings.folder), problem.load_rows(settings)
    assert batch.weight is not None and batch.advantage is not None
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    parts: list[Plain] = []
    for g in range(len(batch.prompts)):
        inputs = processor.apply_chat_template([problem.chat(rows[g])], **options).to(settings.device)
        mine = batch.group == g
        trajectories = [t for t, chosen in zip(batch.trajectories, mine.tolist(), strict=True) if chosen]
        ids = torch.stack([t.turns[0].record.ids for t in trajectories]).to(settings.device)
        scalars = (batch.old_logp[mine], batch.advantage[mine], batch.weight[mine])
        parts.append(Plain(dict(inputs), ids, *scalars, bf16=settings.bf16))
    return parts


def plain_pass(model: Any, parts: Sequence[Plain]) -> Tensor:
    return torch.cat([part(model) for part in parts])


def shared_pass(policy: HFVisionLanguagePolicy, settings: problem.Settings, batch: Batch) -> Tensor:
    """The library's training pass: log-probabilities, loss, backward."""
    out = policy.log_prob(batch)
    loss, _ = total_loss(ours.objective(replace(settings, beta=0.0)), batch, out)
    loss.backward()
    return out.logp.detach()


def against_plain(policy: HFVisionLanguagePolicy, model: Any, settings: problem.Settings, batch: Batch) -> dict:
    """Error of the library's gradient, the stock model's taken for right."""
    parts = plain_parts(settings, batch)
    right, theirs = plain_pass(model, parts), gradient(model)
    found, own = shared_pass(policy, settings, batch), gradient(policy.base)
    return {**relative_error(own, theirs), "log_prob": float((found - right).abs().max())}


def against_peer(policy: HFVisionLanguagePolicy, settings: problem.Settings) -> dict[str, Any]:
    """Error of the library's gradient, TRL's taken for right: its completions and rewards, at the same weights."""
    told = load_file(settings.peer_step, device=settings.device)
    theirs = {name.removeprefix("grad."): told.pop(name) for name in list(told) if name.startswith("grad.")}
    image_token = policy.base.config.image_token_id
    tasks, groups, where = ours.tasks(settings), [], []
    for row in told["row"].unique().tolist():
        prompt = Prompt(tasks[row], tasks[row].prompt)
        index = (told["row"] == row).nonzero()[:, 0].tolist()
        read = policy.reader.prompt(prompt.content).ids
        read = torch.where(read == IMAGE, image_token, read)
        for i in index:
            if not torch.equal(told["prompt_ids"][i][told["prompt_mask"][i].bool()].cpu(), read):
                raise ValueError(f"the two sides read the prompt of task {row} as different tokens")
        groups.append([_completion(policy, prompt, told["completion_ids"][i], told["reward"][i]) for i in index])
        where += index
    order = torch.tensor(where, device=settings.device)
    batch = finish(pack(groups, device=settings.device), "action")
    with torch.no_grad():
        logp = policy.log_prob(batch).logp
    batch = replace(batch, old_logp=logp.float())

    peer = told["advantage"][order, None] * batch.mask
    kinds = {"own_advantage": ours.ADVANTAGE(batch), "peer_advantage": peer, "library_default": GroupNorm()(batch)}
    found: dict[str, Any] = {}
    for name, advantage in kinds.items():
        shared_pass(policy, settings, replace(batch, advantage=advantage))
        found[name] = relative_error(gradient(policy.base), theirs)
    return {
        **found,
        "log_prob": float((logp - told["logp"][order]).abs().max()),
        "advantage": float((kinds["own_advantage"] - peer).abs().max()),
        "notes": "own_advantage: GroupNorm(eps=1e-4, ddof=1), TRL's scale_rewards='group'. library_default: "
        "GroupNorm(), which divides by the population's standard deviation (ddof=0): longer by sqrt(G / (G - 1)), "
        "the same direction. TRL's loss_type 'dapo' and average='action' divide by the number of completion tokens.",
    }


def _completion(policy: HFVisionLanguagePolicy, prompt: Prompt, ids: Tensor, paid: Tensor) -> Trajectory:
    (act,) = policy.encode([Context(prompt)], [()])
    ids, nothing = ids.cpu(), torch.zeros(len(ids))
    turn = Turn(act.output, TokenRecord(ids), nothing, nothing == 0, nothing.long())
    return Trajectory(prompt, [turn], scores={"reward": Score(float(paid))})


def training_pass(policy: HFVisionLanguagePolicy, model: Any, settings: problem.Settings, batch: Batch) -> dict:
    """Forward and backward of one update: seconds of both ways, interleaved, and counted operations."""
    parts = plain_parts(settings, batch)
    ways: dict[str, tuple[nn.Module, Callable[[], Any]]] = {
        "plain": (model, lambda: plain_pass(model, parts)),
        "shared": (policy, lambda: shared_pass(policy, settings, batch)),
    }
    flops = {name: counted(run) for name, (_, run) in ways.items()}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(settings.rounds):
        for name, (module, run) in ways.items():
            module.zero_grad(set_to_none=True)
            gc.collect()
            began = _now(settings)
            run()
            ended = _now(settings)
            wall[name].append(ended[0] - began[0])
            cpu[name].append(ended[1] - began[1])
    # On an accelerator the processor's seconds say little.
    seconds = wall if settings.device == "cuda" else cpu
    ratio = statistics.median(seconds["plain"]) / statistics.median(seconds["shared"])
    bound = flops["plain"] / flops["shared"]
    return {
        **{f"{name}_cpu_s": statistics.median(cpu[name]) for name in ways},
        **{f"{name}_wall_s": statistics.median(wall[name]) for name in ways},
        "cpu_s": cpu,
        "wall_s": wall,
        "ratio": ratio,
        "ratio_range": [f(x / y for x, y in zip(seconds["plain"], seconds["shared"], strict=True)) for f in (min, max)],
        "flops_plain": flops["plain"],
        "flops_shared": flops["shared"],
        "flop_bound": bound,
        "fraction_of_flop_bound": ratio / bound,
        "notes": "matrix products of forward and backward, counted by torch's FlopCounterMode, which has no formula "
        "for flash attention on the CPU: attention is left out on both sides. plain scores completion positions only.",
    }


@torch.no_grad()
def step_bound(model: Any, settings: problem.Settings, batch: Batch) -> dict[str, Any]:
    """How much less work a whole step can be, in matrix products.

    With V the vision tower's forward pass, P the prompt's through the decoder, C a completion's through decoder and
    head, and f forward passes (1 rollout, 1 reference if there is a KL term, 3 an inner iteration; TRL one more for old
    log-probabilities if there are several): ``plain = f' G (V + P + C)``, ``shared = f (V + P) + f G C``, and
    ``f - 1`` prefix passes where the rollout's is trained through.
    """
    part, weights = plain_parts(settings, batch)[0], model.dtype
    hidden, prompt = model.config.text_config.hidden_size, part.inputs["input_ids"].shape[1]
    pixels, grid = part.inputs["pixel_values"].to(weights), part.inputs["image_grid_thw"]
    text = model.model.language_model

    def states(length: int) -> Tensor:
        return torch.zeros(1, length, hidden, dtype=weights, device=model.device)

    vision = counted(lambda: model.model.get_image_features(pixels, grid))
    prefix = counted(lambda: text(inputs_embeds=states(prompt)))
    completion = counted(lambda: model.lm_head(text(inputs_embeds=states(settings.completion)).last_hidden_state))
    group, kl, inner = settings.group, bool(settings.beta), settings.iterations
    passes = 1 + kl + 3 * inner
    plain = (passes + (inner > 1)) * group * (vision + prefix + completion)
    shared = passes * (vision + prefix) + passes * group * completion
    reused = shared - vision - prefix
    return {
        "ratio": plain / shared,
        "ratio_reused": plain / reused,
        "vision_flops": vision,
        "prompt_flops": prefix,
        "completion_flops": completion,
        "forward_passes": {"plain": passes + (inner > 1), "shared": passes},
        "formula": "f' G (V + P + C) : f (V + P) + f G C : (f - 1) (V + P) + f G C",
    }


def counted(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _now(settings: problem.Settings) -> tuple[float, float]:
    if settings.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def report(settings: problem.Settings) -> dict[str, Any]:
    policy, model = ours.build_policy(settings), problem.load_model(settings)
    groups = drawn(policy, settings)
    sampled = pack(groups, device=policy.device)
    with torch.no_grad():
        difference = float((policy.log_prob(sampled).logp - sampled.old_logp).abs().max())
    peer = against_peer(policy, settings)
    policy.zero_grad(set_to_none=True)
    groups = without_pictures(groups, policy.base.config.image_token_id)
    batch = ready(policy, groups, seed=1)
    bound = step_bound(model, settings, batch)
    passes = training_pass(policy, model, settings, batch)
    for module in (policy, model):
        module.zero_grad(set_to_none=True)
    errors = {settings.dtype: against_plain(policy, model, settings, batch)}
    if settings.dtype == "float32" and not settings.bf16:
        errors["float64"] = against_plain(policy.double(), model.double(), settings, batch)
    return {
        "sampler_difference": difference,
        "gradient_relative_error": errors[settings.dtype]["whole"],
        "gradient_relative_error_vs_trl": peer["own_advantage"]["whole"],
        "fraction_of_flop_bound": passes["fraction_of_flop_bound"],
        "gradient_vs_plain": {
            **errors,
            "notes": "norms and rotary positions of transformers compute in float32 in a float64 model too",
        },
        "gradient_vs_trl": peer,
        "training_pass": passes,
        "step_flop_bound": bound,
    }


def main() -> None:
    settings = problem.load_settings(sys.argv[1])
    torch.set_num_threads(settings.threads)
    with os.fdopen(os.dup(1), "w") as pipe:
        os.dup2(2, 1)
        json.dump(report(settings), pipe)


if __name__ == "__main__":
    main()
