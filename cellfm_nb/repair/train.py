"""Repair by training: singular values move until no token points along a block's defect (SINDER, Wang et al. 2024).

Volumes are taken in turn. The first block in which a volume has defective tokens is pulled towards its neighbourhood;
gradients reach back over a few blocks only. Under torch.distributed every rank takes its share of a step's volumes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cellfm_nb.errors import InputError
from cellfm_nb.repair.detect import block_inputs
from cellfm_nb.repair.directions import aligned, cumulative_directions, own_direction, published_flag
from cellfm_nb.repair.neighbours import interior, neighbour_loss
from cellfm_nb.repair.reparametrise import fold_back, reparametrise

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder


@dataclass(frozen=True)
class Recipe:
    """Say how singular values are trained.

    relative: S (1 + eps) instead of S + eps. cumulative: the published direction instead of the block's own. fixed:
    flag |cos| > 0.5 instead of |cos| above its mean + 4 s.d. alarmed_only: touch only blocks that alarm. lr,
    momentum, max_norm: of SGD, and what its gradient is clipped to. batch: volumes per step, over all ranks.
    max_steps. layers: blocks l - layers + 1 .. l are trained for a defect in block l. shrink: singular values may only
    become smaller, and the loss is measured against the stem's token norms, so that making all tokens long is no way
    out. calm, window: stop when this share of the last so many volumes had no defect; all volumes in turn without one
    always end it.

    `PUBLISHED` is cut at 60 steps, of 30,000 in the paper: its rule of 1,000 calm volumes does not come into play.
    """

    relative: bool = True
    cumulative: bool = False
    fixed: bool = True
    alarmed_only: bool = True
    lr: float = 0.05
    momentum: float = 0.9
    max_norm: float = 1.0
    batch: int = 1
    max_steps: int = 60
    layers: int = 1
    shrink: bool = True
    calm: float = 1.0
    window: int = 0


RELATIVE = Recipe()
PUBLISHED = Recipe(relative=False, cumulative=True, fixed=False, alarmed_only=False, lr=0.005,
                   max_norm=3.0, layers=10, shrink=False, calm=0.75, window=1000)


def train_singular_values(encoder: Encoder, volumes: Sequence[np.ndarray], recipe: Recipe = RELATIVE,
                          alarmed: Sequence[int] = ()) -> dict[int, int]:
    """Train singular values, in place, until the volumes show no defect; return steps taken per block.

    Parameters: encoder; volumes (z, y, x), the same on every rank; recipe; alarmed, blocks that alarm.
    A block is defective in a volume when at least three interior tokens are flagged. Several ranks make the steps of
    one, to rounding. Raises InputError when a step's volumes cannot be shared evenly.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if recipe.batch % world:
        raise InputError("the volumes of a step can't be shared evenly", where="Recipe.batch", got=recipe.batch,
                         expected=f"a multiple of the {world} ranks")
    looked_at = list(alarmed) if recipe.alarmed_only else list(range(len(encoder.blocks)))
    if not looked_at:
        return {}
    wanted = {name: p.requires_grad for name, p in encoder.named_parameters()}
    directions = (cumulative_directions(encoder) if recipe.cumulative else
                  {i: own_direction(encoder.blocks[i]) for i in looked_at})
    reached = range(max(0, min(looked_at) - recipe.layers + 1), max(looked_at) + 1)
    encoder.requires_grad_(False)
    parameters = reparametrise([encoder.blocks[i] for i in reached], recipe.relative)
    loss = synchronised(DefectLoss(encoder, recipe, {i: directions[i] for i in looked_at}, parameters))
    optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum)
    steps, turn, calm = torch.zeros(len(encoder.blocks), dtype=torch.long), 0, 0
    looks: deque[bool] = deque(maxlen=max(1, recipe.window))
    share = recipe.batch // world
    while steps.sum() < recipe.max_steps:
        mine = [volumes[(turn + rank * share + i) % len(volumes)] for i in range(share)]
        turn += recipe.batch
        optimizer.zero_grad()
        value, found = loss(mine)
        if world > 1:
            dist.all_reduce(found)
        value.backward()  # every rank, whether it found something or not: gradients are averaged in here
        defective = int(found.sum())
        calm = 0 if defective else calm + recipe.batch
        looks.extend([True] * defective + [False] * (recipe.batch - defective))
        rested = len(looks) == recipe.window and 1 - sum(looks) / len(looks) >= recipe.calm
        if calm >= len(volumes) or rested:
            break
        if defective:
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_norm)
            optimizer.step()
            if recipe.shrink:
                with torch.no_grad():
                    for eps in parameters:
                        eps.clamp_(-1.0, 0.0)
            steps += (found > 0).to(steps)
    fold_back(encoder.blocks)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(wanted[name])
    return {i: int(n) for i, n in enumerate(steps) if n}


def synchronised(loss: DefectLoss) -> nn.Module:
    """Wrap for several ranks, if there are. Only now: parameters made after the wrapping would not be averaged."""
    return DistributedDataParallel(loss, broadcast_buffers=False) if dist.is_initialized() else loss


class DefectLoss(nn.Module):
    """Look at volumes; return their mean neighbour loss (0 for those without a defect) and defects found per block."""

    def __init__(self, encoder: Encoder, recipe: Recipe, directions: dict[int, Tensor],
                 eps: list[nn.Parameter]) -> None:
        super().__init__()
        self.encoder, self.recipe, self.directions = encoder, recipe, directions
        self.eps = nn.ParameterList(eps)

    def forward(self, volumes: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        loss = sum((eps.sum() for eps in self.eps), torch.zeros(())) * 0.0  # every eps takes part on every rank
        found = torch.zeros(len(self.encoder.blocks), dtype=torch.long, device=self.eps[0].device)  # NCCL's too
        for volume in volumes:
            inputs, angles, grid = block_inputs(self.encoder, volume)
            first = 1 + self.encoder.config.registers
            for i, direction in self.directions.items():
                tokens = inputs[i + 1][:, first:]
                flagged = (aligned if self.recipe.fixed else published_flag)(tokens, direction)
                flagged = flagged & interior(grid).to(flagged.device)
                if flagged.sum() >= 3:
                    found[i] += 1
                    start = max(0, i - self.recipe.layers + 1)
                    x = inputs[start]
                    for block in self.encoder.blocks[start:i + 1]:  # gradients reach back to here
                        x = block(x, angles)
                    norm = inputs[0][:, first:].norm(dim=-1).mean() if self.recipe.shrink else None
                    loss = loss + neighbour_loss(x[:, first:], grid, direction, flagged, norm) / len(volumes)
                    break
        return loss, found
