"""The network below the heads: pictures seen in the light of the text, numbers, earlier frames and commands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.errors import ConfigError
from saccade.policies.motor.head import Head
from saccade.policies.motor.scale import Quantiles, Scale
from saccade.policies.motor.seeing import Expected, Rows, Words

_WORD_WIDTH, _TEXT_WIDTH = 32, 64
_CHANNELS = (32, 64, 64)


@dataclass(frozen=True)
class Senses:
    """Sizes of what comes in and of the state that goes out."""

    side: int = 56
    """Height and width of the picture in pixels; 0: pictures are not looked at."""
    patch: int = 8
    """Pixels along the side of the squares that are looked at as a whole first."""
    state: int = 0
    """S, numbers of the observation's array ``state``; 0: it is not looked at."""
    history: int = 1
    """h: observations that are seen, the newest among them; with the commands given in answer to the older ones."""
    words: tuple[str, ...] = ()
    """Words the policy knows, in small letters; all others are one unknown word to it."""
    width: int = 160
    """Of the state that heads read."""
    states: Quantiles = Quantiles()
    """Units of the numbers; (-1, 1) leaves them as they are."""

    def __post_init__(self) -> None:
        if self.side < 0 or self.state < 0 or not self.side + self.state:
            raise ConfigError(f"side or state must be > 0, got {self.side} and {self.state}")
        if self.patch < 2 or self.side % self.patch:
            raise ConfigError(f"side must be a multiple of patch and patch >= 2, got {self.side} and {self.patch}")
        if self.history < 1 or self.width < 1:
            raise ConfigError(f"history and width must be >= 1, got {self.history} and {self.width}")
        self.states.check("states", max(1, self.state))
        Words(self.words)


class Trunk(nn.Module):
    """Rows to states of ``width``. Each frame goes through the convolutions once, however many rows show it."""

    def __init__(self, senses: Senses, head: Head, chunk: int, commands: int) -> None:
        super().__init__()
        self.expected = Expected(senses.side, senses.state, chunk, commands, senses.history)
        self.words = Words(senses.words)
        self.head = head
        self.language = Language(self.words.size)
        self.commands = Scale(head.scale, commands)
        width, seen = senses.width, 0
        if senses.side:
            self.eye = Eye(senses.side, senses.patch, width)
            seen += width
        if senses.state:
            self.states = Scale(senses.states, senses.state)
            self.body = nn.Sequential(nn.Linear(senses.state, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            seen += width
        memory = (senses.history - 1) * (1 + head.memory(chunk, commands))
        self.join = nn.Sequential(
            nn.Linear(senses.history * seen + memory + _TEXT_WIDTH, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.frames_seen = 0
        """Frames that have gone through the network since it was built."""

    def forward(self, rows: Rows) -> Float[Tensor, "R W"]:
        like = self.commands.low
        frame, command, text = rows.indices(like.device)
        told = self.language(rows.texts)
        count = len(rows.text_of_frame)
        self.frames_seen += count
        seen: list[Tensor] = []
        if self.expected.side:
            pixels = torch.from_numpy(np.stack(rows.pixels)).to(like.device)
            seen.append(self.eye(pixels, told, torch.tensor(rows.text_of_frame, device=like.device)))
        if self.expected.state:
            numbers = torch.from_numpy(np.stack(rows.states)).to(like)
            seen.append(self.body(self.states.encode(numbers)))
        frames = torch.cat(seen, 1)
        # Index -1 finds the row of zeros that stands for what is not there.
        shown = torch.cat([frames, frames.new_zeros(1, frames.shape[1])])[frame].flatten(1)
        parts = [shown, self._remembered(rows, command), told[text]]
        return self.join(torch.cat(parts, 1))

    def _remembered(self, rows: Rows, command: Int[Tensor, "R c"]) -> Float[Tensor, "R M"]:
        """Earlier commands, each with a 1 that says it is one."""
        like = self.commands.low
        size = self.head.memory(self.expected.chunk, self.expected.commands)
        told = like.new_zeros(len(rows.commands) + 1, 1 + size)
        if rows.commands:
            given = torch.from_numpy(np.stack(rows.commands)).to(like)
            told[:-1] = torch.cat([like.new_ones(len(given), 1), self.head.remember(given, self.commands)], 1)
        return told[command].flatten(1)


class Language(nn.Module):
    """Word embeddings and a recurrent network: the state after the last word, zeros for no words."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, _WORD_WIDTH)
        self.reader = nn.GRU(_WORD_WIDTH, _TEXT_WIDTH, batch_first=True)

    def forward(self, texts: list[tuple[int, ...]]) -> Float[Tensor, "L E"]:
        device = self.table.weight.device
        lengths = torch.tensor([len(text) for text in texts], device=device)
        width = max(1, int(lengths.max()))
        padded = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], device=device)
        read, _ = self.reader(self.table(padded))
        last = read[torch.arange(len(texts), device=device), (lengths - 1).clamp(min=0)]
        return torch.where(lengths[:, None] > 0, last, 0.0)


class Eye(nn.Module):
    """Three convolutions, the last two with FiLM by the text (arXiv:1709.07871):  ``relu((1 + g) conv(x) + b)``."""

    def __init__(self, side: int, patch: int, width: int) -> None:
        super().__init__()
        a, b, c = _CHANNELS
        self.patches = nn.Conv2d(3, a, patch, stride=patch)
        self.near = nn.Conv2d(a, b, 3, padding=1)
        self.far = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.film = nn.Linear(_TEXT_WIDTH, 2 * (b + c))
        grid = (side // patch + 1) // 2
        self.out = nn.Linear(c * grid * grid, width)

    def forward(self, pixels: Tensor, told: Float[Tensor, "L E"], text: Int[Tensor, "F"]) -> Float[Tensor, "F W"]:
        """Features of uint8 pixels ``[F, side, side, 3]``."""
        x = pixels.permute(0, 3, 1, 2).to(self.out.weight.dtype) / 127.5 - 1
        _, b, c = _CHANNELS
        gain_near, add_near, gain_far, add_far = self.film(told)[text, :, None, None].split([b, b, c, c], 1)
        x = F.relu(self.patches(x))
        x = F.relu((1 + gain_near) * self.near(x) + add_near)
        x = F.relu((1 + gain_far) * self.far(x) + add_far)
        return F.relu(self.out(x.flatten(1)))
