"""What ``saccade evaluate`` evaluates, whether a run, a model or given outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade.core.content import Text
from saccade.core.metric import Models
from saccade.envs.datasets.media import Media
from saccade.recipe import Evaluation, Recipe


@dataclass
class Subject:
    """What is evaluated, and how its rollouts are drawn."""

    of: Mapping[str, Any]
    """See ``Result.of``."""
    evaluation: Evaluation
    """Sampling, rollouts per task and limit; of a run also its own tasks and metrics."""
    seed: int
    changed: str
    """Hash of what differs from the subject's own settings; empty if nothing does."""
    recipe: Recipe | None = None
    models: Models | None = None
    """None: the outputs are given."""
    given: Mapping[str, Sequence[Text | Media]] = field(default_factory=dict)
    """Outputs by task id."""
    weights: str = ""


def short_hash(plain: Any) -> str:
    """Tells settings apart in the names of folders."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
