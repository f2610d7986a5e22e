"""The stem of filters on a CPU, tile by tile: the same tokens as the encoder's own, in less than half the time.

Two things make it fast. A tile stays in the cache from the filters to the tokens. And a processor multiplies
16 numbers at once where the stem has 6 filters: so two neighbouring rows of voxels are filtered together, by every
filter and by its copy moved on by one row, with a stride of two (a polyphase convolution).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.stream.plan import TILE, chunk_of

if TYPE_CHECKING:
    from cellfm_nb.encoder.patches import FilterStem

Triple = tuple[int, int, int]


def filter_tokens(stem: FilterStem, x: Tensor) -> Tensor:
    """Turn voxels into tokens.

    Parameters: stem; x (Z, Y, X), whole patches and the stem's reach on every side.
    Returns: tokens (gz, gy, gx, D), equal to the stem's of the whole volume to rounding.
    """
    patch, margin = stem.patch, stem.reach
    grid = tuple((n - 2 * m) // p for n, m, p in zip(x.shape, margin, patch, strict=True))
    tile = chunk_of(grid, patch, TILE)
    tokens = x.new_empty(*grid, stem.embed.out_features)
    for corner in torch.cartesian_prod(*(torch.arange(0, g, t) for g, t in zip(grid, tile, strict=True))).tolist():
        stop = [min(a + t, g) for a, t, g in zip(corner, tile, grid, strict=True)]
        box = x[tuple(slice(a * p, b * p + 2 * m) for a, b, p, m in zip(corner, stop, patch, margin, strict=True))]
        where = tuple(slice(a, b) for a, b in zip(corner, stop, strict=True))
        wide = respond(stem, box)
        inner = wide[(..., *(slice(m, n - m) for m, n in zip(stem.margin, wide.shape[2:], strict=True)))]
        tokens[where] = stem.describe(inner.contiguous(), wide[:, :stem.rivals]).view(*tokens[where].shape)
    return tokens


def respond(stem: FilterStem, x: Tensor) -> Tensor:
    """Filter voxels (Z, Y, X) where all a filter sees is there: (1, C, Z - kz + 1, Y - ky + 1, X - kx + 1)."""
    weight, bias = stem.filters.weight, stem.filters.bias
    if stem.patch[1] % 2:
        return F.conv3d(x[None, None], weight, bias)
    pair = torch.stack([F.pad(weight, (0, 0, row, 1 - row)) for row in (0, 1)], 1).flatten(0, 1)  # 2 C, 1, kz, ky + 1
    rows = F.conv3d(x[None, None], pair, bias.repeat_interleave(2), stride=(1, 2, 1))
    rows = rows.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)  # 1, C, z, y / 2, 2, x
    return rows.flatten(3, 4)
