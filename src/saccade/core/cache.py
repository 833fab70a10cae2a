"""Where things that take long to make are kept between runs."""

import hashlib
import os
from pathlib import Path
from typing import Any

from saccade.core import config


def cache_folder() -> Path:
    """The library's cache: ``$SACCADE_CACHE``, else a folder of the user's cache."""
    chosen = os.environ.get("SACCADE_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "saccade"


def cache_file(kind: str, description: Any, suffix: str = ".safetensors") -> Path:
    """The file for what this description makes; descriptions are dataclasses or plain data, equal ones share a file."""
    key = hashlib.sha256(config.dump(description).encode()).hexdigest()[:24]
    return cache_folder() / kind / f"{key}{suffix}"
