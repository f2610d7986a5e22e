"""Registers at test time: an extra token that takes what would otherwise make patch tokens long.

Zero registers are tokens of zeros (`Encoder.with_registers`). Test-time registers (Jiang et al. 2025) do more: the few
hidden neurons of the MLPs that speak loudest at outlier tokens are found, and while the encoder runs their largest
activation moves into the extra token and is zero at the patches. No weight changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cellfm_nb.repair.detect import trace

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder

Neurons = list[tuple[int, int]]


def outlier_tokens(tokens: Tensor, deviations: float = 8.0) -> Tensor:
    """Flag tokens (N, D) whose norm stands more than 8 robust deviations above the median norm; (N,) bool.

    The deviation is the median absolute one of the lower half, so that a heavy upper tail cannot hide itself.
    """
    norm = tokens.norm(dim=-1)
    middle = norm.median()
    spread = 1.4826 * (middle - norm[norm <= middle]).median()
    return norm > middle + deviations * spread.clamp_min(1e-6 * middle)


@torch.no_grad()
def register_neurons(encoder: Encoder, volumes: Sequence[np.ndarray], count: int = 10) -> Neurons:
    """Find the hidden neurons that are loudest at tokens that are outliers after the last block, but not at the stem.

    The stem's outliers are bright objects, and are to stay.

    Parameters: encoder; volumes (z, y, x), normalised; count, how many neurons.
    Returns: (block, neuron) of the largest mean |activation| over outlier tokens, largest first; [] without outliers.
    """
    first = 1 + encoder.config.registers
    total = torch.zeros(len(encoder.blocks), encoder.blocks[0].mlp.fc2.in_features)
    for volume in volumes:
        hidden: list[Tensor] = []
        hooks = [block.mlp.fc2.register_forward_pre_hook(lambda _, given, kept=hidden: kept.append(given[0][0, first:]))
                 for block in encoder.blocks]
        try:
            states, _ = trace(encoder, volume)
        finally:
            for hook in hooks:
                hook.remove()
        outliers = outlier_tokens(states[-1]) & ~outlier_tokens(states[0])
        total += torch.stack([h[outliers].abs().sum(0) for h in hidden]).to(total)
    best = total.flatten().topk(count).indices if total.any() else []
    return [divmod(int(i), total.shape[1]) for i in best]


def test_time_registers(encoder: Encoder, neurons: Neurons) -> Encoder:
    """Return a copy with one zero register more, into which the activation of some (block, neuron) moves.

    The largest activation by size over the patches goes to the register; the patches get 0; CLS keeps its own. The
    copy works while it lives: what moves activations is no weight and is not saved.
    """
    device = next(encoder.parameters()).device
    copy = encoder.with_registers(1).to(device)
    for block in {block for block, _ in neurons}:
        chosen = torch.tensor([n for b, n in neurons if b == block], device=device)
        copy.blocks[block].mlp.fc2.register_forward_pre_hook(
            partial(_move, chosen=chosen, register=copy.config.registers))
    return copy


test_time_registers.__test__ = False  # its name is the method's, not pytest's


def _move(layer: nn.Module, given: tuple[Tensor], chosen: Tensor, register: int) -> tuple[Tensor]:
    hidden = given[0].clone()  # B, P + N, hidden; the new register is the last of the prefix
    patches = hidden[:, register + 1:, chosen]
    loudest = patches.abs().argmax(dim=1, keepdim=True)
    hidden[:, register, chosen] = patches.gather(1, loudest)[:, 0]
    hidden[:, register + 1:, chosen] = 0.0
    return (hidden,)
