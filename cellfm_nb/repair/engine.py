"""Find singular defects, repair them, and leave a healthy encoder as it is, to the bit.

The alarm needs both signs: a spectral gap in a block's output projection, and background tokens whose norm has grown
over the stem's output. The repair is closed-form (clip the singular values that stand out), then, where wanted, a
short training of relative singular values towards the neighbourhood. The published recipe is kept as `PUBLISHED`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cellfm_nb.errors import InputError
from cellfm_nb.repair.directions import (
    aligned,
    cumulative_directions,
    output_gap,
    own_direction,
    published_flag,
)
from cellfm_nb.repair.linearise import output_matrix
from cellfm_nb.repair.neighbours import interior, neighbour_loss
from cellfm_nb.repair.reparametrise import fold_back, reparametrise

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder

GAP, GROWTH = 5.0, 1.5  # alarm above both; healthy encoders were seen with gaps up to 3 and growth up to 1.4


@dataclass(frozen=True)
class Recipe:
    """Say how singular values are trained.

    relative: S (1 + eps) instead of S + eps. cumulative: the published direction instead of the block's own. fixed:
    flag |cos| > 0.5 instead of |cos| above its mean + 4 s.d. alarmed_only: touch only blocks that alarm. lr,
    momentum, max_norm: of SGD, and what its gradient is clipped to. max_steps. layers: blocks l - layers + 1 .. l are
    trained for a defect in block l. shrink: singular values may only become smaller, and the loss is measured against
    the stem's token norms, so that making all tokens long is no way out.
    """

    relative: bool = True
    cumulative: bool = False
    fixed: bool = True
    alarmed_only: bool = True
    lr: float = 0.05
    momentum: float = 0.9
    max_norm: float = 1.0
    max_steps: int = 60
    layers: int = 1
    shrink: bool = True


RELATIVE = Recipe()
PUBLISHED = Recipe(relative=False, cumulative=True, fixed=False, alarmed_only=False, lr=0.005,
                   max_norm=3.0, layers=10, shrink=False)


@torch.no_grad()
def trace(encoder: Encoder, volume: np.ndarray) -> tuple[list[Tensor], tuple[int, int, int]]:
    """Return the patch tokens (N, D) of the stem and after each block for a volume (z, y, x), and their grid."""
    states, grid = _forward(encoder, volume, len(encoder.blocks))
    return [state[0] for state in states], grid


def detect(encoder: Encoder, volumes: Sequence[np.ndarray]) -> pd.DataFrame:
    """Look for singular defects in each block.

    Parameters: encoder; volumes (z, y, x), normalised, at the encoder's spacing.
    Returns: one row per block: block; gap, s1 / s2 of the output projection; growth, 99th percentile over background
    tokens of the norm after the block over the norm at the stem; flagged, share of tokens along the block's own
    direction (|cos| > 0.5); alarm, gap > 5 and growth > 1.5.
    Background tokens are those whose norm at the stem is not in the upper quarter.
    Raises: InputError for weights that are not finite.
    """
    for name, parameter in encoder.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError("the encoder has weights that are not finite", where=name, do="train it again")
    directions = [own_direction(block) for block in encoder.blocks]
    growth, flagged = [[] for _ in directions], [[] for _ in directions]
    for volume in volumes:
        (stem, *states), _ = trace(encoder, volume)
        background = stem.norm(dim=1) <= stem.norm(dim=1).quantile(0.75)
        for i, state in enumerate(states):
            growth[i].append((state.norm(dim=1) / stem.norm(dim=1).clamp_min(1e-6))[background])
            flagged[i].append(aligned(state, directions[i]))
    rows = [{"block": i, "gap": output_gap(block), "growth": float(torch.cat(growth[i]).quantile(0.99)),
             "flagged": float(torch.cat(flagged[i]).float().mean())} for i, block in enumerate(encoder.blocks)]
    table = pd.DataFrame(rows)
    return table.assign(alarm=(table["gap"] > GAP) & (table["growth"] > GROWTH))


def repair(encoder: Encoder, volumes: Sequence[np.ndarray], clip: bool = True, train: Recipe | None = None,
           ) -> tuple[Encoder, pd.DataFrame]:
    """Repair the blocks that alarm; a healthy encoder comes back unchanged.

    Parameters: encoder, left as it is; volumes, as for `detect`; clip, cut singular values that stand out; train, a
    `Recipe` to follow after that (RELATIVE, or PUBLISHED, which looks at every block whether it alarms or not).
    Returns: a repaired copy, and the table of `detect` with, per block, repaired (what was done), and gap_after,
    growth_after, flagged_after, alarm_after.
    """
    before, mended = detect(encoder, volumes), copy.deepcopy(encoder)
    done = ["" for _ in mended.blocks]
    alarmed = [int(i) for i in before.loc[before["alarm"], "block"]]
    if clip:
        for i in alarmed:
            done[i] = f"clipped {clip_spectrum(mended.blocks[i])} singular value(s)"
    if train is not None and (alarmed or not train.alarmed_only):
        for i, steps in train_singular_values(mended, volumes, train, alarmed).items():
            done[i] = "; ".join(filter(None, [done[i], f"trained {steps} steps"]))
    after = before if not any(done) else detect(mended, volumes)
    table = before.assign(repaired=[what or "nothing" for what in done])
    for name in ("gap", "growth", "flagged", "alarm"):
        table[f"{name}_after"] = after[name]
    return mended, table


@torch.no_grad()
def clip_spectrum(block: torch.nn.Module, gap: float = GAP) -> int:
    """Cut the singular values of a block's output projection that stand out, in place, and return how many.

    Among the upper quarter of the spectrum, everything above the last gap s_i / s_(i+1) > `gap` becomes s_(i+1). A bias
    that has adapted (along a cut direction over 6 times the root mean square of its rest) loses that component.
    """
    matrix = output_matrix(block)
    u, s, vt = torch.linalg.svd(matrix)
    upper = max(1, len(s) // 4)
    jumps = (s[:upper] / s[1:upper + 1].clamp_min(1e-30) > gap).nonzero().flatten()
    if len(jumps) == 0:
        return 0
    count = int(jumps[-1]) + 1
    change = (u[:, :count] * (s[count] - s[:count])) @ vt[:count]  # D, D in the residual stream
    gamma = block.gamma1.double()
    block.attention.proj.weight += (change / gamma[:, None]).to(block.attention.proj.weight)
    bias = gamma * block.attention.proj.bias.double()
    along = u[:, :count].T @ bias
    rest = bias - u[:, :count] @ along
    along = torch.where(along.abs() > 6 * rest.square().mean().sqrt(), along, 0.0)
    block.attention.proj.bias -= (u[:, :count] @ along / gamma).to(block.attention.proj.bias)
    return count


def train_singular_values(encoder: Encoder, volumes: Sequence[np.ndarray], recipe: Recipe = RELATIVE,
                          alarmed: Sequence[int] = ()) -> dict[int, int]:
    """Train singular values, in place, until no volume shows a defective token; return steps taken per block.

    Each step takes one volume and the first block with at least three flagged interior tokens; its neighbour loss
    moves eps of the blocks up to it. Every volume in turn without such a block ends the training.
    """
    looked_at = alarmed if recipe.alarmed_only else range(len(encoder.blocks))
    directions = dict(enumerate(cumulative_directions(encoder))) if recipe.cumulative else {
        i: own_direction(encoder.blocks[i]) for i in looked_at}
    steps: dict[int, int] = {}
    parameters = reparametrise(encoder.blocks, recipe.relative)
    per_block = len(parameters) // len(encoder.blocks)
    optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum)
    calm, turn = 0, 0
    while calm < len(volumes) and sum(steps.values()) < recipe.max_steps:
        volume = volumes[turn % len(volumes)]
        turn += 1
        found = _first_defect(encoder, volume, looked_at, directions, recipe)
        if found is None:
            calm += 1
            continue
        calm, (block, tokens, grid, flagged, stem) = 0, found
        optimizer.zero_grad()
        neighbour_loss(tokens, grid, directions[block], flagged, stem if recipe.shrink else None).backward()
        for eps in parameters[:max(0, block - recipe.layers + 1) * per_block]:
            eps.grad = None  # only blocks l - layers + 1 .. l
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_norm)
        optimizer.step()
        if recipe.shrink:
            with torch.no_grad():
                for eps in parameters:
                    eps.clamp_(-1.0, 0.0)
        steps[block] = steps.get(block, 0) + 1
    fold_back(encoder.blocks)
    return steps


def _first_defect(encoder: Encoder, volume: np.ndarray, looked_at: Sequence[int], directions: dict[int, Tensor],
                  recipe: Recipe) -> tuple[int, Tensor, tuple[int, int, int], Tensor, Tensor] | None:
    """Return the first defective block, or None.

    As (block, tokens (1, N, D) with gradient, grid, flagged (1, N), mean norm of the stem's tokens).
    """
    if not looked_at:
        return None
    states, grid = _forward(encoder, volume, max(looked_at) + 1)
    for i in looked_at:
        tokens = states[i + 1]
        flag = (aligned if recipe.fixed else published_flag)(tokens.detach(), directions[i])
        flag = flag & interior(grid).to(flag.device)
        if flag.sum() >= 3:
            return i, tokens, grid, flag, states[0].norm(dim=-1).mean()
    return None


def _forward(encoder: Encoder, volume: np.ndarray, depth: int) -> tuple[list[Tensor], tuple[int, int, int]]:
    """Return patch tokens (1, N, D) at the stem and after each of the first `depth` blocks, and the grid."""
    device, first = next(encoder.parameters()).device, 1 + encoder.config.registers
    with torch.no_grad():  # neither the stem nor the prefix is repaired
        tokens, grid = encoder.embed(torch.from_numpy(np.asarray(volume, np.float32)).to(device)[None, None])
        x = torch.cat([encoder.prefix(1), tokens], dim=1)
    states = [tokens]
    for block in encoder.blocks[:depth]:
        x = block(x)
        states.append(x[:, first:])
    return states, grid
