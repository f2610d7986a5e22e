"""The stem of filters on a CPU, tile by tile: the same tokens as the encoder's own, in less than half the time.

Two things make it fast. A tile stays in the cache from the filters to the tokens. And a processor multiplies
16 numbers at once where the stem has 6 filters: so a block of 2 x 4 neighbouring voxels is filtered together, by every
filter and by its copies moved on by a row or some columns, with the block as stride (a polyphase convolution).
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
ROWS, COLUMNS = 2, 4  # of voxels filtered together


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
        response = respond(stem, box)
        claims = stem.rivalry(response[:, :stem.rivals], patch) if stem.rivals else None
        inner = response[(..., *(slice(m, n - m) for m, n in zip(stem.margin, response.shape[2:], strict=True)))]
        tokens[where] = stem.describe(inner, claims).view(*tokens[where].shape)
    return tokens


def respond(stem: FilterStem, x: Tensor) -> Tensor:
    """Filter voxels (Z, Y, X) where all a filter sees is there: (1, C, Z - kz + 1, Y - ky + 1, X - kx + 1)."""
    weight, bias = stem.filters.weight, stem.filters.bias
    shape = [n - k + 1 for n, k in zip(x.shape, weight.shape[2:], strict=True)]
    x = F.pad(x, (0, -shape[2] % COLUMNS, 0, -shape[1] % ROWS))
    moved = torch.stack([F.pad(weight, (column, COLUMNS - 1 - column, row, ROWS - 1 - row))
                         for row in range(ROWS) for column in range(COLUMNS)], 1).flatten(0, 1)  # 8 C, 1, kz, ...
    blocks = F.conv3d(x[None, None], moved, bias.repeat_interleave(ROWS * COLUMNS), stride=(1, ROWS, COLUMNS))
    blocks = blocks.unflatten(1, (-1, ROWS, COLUMNS)).permute(0, 1, 4, 5, 2, 6, 3)  # 1, C, z, y / 2, 2, x / 4, 4
    return blocks.flatten(5, 6).flatten(3, 4)[..., :shape[1], :shape[2]]
