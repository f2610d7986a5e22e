"""Block masks on the token grid: compact boxes, unbiased in volume, with exactly the count asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
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


def block_mask(grid: Triple, count: int, generator: np.random.Generator, tries: int = 10,
               wishes: Sequence[int] = ()) -> np.ndarray:
    """Hide exactly `count` tokens: boxes about the wished ones, boxes while they fit, then tokens that touch them.

    wishes: numbers of tokens to hide first, as far as the count goes.
    Returns: (z, y, x) bool.
    """
    mask = np.zeros(grid, bool)
    wishes = wishes[:count]
    for done, token in enumerate(wishes):
        if mask.flat[token]:
            continue
        missing, later = count - mask.sum(), len(wishes) - done - 1  # each later wish may need a token of its own
        box = np.minimum(block_shape(missing / (later + 1), grid, generator), grid)
        start = np.clip(np.unravel_index(token, grid) - generator.integers(0, box), 0, grid - box)
        where = tuple(slice(s, s + b) for s, b in zip(start, box, strict=True))
        if box.prod() - mask[where].sum() <= missing - later:
            mask[where] = True
        else:
            mask.flat[token] = True
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


def toward_foreground(masks: Tensor, seen: Tensor, grid: Triple, share: float,
                      generators: Sequence[np.random.Generator]) -> Tensor:
    """Redraw masks so that each hides at least a share of its view's foreground, as far as its count of tokens goes.

    Parameters: masks, seen (V, N) bool, hidden tokens and foreground tokens of V views; grid (z, y, x); share;
    generators, one for each view.
    Returns: (V, N) bool, as many hidden in each view as before; a view without foreground keeps its unbiased mask.
    """
    out = masks.clone()
    for row in masks.any(dim=1).nonzero()[:, 0].tolist():
        tokens = generators[row].permutation(np.flatnonzero(seen[row].numpy()))
        if len(tokens):
            wishes = tokens[:int(np.ceil(share * len(tokens)))]
            mask = block_mask(grid, int(masks[row].sum()), generators[row], wishes=wishes)
            out[row] = torch.from_numpy(mask.ravel())
    return out


def foreground(views: Tensor, blob: Tensor, patch: Triple, sd: float = 5.0) -> Tensor:
    """Say which tokens of normalised views hold a blob, without a label: a matched filter stands out of its noise.

    Parameters: views (V, 1, z, y, x), whole patches; blob (1, 1, kz, ky, kx), the filter; patch (z, y, x); sd, robust
    standard deviations (1.4826 times the median absolute one, per view) that its largest response in a token is above
    the median: 5 cry wolf in one of about 100 views of pure noise.
    Returns: (V, N) bool, on the CPU.
    """
    response = F.conv3d(views.float(), blob.to(views.device), padding=[k // 2 for k in blob.shape[2:]])
    rows = response.flatten(1)
    middle = rows.median(dim=1, keepdim=True).values
    spread = 1.4826 * (rows - middle).abs().median(dim=1, keepdim=True).values
    top = F.max_pool3d(response, patch, stride=patch).flatten(1)
    return (top > middle + sd * spread.clamp(min=1e-6)).cpu()


def mask_weights(mask: Tensor) -> Tensor:
    """Return a weight for each hidden token, in the order of `mask.nonzero()`, so that each masked view counts once."""
    return (mask / mask.sum(dim=1, keepdim=True).clamp(min=1))[mask]
