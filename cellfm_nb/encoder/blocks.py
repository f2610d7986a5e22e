"""A transformer block, split where a streamer has to come in: gather the context, then finish token by token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfm_nb.encoder.attention import Attention


class DropPath(nn.Module):
    """Skip a residual branch for a random part of the batch (stochastic depth, Huang et al. 2016); see `drops_of`."""

    part: tuple[range, int] | None = None

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        if self.rate == 1:
            return torch.zeros_like(x)
        if self.part is None:
            coins = torch.rand(len(x), device=x.device)
        else:  # rows are views of samples, view-major: draw for all samples, keep those of this part
            samples, batch = self.part
            coins = torch.rand(len(x) // len(samples), batch, device=x.device)[:, samples.start:samples.stop].flatten()
        return x * (coins >= self.rate).view(-1, *[1] * (x.dim() - 1)) / (1 - self.rate)


@contextmanager
def drops_of(samples: range, batch: int, seed: int, active: bool = True) -> Iterator[None]:
    """Let drop path skip for each sample what it would skip for it in the whole batch, on any rank and in any part.

    Parameters: samples, of the global batch that the rows hold (every view of them, view-major); batch, its size;
    seed; active, False does nothing. The caller's own random numbers are left alone.
    """
    devices = [torch.cuda.current_device()] if active and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices, enabled=active):
        if active:
            torch.manual_seed(seed)
            DropPath.part = (samples, batch)
        try:
            yield
        finally:
            DropPath.part = None


class Mlp(nn.Module):
    """Transform each token by itself: Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """Transform each token by itself: Linear to two halves, one gates the other (Shazeer 2020), Linear.

    fc1 holds the gate's rows first; hidden is the width of one half.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


class Block(nn.Module):
    """Apply attention and an MLP, each pre-normalised, scaled per channel and added (pre-norm ViT block).

    Parameters: width, D; heads, H; mlp_ratio, hidden width over D; layer_scale, first value of the per-channel gains
    gamma1 and gamma2 (LayerScale, Touvron et al. 2021); drop_path, probability of skipping a branch while training;
    mlp, "gelu" or "swiglu", the second with two thirds of the hidden width, so with as many parameters; qk_norm, see
    `QKV`. `block(x)` equals `block.finish(x, block.attend(x))`.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, layer_scale: float = 1.0,
                 drop_path: float = 0.0, mlp: str = "gelu", qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, qk_norm)
        self.gamma1 = nn.Parameter(torch.full((width,), layer_scale))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        hidden = int(mlp_ratio * width)
        self.mlp = SwiGlu(width, -(-2 * hidden // 24) * 8) if mlp == "swiglu" else Mlp(width, hidden)
        self.gamma2 = nn.Parameter(torch.full((width,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """Return the context (B, N, D) that tokens x (B, N, D) gather from all tokens, before the projection."""
        return self.attention.context(self.norm1(x), angles)

    def finish(self, x: Tensor, context: Tensor) -> Tensor:
        """Add the projected context, then the MLP branch; acts on each token by itself. (B, N, D) -> (B, N, D)."""
        x = x + self.drop_path(self.gamma1 * self.attention.proj(context))
        return x + self.drop_path(self.gamma2 * self.mlp(self.norm2(x)))

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        return self.finish(x, self.attend(x, angles))
