"""Numbers that change while training, each a function of the step alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import nn

from cellfm_nb.pretrain.settings import PretrainSettings


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Go from first (step 0) to last (step steps - 1) along half a cosine."""
    share = min(step / max(steps - 1, 1), 1.0)
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * share))


def warmup_cosine(step: int, steps: int, peak: float, last: float, warmup: int) -> float:
    """Rise linearly from peak / warmup to peak within `warmup` steps, then fall along a cosine to last."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, steps - warmup, peak, last)


def ramp(step: int, first: float, last: float, warmup: int) -> float:
    """Go linearly from first to last within `warmup` steps, then stay."""
    return last if step >= warmup else first + (last - first) * step / warmup


@dataclass(frozen=True)
class Now:
    """Hold the scheduled values of one step."""

    lr: float
    weight_decay: float
    ema: float
    teacher_temp: float
    last_frozen: bool


def at(step: int, s: PretrainSettings) -> Now:
    """Return the scheduled values of a step of a run."""
    return Now(
        lr=warmup_cosine(step, s.steps, s.lr, s.min_lr, max(1, int(s.warmup * s.steps))),
        weight_decay=cosine(step, s.steps, s.weight_decay, s.weight_decay_end),
        ema=cosine(step, s.steps, s.ema, s.ema_end),
        teacher_temp=ramp(step, s.teacher_temp_start, s.teacher_temp, int(s.teacher_temp_warmup * s.steps)),
        last_frozen=step < int(s.freeze_last * s.steps),
    )


BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")
BELOW = ("encoder.stem.", "encoder.cls_token", "encoder.register_tokens", "encoder.position.")


def layers_above(name: str, depth: int) -> int:
    """Return how many steps of layer decay a parameter takes: 0 for heads, 1 for the last block, depth + 1 below it."""
    if found := BLOCK.search(name):
        return depth - int(found[1])
    return depth + 1 if any(part in name for part in BELOW) else 0


def parameter_groups(model: nn.Module, filter_lr: float = 1.0, layer_decay: float = 1.0) -> list[dict]:
    """Sort the trainable tensors by weight decay (yes, no) and learning rate (that of its depth, of the filters).

    layer_decay: a block k blocks before the last learns at layer_decay^(k + 1) of the rate, the stem at one power more,
    heads and the final norm at the full rate (BEiT, Bao et al. 2022).
    Without decay: biases, norms, layer scales, tokens, which is everything that is not a matrix or a kernel, and the
    filters, which start from a prior: hot steps would wash it out.
    Returns: groups {"params", "names", "decay", "scale"}, scale times the learning rate; each tensor is in exactly one.
    """
    groups: dict[tuple[bool, float], dict] = {}
    numbers = [int(found[1]) for name, _ in model.named_parameters() if (found := BLOCK.search(name))]
    depth = 1 + max(numbers, default=-1)
    for name, p in model.named_parameters():
        if p.requires_grad:
            is_filter = ".stem.filters." in name
            decay = p.squeeze().dim() >= 2 and not name.endswith(("_tokens", "position.code")) and not is_filter
            scale = (filter_lr if is_filter else 1.0) * layer_decay ** layers_above(name, depth)
            group = groups.setdefault((decay, scale), {"params": [], "names": [], "decay": decay, "scale": scale})
            group["params"].append(p)
            group["names"].append(name)
    return list(groups.values())
