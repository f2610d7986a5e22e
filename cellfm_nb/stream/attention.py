"""Attention over keys that arrive block by block: exact, every key counted, memory independent of their number.

The running maximum, sum and accumulator are those of Milakov & Gimelshein, "Online normalizer calculation for softmax"
(2018), as used by FlashAttention (Dao et al., 2022). Three backends keep them, and the plan says which one runs:
"torch", the twin all others are tested against; "fused", torch's own fused kernel on a CPU, block by block; "triton",
our kernels on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from cellfm_nb.errors import InputError


class OnlineSoftmax:
    """Hold the running state of softmax attention for one block of queries.

    Parameters: q (..., n, d) queries of any float dtype; scale, factor on the logits (default 1 / sqrt(d)).
    All arithmetic is float32 whatever the dtype of q, k and v.
    """

    def __init__(self, q: Tensor, scale: float | None = None) -> None:
        self.dtype = q.dtype
        self.q = q.float() * (q.shape[-1] ** -0.5 if scale is None else scale)  # ..., n, d
        self.top = self.q.new_full((*q.shape[:-1], 1), -torch.inf)  # running maximum of the logits
        self.total = torch.zeros_like(self.top)  # running sum of exp(logit - maximum)
        self.sum: Tensor | float = 0.0  # running sum of exp(logit - maximum) * v

    def update(self, k: Tensor, v: Tensor, bias: Tensor | None = None) -> None:
        """Count a block of keys: k (..., m, d), v (..., m, e), bias broadcastable to (..., n, m), -inf hides a key."""
        logits = self.q @ k.float().transpose(-1, -2)  # ..., n, m
        if bias is not None:
            logits = logits + bias
        top = torch.maximum(self.top, logits.amax(-1, keepdim=True))
        # a query that has seen only hidden keys keeps top = -inf: subtract 0 there, exp(-inf) is 0 and never NaN
        shift = top.masked_fill(top == -torch.inf, 0.0)
        weights = logits.sub_(shift).exp_()  # ..., n, m
        decay = (self.top - shift).exp_()  # what the old sums are worth under the new maximum
        self.total = self.total * decay + weights.sum(-1, keepdim=True)
        self.sum = self.sum * decay + weights @ v.float()
        self.top = top

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the output (..., n, e) in the queries' dtype and the log-sum-exp of the logits (..., n), float32."""
        seen = self.total > 0
        out = torch.where(seen, self.sum / self.total.masked_fill(~seen, 1.0), 0.0)
        return out.to(self.dtype), (self.top + self.total.log()).squeeze(-1)


class FusedSoftmax:
    """Do the same with torch's fused CPU kernel for each block: its output and log-sum-exp, merged into what was seen.

    Parameters: q (H, n, d); scale, as in `OnlineSoftmax`.
    """

    def __init__(self, q: Tensor, scale: float | None = None) -> None:
        self.q, self.scale = q, scale
        self.out, self.lse = None, None

    def update(self, k: Tensor, v: Tensor, bias: Tensor | None = None) -> None:
        """Count a block of keys: k and v (H, m, d), bias broadcastable to (H, n, m), -inf hides a key."""
        mask = None if bias is None else bias.to(self.q.dtype).expand(len(k), self.q.shape[1], k.shape[1])[None]
        out, lse = (part[0] for part in _fused(self.q[None], k[None], v[None], scale=self.scale, attn_mask=mask))
        if bias is not None:  # where a query sees no key of the block, the kernel's log-sum-exp means nothing
            lse = lse.masked_fill((bias == -torch.inf).all(-1), -torch.inf)
        if self.lse is None:
            self.out, self.lse = torch.where(lse[..., None] > -torch.inf, out.float(), 0.0), lse
            return
        total = torch.logaddexp(self.lse, lse)
        shift = total.masked_fill(total == -torch.inf, 0.0)
        old, new = ((part - shift).exp()[..., None] for part in (self.lse, lse))
        self.out.mul_(old).add_(torch.where(new > 0, out.float(), 0.0) * new)
        self.lse = total

    def result(self) -> tuple[Tensor, Tensor]:
        """Return what `OnlineSoftmax.result` does."""
        return self.out.to(self.q.dtype), self.lse


_fused = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def pick_backend(device: torch.device | str, wanted: str = "auto") -> str:
    """Return which backend attends on a device: "triton", "fused" or "torch"; "auto" takes the fastest there is.

    Raises: InputError for one that does not exist or does not run here.
    """
    from cellfm_nb.stream.kernels import missing

    kind = torch.device(device).type
    runs = {"triton": missing(kind) is None, "fused": kind == "cpu" and _fused is not None, "torch": True}
    if wanted == "auto":
        # the interpreter of Triton is a test tool: on a CPU it is taken only when asked for
        return next(name for name, ok in runs.items() if ok and (name, kind) != ("triton", "cpu"))
    if not runs.get(wanted, False):
        why = f": {missing(kind)}" if wanted == "triton" else ""
        raise InputError("no such attention backend here", got=f"{wanted} on {kind}{why}",
                         expected=" | ".join(name for name, ok in runs.items() if ok), do="let it be auto")
    return wanted


def softmax_state(q: Tensor, scale: float | None = None, backend: str = "torch") -> OnlineSoftmax | FusedSoftmax:
    """Return the running state of a backend, to be updated block by block."""
    if backend == "triton":
        from cellfm_nb.stream.kernels import TritonSoftmax

        return TritonSoftmax(q, scale)
    return (FusedSoftmax if backend == "fused" else OnlineSoftmax)(q, scale)


def online_softmax_attention(q: Tensor, blocks: Iterable[tuple[Tensor, ...]], scale: float | None = None,
                             backend: str = "torch") -> tuple[Tensor, Tensor]:
    """Attend to all keys of all blocks, exactly, one block at a time.

    Parameters: q (..., n, d), for "fused" and "triton" (H, n, d); blocks, an iterable of (k (..., m, d),
    v (..., m, e)) or (k, v, bias (..., n or 1, m)), of any sizes and in any order; scale, factor on the logits
    (default 1 / sqrt(d)); backend "torch" | "fused" | "triton".
    Returns: output (..., n, e) in the dtype of q, and log-sum-exp of the logits (..., n) in float32: the softmax
    weight of any key is exp(logit - log-sum-exp). A query whose keys are all hidden gets 0 and -inf.
    Raises: ValueError without any block.
    """
    state, seen = softmax_state(q, scale, backend), False
    for block in blocks:
        state.update(*block)
        seen = True
    if not seen:
        raise ValueError("attention needs at least one block of keys, got none")
    return state.result()
