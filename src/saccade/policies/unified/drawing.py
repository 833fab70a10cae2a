"""Turns that may hold a picture: words, then a start token, then the tokens of one picture, and the turn is over."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

IMAGE = "<image>"
"""Starts a picture in texts for people: a prompt that ends with it makes the policy draw at once."""
TEXT, PICTURE = 0, 1
"""Segments of a turn."""
CODE = -1
"""Stands for any code in the layout of a picture."""


class Drawing:
    """Words outside of a picture; inside of it what its layout says. After the last code there is nothing to choose."""

    def __init__(
        self, kinds: Bool[Tensor, "2 V"], start: int, layout: Int[Tensor, "S"], inside: Bool[Tensor, "N"]
    ) -> None:
        """Args:
        kinds: the tokens that are words, and those that are codes.
        start: the word after which a picture follows.
        layout: what follows it, ``CODE`` or a token that nobody chooses (sizes, ends of lines); ends with a code.
        inside: turns that begin with the first code, because all before it stands at the end of their context.
        """
        self.kinds, self.start, self.layout = kinds, start, layout
        first = int((layout == CODE).nonzero()[0])
        self.place = torch.where(inside, first, CODE)
        """Which part of the layout comes next; -1 outside of pictures."""

    def allowed(self) -> Bool[Tensor, "N V"]:
        inside, next_one = self.place >= 0, self.layout[self.place.clamp(min=0)]
        allowed = self.kinds[(inside & (next_one == CODE)).long()]
        forced = (inside & (next_one != CODE)).nonzero()[:, 0]
        allowed[forced] = False
        allowed[forced, next_one[forced]] = True
        return allowed

    def step(self, token: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
        inside = self.place >= 0
        place = torch.where(inside, self.place + 1, (token == self.start).long() - 1)
        over = place == len(self.layout)
        self.place = torch.where(over, -1, place)
        return over

    def keep(self, index: Int[Tensor, "n"]) -> None:
        self.place = self.place[index]
