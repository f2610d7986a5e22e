"""Multi-head attention with one meaning on every backend, saliency included."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfm_nb.encoder.position import rotate


class QKV(nn.Linear):
    """Map tokens to queries, keys and values of every head: one Linear D -> 3D.

    Parameters: width, channels D of a token; heads, number of heads H, a divisor of D; qk_norm, bring queries and keys
    to one length per head, which bounds the logits in long runs (Dehghani et al. 2023).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__(width, 3 * width)
        self.heads = heads
        self.q_norm, self.k_norm = ((nn.RMSNorm(width // heads, eps=1e-6), nn.RMSNorm(width // heads, eps=1e-6))
                                    if qk_norm else (nn.Identity(), nn.Identity()))

    def forward(self, x: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, each (B, H, N, d) with d = D / H, of normalised tokens x (B, N, D).

        angles (N, d / 2) turn queries and keys (see `position.rotate`); None leaves them.
        """
        q, k, v = self._heads(super().forward(x), 3)
        return rotate(self.q_norm(q), angles), rotate(self.k_norm(k), angles), v

    def query(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """Return q alone, a third of the work: what a streamer's second pass needs."""
        width = x.shape[-1]
        (q,) = self._heads(F.linear(x, self.weight[:width], self.bias[:width]), 1)
        return rotate(self.q_norm(q), angles)

    def key_value(self, x: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return k and v alone: what a streamer's first pass stores."""
        width = x.shape[-1]
        k, v = self._heads(F.linear(x, self.weight[width:], self.bias[width:]), 2)
        return rotate(self.k_norm(k), angles), v

    def _heads(self, mapped: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts D) -> parts of (B, H, N, d)"""
        return mapped.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Attention(nn.Module):
    """Mix tokens by scaled dot-product attention (Vaswani et al. 2017), through torch's own SDPA."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.qkv = QKV(width, heads, qk_norm)
        self.proj = nn.Linear(width, width)

    def context(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """Return what each token gathers, before the projection: (B, N, D) for normalised tokens x (B, N, D)."""
        q, k, v = self.qkv(x, angles)
        return merge_heads(F.scaled_dot_product_attention(q, k, v))

    @torch.no_grad()
    def saliency(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """Return the softmax attention probabilities of token 0 over all tokens: (B, H, N)."""
        q, k, _ = self.qkv(x, angles)
        return cls_saliency(q[:, :, 0], k)

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        return self.proj(self.context(x, angles))


def merge_heads(x: Tensor) -> Tensor:
    """Turn (B, H, N, d) into (B, N, H d)."""
    return x.transpose(1, 2).flatten(2)


def cls_saliency(q_cls: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q_cls . k / sqrt(d)): probabilities, in float32, that a streamer can form in the same way.

    Parameters: q_cls (B, H, d), the query of the CLS token; k (B, H, N, d), the keys of all tokens.
    Returns: (B, H, N), each row sums to 1.
    """
    logits = torch.einsum("bhd,bhnd->bhn", q_cls.float(), k.float())
    return (logits / k.shape[-1] ** 0.5).softmax(dim=-1)
