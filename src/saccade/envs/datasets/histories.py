"""What a generator remembers of the scenes so far, as tokens of features: which of it should the next scene see?

A subject goes from an old scene to a new one. Of what is remembered, a third shows the subject, partly with the old
scene around it, a third the old scene, and a third other subjects; a quarter of all is damaged, which adds noise to
its features. Training and test have different subjects and different scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from saccade.core.content import Array, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task

DIMENSIONS = 8
NOISE = 0.2
"""Standard deviation of a token's features around what it shows."""
DAMAGE = 1.0
"""The same for what is added to damaged tokens."""
MIXED = 0.8
"""Most of the old scene in a token of the subject."""
SHARE_DAMAGED = 0.25


@dataclass(frozen=True)
class Histories(Tasks):
    """Prompts: ``Array("context", float32 [tokens, 8])``, oldest first, and ``Array("query", float32 [3, 8])``.

    Rows of the query are what words say of the subject, the old scene and the new one: their features, with noise.
    The target holds the exact ``subject`` and ``old`` scene, unit vectors, and of each token what it shows (``kinds``)
    and whether it is damaged (``damaged``).
    """

    count: int = 4096
    tokens: int = 24
    subjects: int = 64
    """Different subjects; the last quarter belongs to the test split."""
    scenes: int = 64
    """Different scenes; the last quarter belongs to the test split."""
    part: Split = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.tokens < 3:
            raise ConfigError(f"tasks needs count >= 1 and tokens >= 3, got {self.count} and {self.tokens}")
        if self.subjects < 8 or self.scenes < 8:
            raise ConfigError(f"tasks needs subjects and scenes >= 8, got {self.subjects} and {self.scenes}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> Histories:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        random = numpy_generator(self.seed, "history", self.part, index)
        subject, *others = random.permutation(_part(self.subjects, self.part))
        old, new = random.permutation(_part(self.scenes, self.part))[:2]
        who, where = _features("subject", self.subjects), _features("scene", self.scenes)
        kinds = random.permutation(["subject", "scene", "other"] * (-(-self.tokens // 3)))[: self.tokens]
        rows = np.zeros((self.tokens, DIMENSIONS))
        for row, kind in zip(rows, kinds, strict=True):
            if kind == "subject":
                row += who[subject] + random.uniform(0, MIXED) * where[old]
            else:
                row += where[old] if kind == "scene" else who[random.choice(others)]
        damaged = np.zeros(self.tokens, bool)
        damaged[random.choice(self.tokens, round(SHARE_DAMAGED * self.tokens), replace=False)] = True
        rows += NOISE * random.standard_normal(rows.shape)
        rows += DAMAGE * damaged[:, None] * random.standard_normal(rows.shape)
        query = np.stack([who[subject], where[old], where[new]])
        query += NOISE * random.standard_normal(query.shape)
        text = Text(f"Subject {subject} leaves scene {old} for scene {new}.")
        prompt = (text, Array("context", rows.astype(np.float32)), Array("query", query.astype(np.float32)))
        target = {
            "subject": who[subject],
            "old": where[old],
            "kinds": tuple(map(str, kinds)),
            "damaged": tuple(map(bool, damaged)),
        }
        return Task(f"history/{self.part}/{self.seed}/{index}", prompt, target)


def _part(count: int, part: Split) -> np.ndarray:
    first = count - count // 4
    return np.arange(first) if part == "train" else np.arange(first, count)


@lru_cache(maxsize=8)
def _features(kind: str, count: int) -> np.ndarray:
    """Unit vectors, one a name."""
    vectors = np.stack([numpy_generator(0, kind, i).standard_normal(DIMENSIONS) for i in range(count)])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
