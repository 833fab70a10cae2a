"""Values of the states of a denoising chain: baselines that know the caption and how far the image has come."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.batch import Batch
from saccade.core.content import text_of
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.policy import Critic, CriticSpec, PolicySpec, Values
from saccade.core.trajectory import Prompt
from saccade.policies.denoise.chain import ChainRecord
from saccade.policies.denoise.policy import DenoiseSpec

_BUCKETS = 1024
"""Rows of the table of words; words that share one are one word to the critic."""
_LOOK = 8
"""Pixels a side at which latents are looked at."""
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class StepCritic(CriticSpec):
    """V(x_t, caption, t) of DPOK (arXiv:2305.16381): an MLP on the latent, averaged to 8 x 8, the words and the step.

    It shares no weights with the policy and is 0 everywhere before the first update.
    """

    channels: int = 3
    """Of a latent: 3 for pixels, 4 for Stable Diffusion 1.x."""
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.width < 1:
            raise ConfigError(f"critic.channels and critic.width must be >= 1, got {self.channels} and {self.width}")

    def build(self, policy: PolicySpec, device: torch.device, seed: int = 0) -> StepCriticModel:
        """The critic with weights drawn from ``seed``.

        Raises:
            CapabilityError: the policy is no denoising one.
        """
        if not isinstance(policy, DenoiseSpec):
            raise CapabilityError(f"StepCritic reads the states of denoising chains, not of {type(policy).__name__}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return StepCriticModel(self).to(device)


class StepCriticModel(Critic):
    """Values before the steps whose states were recorded; 0 at other steps, and after the chain's end."""

    def __init__(self, spec: StepCritic) -> None:
        super().__init__()
        self.channels = spec.channels
        self.words = nn.EmbeddingBag(_BUCKETS, 32, mode="sum")
        self.body = nn.Sequential(
            nn.Linear(spec.channels * _LOOK * _LOOK + 32 + 2, spec.width),
            nn.SiLU(),
            nn.Linear(spec.width, spec.width),
            nn.SiLU(),
        )
        self.head = nn.Linear(spec.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Values:
        seen, prompt, row, column = self._states(batch)
        value = torch.zeros(batch.mask.shape, device=self.head.weight.device)
        final = value.new_zeros(len(batch))
        if not seen:
            return Values(value, final)
        captions = self.words(*_bags(batch.prompts, value.device))
        x = torch.stack(seen).to(self.head.weight)
        step = torch.tensor(column, device=value.device)
        fraction = step[:, None] / max(1, batch.mask.shape[1])
        told = captions[torch.tensor(prompt, device=value.device)]
        latent = F.adaptive_avg_pool2d(x, _LOOK).flatten(1)
        hidden = self.body(torch.cat([latent, told, fraction, fraction**2], 1))
        where = (torch.tensor(row, device=value.device), step)
        return Values(value.index_put(where, self.head(hidden)[:, 0]), final)

    def _states(self, batch: Batch) -> tuple[list[Tensor], list[int], list[int], list[int]]:
        group = batch.group.tolist()
        seen: list[Tensor] = []
        prompt: list[int] = []
        row: list[int] = []
        column: list[int] = []
        for i, trajectory in enumerate(batch.trajectories):
            start = 0
            for turn in trajectory.turns:
                if not isinstance(turn.record, ChainRecord):
                    kind = type(turn.record).__name__
                    raise CapabilityError(
                        f"StepCritic needs the states of a chain, got a {kind}: set policy.likelihood"
                    )
                for t in range(turn.record.first, turn.record.first + len(turn.record.states) - 1):
                    state = turn.record.state(t)
                    if len(state) != self.channels:
                        raise ConfigError(f"critic.channels must be {len(state)}, the latent's, got {self.channels}")
                    seen.append(state)
                    prompt.append(group[i])
                    row.append(i)
                    column.append(start + t)
                start += turn.num_actions
        return seen, prompt, row, column


def _bags(prompts: Sequence[Prompt], device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of all words of all prompts, and where each prompt's begin; places count: each word has its own there."""
    words = [_WORD.findall(text_of(prompt.content).lower()) for prompt in prompts]
    indices = [_bucket(f"{place} {word}") for said in words for place, word in enumerate(said)]
    starts = torch.tensor([0, *(len(said) for said in words[:-1])]).cumsum(0)
    return torch.tensor(indices, dtype=torch.int64, device=device), starts.to(device)


def _bucket(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % _BUCKETS
