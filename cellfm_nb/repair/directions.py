"""The direction a block's defect would have, both ways.

The published one: the leading left singular vector of the cumulative linearised product. The block's own: that of its
attention's W_o W_v, or of its MLP where that is the one whose first singular value stands alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellfm_nb.repair.linearise import cumulative, mlp_path, value_path
from cellfm_nb.repair.spectrum import singular_values
from cellfm_nb.seeds import torch_rng

if TYPE_CHECKING:
    from cellfm_nb.encoder import Block, Encoder


def leading_direction(matrix: Tensor, iterations: int = 10_000, tolerance: float = 1e-14, method: str = "power"
                      ) -> tuple[Tensor, float]:
    """Return the leading left singular vector (D,) and singular value of a matrix.

    method: "power", iteration on M M^T, which converges as (s2 / s1)^2 and stops when the vector stands still; "svd".
    The vector's largest entry is positive.
    """
    matrix = matrix.double().cpu()
    if method == "svd":
        vector = torch.linalg.svd(matrix, full_matrices=False).U[:, 0]
    else:
        vector = torch.randn(len(matrix), generator=torch_rng(0, "power iteration"), dtype=torch.float64)
        vector /= vector.norm()
        for _ in range(iterations):
            following = matrix @ (matrix.T @ vector)
            if following.norm() == 0:
                break
            following /= following.norm()
            moved, vector = 1 - (following @ vector).abs(), following
            if moved < tolerance:
                break
    if vector[vector.abs().argmax()] < 0:
        vector = -vector
    return vector, float((matrix.T @ vector).norm())


def own_direction(block: Block) -> Tensor:
    """Return the direction (D,) a block writes most strongly, in the branch whose first singular value stands out more.

    Leading left singular vector of W_o W_v or of W_2 L W_1, layer scale and slopes of the activation included.
    """
    def gap(path: Tensor) -> float:
        values = singular_values(path)
        return float(values[0] / values[1].clamp_min(1e-30))

    return leading_direction(max((value_path(block), mlp_path(block)), key=gap))[0]


def cumulative_directions(encoder: Encoder) -> list[Tensor]:
    """Return the published defect direction (D,) of each block: that of the product of all blocks up to it."""
    return [leading_direction(matrix)[0] for matrix in cumulative(encoder.blocks)]


def aligned(tokens: Tensor, direction: Tensor, cosine: float = 0.5) -> Tensor:
    """Flag tokens (..., N, D) that point along a direction (D,), either way: |cos(x, d)| > 0.5; (..., N) bool.

    A fixed threshold can fire whether few tokens are hit or all of them. The sign and length of d do not matter.
    """
    return torch.nn.functional.cosine_similarity(tokens, direction.to(tokens), dim=-1).abs() > cosine


def published_flag(tokens: Tensor, direction: Tensor, deviations: float = 4.0) -> Tensor:
    """Return the published flag of tokens (..., N, D): |cos(x, d)| above its mean + 4 s.d.; (..., N) bool.

    It cannot fire where mean + 4 s.d. exceeds 1: where many tokens are hit, or a large share of few.
    """
    cosine = torch.nn.functional.cosine_similarity(tokens, direction.to(tokens), dim=-1).abs()
    return cosine > cosine.mean(-1, keepdim=True) + deviations * cosine.std(-1, keepdim=True)
