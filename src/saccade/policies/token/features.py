"""Features of pictures that need not be computed again because the encoder is frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

FEATURES_KEPT = 2**28
"""Bytes of features of a frozen image encoder that are kept."""


class FeatureCache:
    """Features that a frozen encoder gave, by the identity of the picture; the oldest go first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._stamp: Any = None
        self._kept: dict[int, tuple[Any, Tensor]] = {}

    def __call__(
        self, pictures: Mapping[int, Any], encode: Callable[[Mapping[int, Any]], dict[int, Tensor]], stamp: Any
    ) -> dict[int, Tensor]:
        """Features of these pictures; those that are new, or all if the ``stamp`` of the weights is, are encoded."""
        if stamp != self._stamp:
            self._stamp, self._kept, self.bytes = stamp, {}, 0
        new = {key: picture for key, picture in pictures.items() if key not in self._kept}
        found = {key: features.detach() for key, features in encode(new).items()} if new else {}
        result = {key: found[key] if key in found else self._kept[key][1] for key in pictures}
        for key, features in found.items():
            # The picture is kept as well: its id would otherwise be given to another object.
            self._kept[key] = (pictures[key], features)
            self.bytes += features.nbytes
        while self.bytes > self.limit and self._kept:
            self.bytes -= self._kept.pop(next(iter(self._kept)))[1].nbytes
        return result

    def __deepcopy__(self, memo: Any) -> FeatureCache:
        return FeatureCache(self.limit)
