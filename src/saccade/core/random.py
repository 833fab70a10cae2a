"""Where seeds are made: every generator of a run is derived from the run's seed and the names of what it serves."""

import hashlib

import numpy as np
import torch


def fold_in(seed: int, *ids: int | str) -> int:
    """A 63-bit seed that depends on ``seed`` and every id, equal on all machines and in all processes."""
    text = "/".join([str(seed), *(f"{type(i).__name__}:{i}" for i in ids)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator with this seed."""
    generator = torch.Generator(device=device)
    generator.manual_seed(seed)
    return generator


def numpy_generator(seed: int, *ids: int | str) -> np.random.Generator:
    """A fresh numpy generator for ``fold_in(seed, *ids)``."""
    return np.random.default_rng(fold_in(seed, *ids))
