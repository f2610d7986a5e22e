"""Plant a defect of known direction, so that finding and repairing can be scored."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.errors import InputError
from cellfm_nb.repair.detect import block_inputs, trace
from cellfm_nb.repair.linearise import gated
from cellfm_nb.seeds import torch_rng

if TYPE_CHECKING:
    from cellfm_nb.encoder import Block, Encoder

PLACES = ("output", "fc2", "output+fc2", "value+output", "neuron")


@torch.no_grad()
def plant_defect(encoder: Encoder, volume: np.ndarray, block: int, strength: float = 5.0, seed: int = 0,
                 dense: bool = False, where: str = "output") -> tuple[Encoder, Tensor]:
    """Make a block write one direction d far too strongly.

    Parameters: encoder, left as it is; volume (z, y, x), what the strength is measured on; block; strength, length of
    what the strongest hundredth of the tokens (of a neuron: the strongest token) is given, over the median token norm
    there; seed, of d and of what is read; dense, hit every token, else what all tokens have in common is not answered
    to, and some are hardly hit.
    where: "output", d a^T is added to the attention's output projection; "fc2", to the MLP's second layer;
    "output+fc2", half in each; "value+output", u a^T to the values and d u^T to the projection; "neuron", one hidden
    neuron of the MLP writes d, but is silent for all but one token in fifty, in the background.
    Returns: a copy with the defect, and its direction d (D,), of unit length.
    """
    if where not in PLACES:
        raise InputError("no such place for a defect", where="plant_defect", got=where, expected=" | ".join(PLACES))
    planted, generator = copy.deepcopy(encoder).eval(), torch_rng(seed, "plant", block)
    target, first = planted.blocks[block], 1 + encoder.config.registers
    direction, read = torch.randn(2, encoder.config.width, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    states, angles, _ = block_inputs(planted, volume)
    x = states[block]
    length = strength * states[block + 1][0, first:].norm(dim=1).median().double()  # to be given along d
    context = target.attend(x, angles)
    hidden = behind_activation(target, x + target.gamma1 * target.attention.proj(context))[0].double()
    context = context[0].double()
    output, fc2 = target.attention.proj.weight, target.mlp.fc2.weight
    into_output, into_fc2 = direction / target.gamma1.double(), direction / target.gamma2.double()
    share = 0.5 if "+fc2" in where else 1.0
    if where == "value+output":
        middle = F.normalize(torch.randn(len(direction), generator=generator, dtype=torch.float64), dim=0)
        read = unlike_the_mean(read, target.norm1(x)[0].double(), dense)
        values = target.attention.qkv.weight[2 * len(direction):]
        values += torch.outer(middle, read).to(values)
        given = ((target.attend(x, angles)[0].double() - context) @ middle)[first:]
        scale = (length / loudest(given)).sqrt()
        values += torch.outer(middle, (scale - 1) * read).to(values)
        output += torch.outer(into_output, scale * middle).to(output)
    if where.startswith("output"):
        read_output = unlike_the_mean(read, context, dense)
        scale = share * length / loudest((context @ read_output)[first:])
        output += torch.outer(into_output, scale * read_output).to(output)
    if where.endswith("fc2"):
        read_hidden = torch.randn(hidden.shape[1], generator=generator, dtype=torch.float64)
        read_hidden = unlike_the_mean(read_hidden, hidden, dense)
        scale = share * length / loudest((hidden @ read_hidden)[first:])
        fc2 += torch.outer(into_fc2, scale * read_hidden).to(fc2)
    if where == "neuron":
        given = awaken_neuron(target, x, angles, read, dense)[first:]
        fc2[:, 0] = (into_fc2 * length / given.abs().max()).to(fc2)
    return planted, direction


def loudest(given: Tensor) -> Tensor:
    return given.abs().quantile(0.99)


def unlike_the_mean(read: Tensor, tokens: Tensor, dense: bool) -> Tensor:
    """Return a direction (D,) without its part along the mean of tokens (N, D), so that not all are answered alike."""
    mean = tokens.mean(0)
    return read if dense else read - mean * (mean @ read) / (mean @ mean)


def behind_activation(block: Block, x: Tensor) -> Tensor:
    """Return the hidden activations (B, N, hidden) of a block's MLP for tokens x (B, N, D) that enter its branch."""
    seen = []
    hook = block.mlp.fc2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    block.mlp(block.norm2(x))
    hook.remove()
    return seen[0]


def awaken_neuron(block: Block, x: Tensor, angles: Tensor | None, read: Tensor, dense: bool) -> Tensor:
    """Make hidden neuron 0 loud at one token in fifty, or, if dense, read a direction at every one.

    Returns its activation (N,) for the tokens x (1, N, D) that enter the block. A gate's value is held at 1.
    """
    fc1 = block.mlp.fc1
    x = x + block.gamma1 * block.attention.proj(block.attend(x, angles))
    tokens, length = block.norm2(x)[0].double(), x[0].norm(dim=1)
    if not dense:  # what it likes is a token of the background, for defects are where the image shows nothing
        background = tokens[length <= length.median()]
        read = background[(background @ read).argmax()]  # the loudest is itself: after a LayerNorm all have one length
    heard = tokens @ read
    silent_below = heard.min() if dense else heard.quantile(0.98)
    loudness = 20 / (heard.max() - silent_below)  # the activation is then as good as a switch
    fc1.weight[0] = (loudness * read).to(fc1.weight)
    fc1.bias[0] = (-loudness * silent_below).to(fc1.bias)
    if gated(block):
        value = block.mlp.fc2.in_features
        fc1.weight[value], fc1.bias[value] = 0.0, 1.0
    return behind_activation(block, x)[0, :, 0].double()


@torch.no_grad()
def compare(clean: Encoder, planted: Encoder, mended: Encoder, volume: np.ndarray, block: int) -> dict[str, float]:
    """Compare a repaired encoder with the one before the defect, on tokens that the defect hit and on the others.

    Parameters: clean, planted and mended encoder; volume (z, y, x); block, where the defect was planted. A token was
    hit when the defect moved it by over half its length.
    Returns: planted_share; norm_ratio, mean norm of hit tokens after the block over the clean norm; planted_cosine and
    other_cosine, mean cosine of the final features to the clean ones; other_p1, its 1st percentile over other tokens;
    outlier_rate, share of tokens after the block over twice the clean 99.9th percentile of norms.
    """
    before, hurt, after = (trace(encoder, volume)[0] for encoder in (clean, planted, mended))
    length = before[block + 1].norm(dim=1)
    hit = (hurt[block + 1] - before[block + 1]).norm(dim=1) > 0.5 * length
    cosine = F.cosine_similarity(mended.norm(after[-1]), clean.norm(before[-1]), dim=1)
    others = cosine[~hit] if (~hit).any() else torch.ones(1)
    now = after[block + 1].norm(dim=1)
    return {"planted_share": float(hit.float().mean()),
            "norm_ratio": float((now / length)[hit].mean()),
            "planted_cosine": float(cosine[hit].mean()), "other_cosine": float(others.mean()),
            "other_p1": float(others.quantile(0.01)),
            "outlier_rate": float((now > 2 * length.quantile(0.999)).float().mean())}
