"""A transformer block as one matrix: what it does to a token when attention mixes nothing.

After SINDER (Wang et al., ECCV 2024): softmax mixing, the division by the token's own spread and all biases are left
out; LayerNorm keeps its gain and its centring; the activation becomes its least-squares slope on N(0, 1) inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.seeds import torch_rng

if TYPE_CHECKING:
    from cellfm_nb.encoder import Block


def activation_slope(activation: Callable[[Tensor], Tensor] = F.gelu, samples: int = 100_000, seed: int = 0) -> float:
    """Return the slope of the least-squares line of an activation on samples of N(0, 1); about 0.5 for GELU."""
    x = torch.randn(samples, generator=torch_rng(seed, "activation slope"), dtype=torch.float64)
    y = activation(x)
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@torch.no_grad()
def value_path(block: Block) -> Tensor:
    """Return diag(gamma1) W_o W_v (D, D): what a block's attention writes for what it reads, LayerNorm left out."""
    width = block.gamma1.numel()
    w_v = block.attention.qkv.weight[2 * width:].double()  # D, D: queries and keys come first
    return block.gamma1.double()[:, None] * (block.attention.proj.weight.double() @ w_v)


@torch.no_grad()
def output_matrix(block: Block) -> Tensor:
    """Return diag(gamma1) W_o (D, D): the attention's output projection with the layer scale folded in."""
    return block.gamma1.double()[:, None] * block.attention.proj.weight.double()


@torch.no_grad()
def linearise(block: Block, slope: float | None = None) -> Tensor:
    """Return the (D, D) float64 matrix of a block: (I + MLP branch) (I + value branch)."""
    width = block.gamma1.numel()
    eye = torch.eye(width, dtype=torch.float64)
    centring = eye - 1.0 / width  # I - 11^T / D
    slope = activation_slope() if slope is None else slope
    value = value_path(block).cpu() @ (block.norm1.weight.double().cpu()[:, None] * centring)
    mlp = block.mlp.fc2.weight.double().cpu() @ (slope * block.mlp.fc1.weight.double().cpu())
    mlp = block.gamma2.double().cpu()[:, None] * mlp @ (block.norm2.weight.double().cpu()[:, None] * centring)
    return (eye + mlp) @ (eye + value)


def cumulative(blocks: Iterable[Block]) -> list[Tensor]:
    """Return the products G_i = E_i ... E_0 of the linearised blocks, one (D, D) per block."""
    slope, products = activation_slope(), []
    for block in blocks:
        matrix = linearise(block, slope)
        products.append(matrix @ products[-1] if products else matrix)
    return products
