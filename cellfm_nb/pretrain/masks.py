"""Block masks on the token grid: compact boxes, unbiased in volume, with exactly the count asked for."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor

Triple = tuple[int, int, int]


def make_masks(views: int, grid: Triple, ratio: tuple[float, float], share: float,
               generator: np.random.Generator) -> Tensor:
    """Hide blocks of tokens in some of the views.

    Parameters: views, number of views; grid (z, y, x) tokens; ratio, range of the hidden share: it is cut into as many
    bands as there are masked views, one draw from each (as DINOv2 does); share, of the views that are masked;
    generator, of this step.
    Returns: (views, N) bool, True = hidden; floor(views * share) rows have any.
    """
    masks = np.zeros((views, int(np.prod(grid))), bool)
    n = int(views * share)
    edges = np.linspace(*ratio, n + 1)
    for row, low, high in zip(generator.permutation(views)[:n], edges[:-1], edges[1:], strict=True):
        count = max(1, int(generator.uniform(low, high) * masks.shape[1]))
        masks[row] = block_mask(grid, count, generator).ravel()
    return torch.from_numpy(masks)


def block_mask(grid: Triple, count: int, generator: np.random.Generator, tries: int = 10) -> np.ndarray:
    """Hide exactly `count` tokens: boxes while they fit, then tokens that touch them.

    Returns: (z, y, x) bool.
    """
    mask = np.zeros(grid, bool)
    while (missing := count - mask.sum()) > 0:
        for _ in range(tries):
            box = np.minimum(block_shape(generator.uniform(min(4, missing), missing), grid, generator), grid)
            start = [generator.integers(0, g - b + 1) for g, b in zip(grid, box, strict=True)]
            where = tuple(slice(s, s + b) for s, b in zip(start, box, strict=True))
            if 0 < box.prod() - mask[where].sum() <= missing:
                mask[where] = True
                break
        else:
            edge = np.flatnonzero(binary_dilation(mask) & ~mask if mask.any() else ~mask)
            mask.flat[generator.permutation(edge)[:missing]] = True
    return mask


def block_shape(volume: float, grid: Triple, generator: np.random.Generator, aspect: float = 2.0) -> np.ndarray:
    """Draw the sides (z, y, x) of a box whose expected volume is `volume`.

    The first side is drawn about the cube root, the second about the square root of what is left, the third is what is
    left; each is rounded up or down at random so that its mean is kept. The original's three independent factors
    change the volume by .45 to 2.2.
    """
    sides, left = np.zeros(3, int), volume
    for place, axis in enumerate(order := generator.permutation(3)):
        free = [grid[a] for a in order[place + 1:]]
        wish = left ** (1 / (3 - place)) * aspect ** generator.uniform(-1, 1) if place < 2 else left
        side = np.clip(wish, max(1.0, left / np.prod(free)), min(grid[axis], max(1.0, left)))
        sides[axis] = int(side) + (generator.random() < side % 1)
        left = left / side
    return np.maximum(sides, 1)


def mask_weights(mask: Tensor) -> Tensor:
    """Return a weight for each hidden token, in the order of `mask.nonzero()`, so that each masked view counts once."""
    return (mask / mask.sum(dim=1, keepdim=True).clamp(min=1))[mask]
