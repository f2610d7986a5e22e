"""Plant a defect of known direction, so that finding and repairing can be scored."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.repair.engine import trace
from cellfm_nb.seeds import torch_rng

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder


@torch.no_grad()
def plant_defect(encoder: Encoder, volume: np.ndarray, block: int, strength: float = 5.0, seed: int = 0,
                 dense: bool = False) -> tuple[Encoder, Tensor]:
    """Add a rank-1 matrix d a^T to a block's output projection.

    Parameters: encoder, left as it is; volume (z, y, x), what the strength is measured on; block; strength, length of
    what the strongest hundredth of the tokens is given along d, over the median token norm there; seed, of d and a;
    dense, hit every token, else a does not answer to what all tokens have in common, and some are hardly hit.
    Returns: a copy with the defect, and its direction d (D,), of unit length.
    """
    planted, generator = copy.deepcopy(encoder).eval(), torch_rng(seed, "plant", block)
    direction, read = torch.randn(2, encoder.config.width, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    tokens, _ = planted.embed(torch.from_numpy(np.asarray(volume, np.float32))[None, None])
    x = torch.cat([planted.prefix(1), tokens], dim=1)
    for before in planted.blocks[:block]:
        x = before(x)
    target = planted.blocks[block]
    context = target.attend(x)  # 1, N, D
    mean = context[0].mean(0).double()
    if not dense:
        read -= mean * (mean @ read) / (mean @ mean)
    given = context[0].double() @ read
    typical = target.finish(x, context)[0].norm(dim=1).median().double()
    read *= strength * typical / given.abs().quantile(0.99)
    target.attention.proj.weight += (torch.outer(direction, read) / target.gamma1.double()[:, None]).float()
    return planted, direction


@torch.no_grad()
def compare(clean: Encoder, planted: Encoder, mended: Encoder, volume: np.ndarray, block: int) -> dict[str, float]:
    """Compare a repaired encoder with the one before the defect, on tokens that the defect hit and on the others.

    Parameters: clean, planted and mended encoder; volume (z, y, x); block, where the defect was planted. A token was
    hit when the defect moved it by over half its length.
    Returns: planted_share; norm_ratio, mean norm of hit tokens after the block over the clean norm; planted_cosine and
    other_cosine, mean cosine of the final features to the clean ones; other_p1, its 1st percentile over other tokens.
    """
    before, hurt, after = (trace(encoder, volume)[0] for encoder in (clean, planted, mended))
    length = before[block + 1].norm(dim=1)
    hit = (hurt[block + 1] - before[block + 1]).norm(dim=1) > 0.5 * length
    cosine = F.cosine_similarity(mended.norm(after[-1]), clean.norm(before[-1]), dim=1)
    others = cosine[~hit] if (~hit).any() else torch.ones(1)
    return {"planted_share": float(hit.float().mean()),
            "norm_ratio": float((after[block + 1].norm(dim=1) / length)[hit].mean()),
            "planted_cosine": float(cosine[hit].mean()), "other_cosine": float(others.mean()),
            "other_p1": float(others.quantile(0.01))}
