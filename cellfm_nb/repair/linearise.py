"""A transformer block as one matrix: what it does to a token when attention mixes nothing.

After SINDER (Wang et al., ECCV 2024): softmax mixing, the division by the token's own spread and all biases are left
out; LayerNorm keeps its gain and its centring; the activation becomes its least-squares line on N(0, 1) inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.seeds import torch_rng

if TYPE_CHECKING:
    from cellfm_nb.encoder import Block


def activation_slopes(activation: Callable[..., Tensor], inputs: int = 1, samples: int = 100_000, seed: int = 0
                      ) -> tuple[float, ...]:
    """Return the slope for each input of the least-squares plane of an activation on samples of N(0, 1)."""
    x = torch.randn(samples, inputs, generator=torch_rng(seed, "activation slope"), dtype=torch.float64)
    y = activation(*x.unbind(1))
    return tuple(torch.linalg.lstsq(x - x.mean(0), (y - y.mean())[:, None]).solution[:, 0].tolist())


def activation_slope(activation: Callable[[Tensor], Tensor] = F.gelu, samples: int = 100_000, seed: int = 0) -> float:
    """Return the slope of the least-squares line of an activation on samples of N(0, 1); about 0.5 for GELU."""
    return activation_slopes(activation, 1, samples, seed)[0]


@cache
def usual_slopes(gated: bool) -> tuple[float, ...]:
    """Return the slope of GELU, (0.5,), or those of SwiGLU for its gate and its value, (0, 0.2)."""
    return activation_slopes(lambda gate, value: F.silu(gate) * value, 2) if gated else activation_slopes(F.gelu)


def gated(block: Block) -> bool:
    """Say whether the MLP has a gate: fc1 then holds the gate's rows first, the value's after them."""
    return block.mlp.fc1.out_features == 2 * block.mlp.fc2.in_features


@torch.no_grad()
def value_path(block: Block) -> Tensor:
    """Return diag(gamma1) W_o W_v (D, D): what a block's attention writes for what it reads, LayerNorm left out."""
    width = block.gamma1.numel()
    w_v = block.attention.qkv.weight[2 * width:].double()  # D, D: queries and keys come first
    return block.gamma1.double()[:, None] * (block.attention.proj.weight.double() @ w_v)


@torch.no_grad()
def mlp_path(block: Block, slopes: tuple[float, ...] | None = None) -> Tensor:
    """Return diag(gamma2) W_2 L W_1 (D, D), with the activation's slopes L: what the MLP writes for what it reads."""
    slopes = usual_slopes(gated(block)) if slopes is None else slopes
    parts = block.mlp.fc1.weight.double().chunk(len(slopes))  # each (hidden, D)
    hidden = sum(slope * part for slope, part in zip(slopes, parts, strict=True))
    return block.gamma2.double()[:, None] * (block.mlp.fc2.weight.double() @ hidden)


@torch.no_grad()
def linearise(block: Block, slopes: tuple[float, ...] | None = None) -> Tensor:
    """Return the (D, D) float64 matrix of a block: (I + MLP branch) (I + value branch), on the CPU.

    slopes: of the activation, one for each of its inputs; None, those of GELU or SwiGLU.
    """
    width = block.gamma1.numel()
    eye = torch.eye(width, dtype=torch.float64)
    centring = eye - 1.0 / width  # I - 11^T / D
    value = value_path(block).cpu() @ (block.norm1.weight.double().cpu()[:, None] * centring)
    mlp = mlp_path(block, slopes).cpu() @ (block.norm2.weight.double().cpu()[:, None] * centring)
    return (eye + mlp) @ (eye + value)


def cumulative(blocks: Iterable[Block]) -> list[Tensor]:
    """Return the products G_i = E_i ... E_0 of the linearised blocks, one (D, D) per block."""
    products = []
    for block in blocks:
        matrix = linearise(block)
        products.append(matrix @ products[-1] if products else matrix)
    return products
