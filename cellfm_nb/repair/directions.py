"""Where a block can write a singular defect, and the alarm that says whether it does.

Two directions per block: the published one, the leading left singular vector of the cumulative linearised product,
and the block's own, that of W_o W_v. Found directions prove nothing, every matrix has one. What separates healthy
blocks from damaged ones is the gap between the first two singular values of W_o together with tokens whose norm has
grown over the stem's output where the image shows nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellfm_nb.repair.linearise import cumulative, output_matrix, value_path
from cellfm_nb.seeds import torch_rng

if TYPE_CHECKING:
    from cellfm_nb.encoder import Block, Encoder


def leading_direction(matrix: Tensor, iterations: int = 10_000, tolerance: float = 1e-14) -> tuple[Tensor, float]:
    """Return the leading left singular vector (D,) and singular value of a matrix, by power iteration on M M^T.

    Its largest entry is positive. Converges as (s2 / s1)^2 per iteration; stops when the vector stands still.
    """
    matrix = matrix.double().cpu()
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
    """Return the direction (D,) a block's attention writes most strongly: leading left singular vector of W_o W_v."""
    return leading_direction(value_path(block))[0]


def cumulative_directions(encoder: Encoder) -> list[Tensor]:
    """Return the published defect direction (D,) of each block: that of the product of all blocks up to it."""
    return [leading_direction(matrix)[0] for matrix in cumulative(encoder.blocks)]


def output_gap(block: Block) -> float:
    """Return s1 / s2 of the attention's output projection: near 1 when healthy (at most 3 was seen)."""
    values = torch.linalg.svdvals(output_matrix(block))
    return float(values[0] / values[1].clamp_min(1e-30))


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
