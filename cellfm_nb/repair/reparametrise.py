"""Train singular values only: W = U diag(S + change) V^T with U and V frozen, for every linear layer of a block.

Published (SINDER): the change is eps itself. Relative: the change is S eps, so that one step size suits large and
small singular values. Of the joint QKV matrix only V's rows take part. At eps = 0 the weights are those of before, to
the bit; folding back leaves plain layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from cellfm_nb.encoder import Block


class SingularValues(nn.Module):
    """Add U diag(change) V^T to some rows of a weight, eps being the only thing to train.

    Parameters: weight (O, I); first_row, of the rows that take part; relative, change = S eps instead of eps.
    """

    def __init__(self, weight: Tensor, first_row: int = 0, relative: bool = True) -> None:
        super().__init__()
        u, s, vt = torch.linalg.svd(weight.detach()[first_row:].double(), full_matrices=False)
        self.first_row = first_row
        for name, value in (("u", u), ("unit", s if relative else torch.ones_like(s)), ("vt", vt)):
            self.register_buffer(name, value.to(weight.dtype))
        self.eps = nn.Parameter(torch.zeros_like(self.unit))

    def forward(self, weight: Tensor) -> Tensor:
        change = (self.u * (self.unit * self.eps)) @ self.vt
        return torch.cat([weight[:self.first_row], weight[self.first_row:] + change])


def linear_layers(block: Block) -> Iterator[tuple[nn.Linear, int]]:
    """Yield the linear layers of a block with the first row that takes part (of QKV: V's)."""
    yield block.attention.qkv, 2 * block.gamma1.numel()
    yield block.attention.proj, 0
    yield block.mlp.fc1, 0
    yield block.mlp.fc2, 0


def reparametrise(blocks: Iterable[Block], relative: bool = True) -> list[nn.Parameter]:
    """Make eps the only trainable parameters of these blocks, in place, and return them."""
    trainable = []
    for block in blocks:
        for parameter in block.parameters():
            parameter.requires_grad_(False)
        for layer, first_row in linear_layers(block):
            change = SingularValues(layer.weight, first_row, relative).to(layer.weight.device)
            parametrize.register_parametrization(layer, "weight", change)
            trainable.append(change.eps)
    return trainable


def fold_back(blocks: Iterable[Block]) -> None:
    """Turn reparametrised layers into plain ones with the weights they had come to, in place."""
    for block in blocks:
        for layer, _ in linear_layers(block):
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
                layer.register_parameter("bias", layer._parameters.pop("bias"))  # after the weight, as it was
        for parameter in block.parameters():
            parameter.requires_grad_(True)


def trainable_share(encoder: nn.Module) -> tuple[int, float]:
    """Return how many numbers a repair of all blocks would train, and their share of all parameters."""
    count = sum(min(layer.weight[first:].shape) for block in encoder.blocks for layer, first in linear_layers(block))
    return count, count / sum(p.numel() for p in encoder.parameters())
