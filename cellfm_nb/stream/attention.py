"""Attention over keys that arrive block by block: exact, every key counted, memory independent of their number.

The running maximum, sum and accumulator are those of Milakov & Gimelshein, "Online normalizer calculation for softmax"
(2018), as used by FlashAttention (Dao et al., 2022). This is the torch twin: the CPU path, and the oracle of kernels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


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


def online_softmax_attention(q: Tensor, blocks: Iterable[tuple[Tensor, ...]],
                             scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Attend to all keys of all blocks, exactly, one block at a time.

    Parameters: q (..., n, d); blocks, an iterable of (k (..., m, d), v (..., m, e)) or (k, v, bias (..., n or 1, m)),
    of any sizes and in any order; scale, factor on the logits (default 1 / sqrt(d)).
    Returns: output (..., n, e) in the dtype of q, and log-sum-exp of the logits (..., n) in float32: the softmax
    weight of any key is exp(logit - log-sum-exp). A query whose keys are all hidden gets 0 and -inf.
    Raises: ValueError without any block.
    """
    state = OnlineSoftmax(q, scale)
    for block in blocks:
        state.update(*block)
    if isinstance(state.sum, float):
        raise ValueError("attention needs at least one block of keys, got none")
    return state.result()
