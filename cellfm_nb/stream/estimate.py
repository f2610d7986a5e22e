"""How wrong an approximate run is, told by tokens that were carried through with exact attention.

A random sample of tokens attends to all keys and values of the approximate run, block after block, beside its
approximate self. Its error ranks files and settings as the true one does; it sees only keys that are themselves
approximate, so it is somewhat too small and is multiplied by 2.5 before it is believed (streaming_repair_findings.md,
1). A deterministic bound would be vacuous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SAFETY = 2.5


@dataclass(frozen=True)
class Estimate:
    """Hold cosines between exact and approximate descriptors of sampled tokens: mean, 1st percentile, share > .99."""

    mean: float
    p01: float
    share: float
    tokens: int

    @property
    def error(self) -> float:
        """The error believed: 1 - cosine that 99% of tokens stay below, with the safety factor."""
        return SAFETY * (1 - self.p01)

    def __str__(self) -> str:
        return (f"1 - cosine to exact of {self.tokens} sampled tokens: mean {1 - self.mean:.1e}, 99% below "
                f"{1 - self.p01:.1e}, {self.share:.1%} of cosines above .99; error believed {self.error:.1e}")


def estimate(exact: Tensor, approximate: Tensor) -> Estimate:
    """Compare descriptors (n, D) of the same tokens, after the final norm."""
    cosine = F.cosine_similarity(exact.double(), approximate.double(), dim=1)
    return Estimate(float(cosine.mean()), float(torch.quantile(cosine, 0.01)), float((cosine > 0.99).double().mean()),
                    len(cosine))


def token_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine between two descriptors of each token: (..., D) and (..., D) give (...), float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-30)
