"""What a defective token should be: the Gaussian mean of its 3 x 3 x 3 neighbourhood, defective neighbours left out.

After SINDER (Wang et al., ECCV 2024), on grids of any shape (z, y, x); x runs fastest in the token sequence.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int, int]
LINE = torch.tensor([1.0, 2.0, 1.0]) / 4
GAUSSIAN_3D = LINE[:, None, None] * LINE[:, None] * LINE  # (1, 2, 1)^3 / 64
SQUARE_2D = torch.stack([torch.zeros(3, 3), torch.full((3, 3), 1 / 9), torch.zeros(3, 3)])


def interior(grid: Grid) -> Tensor:
    """Return which tokens (N,) have all their neighbours; an axis shorter than 3 has no border to leave out."""
    inside = torch.ones(grid, dtype=torch.bool)
    for axis, n in enumerate(grid):
        if n >= 3:
            index = torch.arange(n).reshape([-1 if a == axis else 1 for a in range(3)])
            inside &= (index > 0) & (index < n - 1)
    return inside.flatten()


def neighbour_target(tokens: Tensor, grid: Grid, direction: Tensor, temperature: float = 0.1,
                     window: Tensor = GAUSSIAN_3D) -> Tensor:
    """Return the weighted mean of each token's 3 x 3 x 3 window, (B, N, D), without gradient.

    Parameters: tokens (B, N, D) with N = z y x; grid; direction (D,), of the defect; temperature of the weights; window
    (3, 3, 3), `SQUARE_2D` being what would carry over from images.
    A neighbour weighs its place in the window times exp(-|cos(x, d)| / temperature). Outside the grid the border is
    repeated.
    """
    tokens = tokens.detach()
    b, n, width = tokens.shape
    calm = torch.exp(-F.cosine_similarity(tokens, direction.to(tokens), dim=-1).abs() / temperature)  # B, N
    padded = F.pad(tokens.transpose(1, 2).reshape(b, width, *grid), (1,) * 6, mode="replicate")
    calm = F.pad(calm.reshape(b, 1, *grid), (1,) * 6, mode="replicate")
    total, weights = torch.zeros(b, width, *grid).to(tokens), torch.zeros(b, 1, *grid).to(tokens)
    for z, y, x in product(range(3), repeat=3):
        if window[z, y, x] == 0:
            continue
        shift = (..., slice(z, z + grid[0]), slice(y, y + grid[1]), slice(x, x + grid[2]))
        weight = float(window[z, y, x]) * calm[shift]  # B, 1, z, y, x
        total += weight * padded[shift]
        weights += weight
    return (total / weights).flatten(2).transpose(1, 2)


def neighbour_loss(tokens: Tensor, grid: Grid, direction: Tensor, flagged: Tensor, norm: Tensor | float | None = None
                   ) -> Tensor:
    """Return mean ||x - target|| over flagged interior tokens, divided by a norm.

    Parameters: tokens (B, N, D); grid; direction (D,); flagged (B, N) bool; norm, to divide by (None, as published: the
    mean norm of the interior tokens themselves, which rewards making all of them long). 0 when no interior token is
    flagged.
    """
    inside = interior(grid).to(flagged.device)
    chosen = flagged & inside
    if not chosen.any():
        return tokens.sum() * 0.0
    away = (tokens - neighbour_target(tokens, grid, direction))[chosen].norm(dim=-1)
    return away.mean() / (tokens.detach()[:, inside].norm(dim=-1).mean() if norm is None else norm)
