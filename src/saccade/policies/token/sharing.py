"""The shared prefix inside stock transformers models: a registered attention function, and a check at load."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from saccade.core.trajectory import Prompt, Task
from saccade.policies.token.passes import DecodePass, Pass
from saccade.policies.token.prefix import choose, read_suffixes
from saccade.policies.token.rows import Chunk, Rows

if TYPE_CHECKING:
    from saccade.policies.token.hf_policy import HFVisionLanguagePolicy

NAME = "saccade_shared_prefix"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Relative difference between the states of both paths that rounding may explain; sharing that is wrong gives O(1)."""

log = logging.getLogger(__name__)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    tokens: Pass | None = None, scaling: float | None = None, sliding_window: int | None = None, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    if tokens is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        return out, None
    # Under autocast the rotation leaves queries and keys in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return tokens.attend(module.layer_idx, query, key, value, scale, sliding_window).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def use_passes(config: Any) -> None:
    """Choose the attention function above; calls without a pass go to SDPA as before."""
    # Also where somebody has replaced the model since: other functions would ignore the pass.
    if config._attn_implementation != NAME:
        config._attn_implementation = NAME


def share_prefixes(policy: HFVisionLanguagePolicy) -> bool:
    """Let the policy share prefixes if its decoder gives the same states when it does; whether it does.

    Compared are the states of two rows on each of two prefixes of random tokens, the last one also as a decoding step.
    """
    config = policy.backbone.config
    stock = config._attn_implementation
    try:
        reason = _difference(policy, stock)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    policy.shared = not reason
    if reason:
        config._attn_implementation = stock
        log.warning("%s: prompts are not shared in the loss (%s)", policy.spec.model, reason)
    return policy.shared


@torch.no_grad()
def _difference(policy: HFVisionLanguagePolicy, stock: str) -> str:
    """Why prefixes cannot be shared; empty if they can."""
    config = policy.backbone.config
    generator = torch.Generator().manual_seed(0)
    known = sorted(set(range(policy.head.out_features)) - {policy.family.image_token, *policy.ends})

    def some(count: int) -> Tensor:
        return torch.tensor(known)[torch.randint(len(known), (count,), generator=generator)]

    prompts = [Prompt(Task("check", ()), ()) for _ in range(2)]
    prefix = [Chunk(some(7)), Chunk(some(5))]
    nothing = torch.zeros(0, dtype=torch.int64)
    rows = Rows(
        prompts=prompts, prefix=prefix, prompt=torch.tensor([0, 0, 1, 1]), ids=some(16).view(4, 4),
        length=torch.tensor([4, 2, 3, 4]), images=[()] * 4, row=nothing, at=nothing, token=nothing,
        temperature=torch.zeros(0, dtype=torch.float64), trajectory=nothing, column=nothing,
    )  # fmt: skip
    with policy.precision():
        config._attn_implementation = stock
        expected = [
            _alone(policy, torch.cat([prefix[p].ids, ids[:n]]))[-n:]
            for p, ids, n in zip(rows.prompt.tolist(), rows.ids, rows.length.tolist(), strict=True)
        ]
        chosen = choose(prompts, [policy.prefixes(prompts, prefix)])
        suffixes = read_suffixes(policy, rows, rows.length, chosen, keep=True)
        for r, states in enumerate(expected):
            start, width = int(suffixes.start[r]), int(suffixes.width[r])
            if reason := _unlike(suffixes.hidden[start : start + width], states, "the loss"):
                return reason

        shown = read_suffixes(policy, rows, rows.length - 1, chosen, keep=True)
        tokens = DecodePass(chosen, rows.prompt.tolist(), shown.context(torch.arange(4)), 1)
        position = chosen.following[rows.prompt] + rows.length - 1
        last = rows.ids[torch.arange(4), rows.length - 1].to(policy.device)
        step = policy.decoder(tokens, position.to(policy.device), 1).step(last)
        return _unlike(step, torch.stack([states[-1] for states in expected]), "decoding")


def _alone(policy: HFVisionLanguagePolicy, ids: Tensor) -> Tensor:
    """States of one sequence through the stock model."""
    embedded = policy.base.get_input_embeddings()(ids[None].to(policy.device))
    position = torch.arange(len(ids), device=policy.device).expand(policy.family.axes, 1, -1)
    where = position if policy.family.axes > 1 else position[0]
    return policy.backbone(inputs_embeds=embedded, position_ids=where, use_cache=False).last_hidden_state[0]


def _unlike(ours: Tensor, theirs: Tensor, what: str) -> str:
    error = float((ours - theirs).double().norm() / theirs.double().norm())
    limit = max(TOLERANCE[ours.dtype], TOLERANCE[torch.bfloat16] if torch.is_autocast_enabled(ours.device.type) else 0)
    # Not a number must not pass.
    return "" if error <= limit else f"in {what} its states differ from the stock model's by {error:.1e}"
