"""Many small random choices, cheaply: numbers are drawn from the generator in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
BLOCK = 64


class Dice:
    """Choices that depend on the generator alone. The generator is also there for whole arrays."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self._numbers: list[float] = []

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._numbers:
            self._numbers = self.generator.random(BLOCK).tolist()
        return self._numbers.pop()

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, n: int) -> int:
        """An integer in 0 .. n - 1."""
        return int(self.unit() * n)

    def whole(self, low: int, high: int) -> int:
        """An integer in low .. high, both included."""
        return low + self.below(high - low + 1)

    def choose(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """Different items, in random order."""
        pool = list(items)
        for i in range(n):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:n]
