"""Drawing tokens with one generator per row, and the log-probabilities of what was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.policy import Sampling
from saccade.core.random import torch_generator


def uniforms(seeds: Sequence[int], steps: int) -> Float[Tensor, "N T"]:
    """One number in [0, 1) per row and step, float32 on the CPU.

    Row i comes from a generator of its own, so that it depends on ``seeds[i]`` alone; a larger ``steps`` only appends.
    """
    numbers = torch.empty(len(seeds), steps)
    for row, seed in zip(numbers, seeds, strict=True):
        row.uniform_(generator=torch_generator(seed))
    return numbers


def restricted(logits: Float[Tensor, "N V"], allowed: Bool[Tensor, "N V"] | None) -> Float[Tensor, "N V"]:
    """Logits with minus infinity for what is not allowed; None allows everything."""
    return logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)


def tempered(logits: Float[Tensor, "*n V"], temperature: float | Float[Tensor, "*n"] = 1.0) -> Float[Tensor, "*n V"]:
    """Log-probabilities ``log softmax(logits / temperature)``, in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    divisor = temperature[..., None].to(wide) if isinstance(temperature, Tensor) else temperature
    return torch.log_softmax(wide / divisor, -1)


def nucleus(p: Float[Tensor, "*n V"], mass: float) -> Float[Tensor, "*n V"]:
    """``p`` with all but the most probable tokens set to zero: as few as reach ``mass``; not renormalised."""
    ordered, index = p.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    dropped = before >= mass
    dropped[..., 0] = False
    return torch.zeros_like(p).scatter(-1, index, ordered.masked_fill(dropped, 0.0))


def draw(
    logits: Float[Tensor, "N V"], uniform: Float[Tensor, "N"], sampling: Sampling
) -> tuple[Int[Tensor, "N"], Float[Tensor, "N"]]:
    """One token per row and its log-probability at ``sampling.temperature``, before any truncation.

    The token is the inverse of the cumulative distribution at ``uniform``, or the most probable one if
    ``sampling.deterministic``. A row's result depends on its own logits and number only.
    """
    logp = tempered(logits, sampling.temperature)
    if sampling.deterministic:
        ids = logp.argmax(-1)
    else:
        p = logp.double().exp()
        if sampling.top_p < 1:
            p = nucleus(p, sampling.top_p)
        cumulative = p.cumsum(-1)
        # A float32 number below 1 times a float64 total stays below the total: some token is always hit, and tokens of
        # zero probability never are.
        threshold = uniform.double()[:, None] * cumulative[:, -1:]
        ids = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return ids, logp.gather(-1, ids[:, None])[:, 0]


def entropy(logp: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """``H = -sum over v of p_v log p_v``; alternatives of probability zero contribute nothing."""
    return -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)


def exact_kl(logp: Float[Tensor, "*n V"], reference: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """``KL(p || q) = sum over v of p_v (log p_v - log q_v)``; where p is zero, nothing is added."""
    # Minus infinity minus itself would be no number, even times zero.
    impossible = logp == -torch.inf
    ratio = logp.masked_fill(impossible, 0.0) - reference.masked_fill(impossible, 0.0)
    return (logp.exp() * ratio).sum(-1)
