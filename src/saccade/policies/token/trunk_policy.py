"""What policies over the library's own small trunk have in common: how it reads rows and decodes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saccade.policies.token.passes import DecodePass
from saccade.policies.token.policy import Decoder, TokenPolicy
from saccade.policies.token.rows import Rows
from saccade.policies.token.trunk import Reading, Slots, Trunk


class TrunkPolicy(TokenPolicy):
    """Prompts are encoded and read once, in ``act`` for all samples and in ``log_prob`` for all trajectories."""

    trunk: Trunk

    @property
    def network(self) -> Trunk:
        return self.trunk

    def plain_states(self, rows: Rows, row: Int[Tensor, "M"], at: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        reading = self.trunk.read(rows, int(rows.at.max()) + 1)
        return self.trunk.states(reading, rows.prompt[row], row, at)

    def plain_decoder(self, rows: Rows, n: int, room: int) -> tuple[Float[Tensor, "N D"], Decoder]:
        contexts = len(rows.prompt)
        reading = self.trunk.read(rows, rows.ids.shape[1])
        hidden = self.trunk.states(reading, rows.prompt, torch.arange(contexts), rows.length - 1)
        source = torch.arange(contexts) if rows.ids.shape[1] else rows.prompt
        copies = source.repeat_interleave(n).to(self.device)
        position = torch.tensor([len(rows.prefix[p].ids) for p in rows.prompt.tolist()]) + rows.length
        position = position.repeat_interleave(n).to(self.device)
        return hidden.repeat_interleave(n, 0), _Copying(self.trunk, reading, copies, position, room)

    def decoder(self, tokens: DecodePass, position: Int[Tensor, "N"], room: int) -> Decoder:
        return _Sharing(self.trunk, tokens, position)


class _Sharing:
    """Reads on over one copy of each prefix."""

    def __init__(self, trunk: Trunk, tokens: DecodePass, position: Int[Tensor, "N"]) -> None:
        self.trunk, self.tokens, self.position = trunk, tokens, position

    def step(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
        state = self.trunk.decode(token, self.position, self.tokens)
        self.position = self.position + 1
        return state

    def keep(self, index: Int[Tensor, "n"]) -> None:
        self.tokens.keep(index)
        self.position = self.position[index]


class _Copying:
    """Reads on with a copy of the prefix's keys and values for every row."""

    def __init__(
        self, trunk: Trunk, reading: Reading, copies: Int[Tensor, "N"], position: Int[Tensor, "N"], room: int
    ) -> None:
        self.trunk, self.position = trunk, position
        self.memory = [Slots(layer, copies, room) for layer in reading.memory]
        self.seen = torch.cat([reading.present[copies], reading.present.new_ones(len(copies), room)], 1)

    def step(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
        state = self.trunk.step(token, self.position, self.memory, self.seen[:, : self.memory[0].filled + 1])
        self.position = self.position + 1
        return state

    def keep(self, index: Int[Tensor, "n"]) -> None:
        self.position, self.seen = self.position[index], self.seen[index]
        for layer in self.memory:
            layer.keep(index)
