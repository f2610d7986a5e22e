"""One seed, keyed by purpose: every random draw is a function of (seed, what it is for, which one it is)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def int_seed(seed: int, *key: str | int) -> int:
    """Derive a 63-bit seed from the run's seed and a purpose.

    Parameters: seed, the run's one seed; key, words and numbers naming the draw ("simulate", "noise", frame).
    Returns: an integer in [0, 2**63). Equal keys give equal seeds on every machine and worker count.
    """
    text = "\x1f".join([str(int(seed)), *map(str, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *key: str | int) -> np.random.Generator:
    """Make the numpy generator of a purpose (see `int_seed`)."""
    return np.random.default_rng(int_seed(seed, *key))


def torch_rng(seed: int, *key: str | int) -> torch.Generator:
    """Make the CPU torch generator of a purpose (see `int_seed`)."""
    import torch

    return torch.Generator().manual_seed(int_seed(seed, *key))
