"""Where a token is: nothing at all (the default), a code added to it, or a rotation of its queries and keys.

Positions count tokens from the corner of the volume, so the same place means the same whatever the volume's size and
however it is cut into chunks. CLS and registers have no place: nothing is added to them and nothing turned.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

Triple = tuple[int, int, int]
KINDS = ("none", "sincos", "learned", "rope")


class Position(nn.Module):
    """Tell tokens apart by their place.

    Parameters: kind: "none"; "sincos", sines and cosines of each coordinate, added (Vaswani et al. 2017, in 3D);
    "learned", a trainable code on a grid of `native` tokens, interpolated to other grids and added (Dosovitskiy et al.
    2021); "rope", rotation of queries and keys, so that attention knows distances only (Su et al. 2021, axial in 3D).
    width, D; head_width, d = D / H; native, tokens (z, y, x) of the learned code.
    """

    def __init__(self, kind: str, width: int, head_width: int, native: Triple) -> None:
        super().__init__()
        self.kind = kind
        if kind == "sincos":  # an equal share of the channels for each axis, the rest stays free
            self.register_buffer("frequency", frequencies(width // 6, 10_000.0), persistent=False)
        elif kind == "rope":  # pairs of channels: a third for each axis, the remainder for x
            third = head_width // 6
            pairs = (third, third, head_width // 2 - 2 * third)
            for axis, n in zip("zyx", pairs, strict=True):
                self.register_buffer(f"frequency_{axis}", frequencies(n, 100.0), persistent=False)
        self.code = nn.Parameter(torch.zeros(*native, width)) if kind == "learned" else None
        self.width = width

    def added(self, where: tuple[slice, slice, slice], grid: Triple) -> Tensor | None:
        """Return the code (z, y, x, D) of the tokens in three slices of a grid, None when nothing is added."""
        if self.kind == "learned":
            z, y, x = (interpolation(s, n, native).to(self.code) for s, n, native
                       in zip(where, grid, self.code.shape[:3], strict=True))
            return torch.einsum("ai,bj,ck,ijkd->abcd", z, y, x, self.code)
        if self.kind != "sincos":
            return None
        size = [s.stop - s.start for s in where]
        code = self.frequency.new_zeros(*size, self.width)
        for axis, s in enumerate(where):
            angle = torch.arange(s.start, s.stop, device=code.device)[:, None] * self.frequency  # (n, D/6)
            wave = torch.cat([angle.sin(), angle.cos()], dim=1)
            shape = [1, 1, 1, -1]
            shape[axis] = size[axis]
            first = axis * wave.shape[1]
            code[..., first:first + wave.shape[1]] = wave.view(shape)
        return code

    def angles(self, start: int, stop: int, grid: Triple, prefix: int) -> Tensor | None:
        """Return the angles (stop - start, d / 2) that turn rows of the whole sequence, None without rotation.

        Rows: `prefix` tokens without a place, then the grid with x running fastest.
        """
        if self.kind != "rope":
            return None
        rows = torch.arange(start, stop, device=self.frequency_x.device) - prefix
        strides = list(accumulate((1, *grid[:0:-1]), lambda a, b: a * b))[::-1]  # of z, y, x
        parts = [(rows // stride % n)[:, None] * frequency for stride, n, frequency
                 in zip(strides, grid, (self.frequency_z, self.frequency_y, self.frequency_x), strict=True)]
        return torch.cat(parts, dim=1).masked_fill((rows < 0)[:, None], 0.0)


def frequencies(n: int, theta: float) -> Tensor:
    """Return n frequencies in radians a token, from 1 down to about 1 / theta, evenly on a logarithmic scale."""
    return theta ** (-torch.arange(n, dtype=torch.float32) / max(n, 1))


def rotate(x: Tensor, angles: Tensor | None) -> Tensor:
    """Turn pairs of channels of x (..., n, d) by angles (n, d / 2); the pairs are channels i and i + d / 2."""
    if angles is None:
        return x
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def interpolation(s: slice, n: int, native: int) -> Tensor:
    """Return the weights (tokens of the slice, native) that stretch `native` samples over an axis of n tokens.

    Linear, half-pixel centres (torch's align_corners=False): the identity when n = native.
    """
    at = ((torch.arange(s.start, s.stop) + 0.5) * native / n - 0.5).clamp(0, native - 1)
    return (1 - (at[:, None] - torch.arange(native)).abs()).clamp(min=0)


def whole(grid: Triple) -> tuple[slice, slice, slice]:
    """Return the slices of a whole grid."""
    return tuple(slice(0, n) for n in grid)


def head_width_fits(kind: str, head_width: int) -> bool:
    """Say whether a head is wide enough: a rotation needs a pair of channels for each axis."""
    return kind != "rope" or (head_width % 2 == 0 and head_width >= 6)
