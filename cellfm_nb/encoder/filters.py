"""Overlapping filters on voxels: blobs in micrometres as products of one filter an axis, or dense kernels.

A product of three small filters takes a twentieth of the multiplications of a dense kernel, and one core sums along an
axis fastest as a matrix product with a band.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Triple = tuple[int, int, int]
SIGMAS_UM = (0.1, 0.16, 0.25, 0.4)
ROWS = 96  # responses of a band at a time: the more, the more of the band is zeros; the fewer, the more is copied


class SeparableFilters(nn.Module):
    """Filter voxels at some scales, each a product of three trainable filters, and mix the scales into channels.

    Parameters: channels; kernel, voxels (z, y, x), odd; scales, S. Made of z, y, x, the taps (S, k) of an axis, and
    mix, a linear map S -> channels. All is zero until `set_blobs`.
    """

    def __init__(self, channels: int, kernel: Triple, scales: int = len(SIGMAS_UM)) -> None:
        super().__init__()
        self.kernel = kernel
        self.z, self.y, self.x = (nn.Parameter(torch.zeros(scales, k)) for k in kernel)
        self.mix = nn.Linear(scales, channels)

    @torch.no_grad()
    def set_blobs(self, spacing_um: tuple[float, float, float]) -> None:
        """Start from the bank of `blob_filters`; channels beyond it keep what they mix."""
        taps, mix = blob_factors(self.kernel, spacing_um)
        for own, factor in zip((self.z, self.y, self.x), taps, strict=True):
            own.copy_(factor)
        n = min(len(mix), self.mix.out_features)
        self.mix.weight[:n] = mix[:n]

    def forward(self, x: Tensor, beyond: Triple = (0, 0, 0)) -> Tensor:
        """Return the responses (B, C, Z + 2 beyond, ...) to x (B, 1, Z, Y, X), which is empty beyond its borders.

        beyond: voxels (z, y, x) on each side that respond too; less than 0: so many at the border don't.
        """
        x = x.transpose(0, 1)  # (1, B, Z, Y, X)
        for axis, taps in ((4, self.x), (3, self.y), (2, self.z)):
            x = along(x, taps, axis, beyond[axis - 2])  # (S, B, ...)
        channels = torch.addmm(self.mix.bias[:, None], self.mix.weight, x.flatten(1))  # (C, B Z Y X)
        return channels.view(-1, *x.shape[1:]).transpose(0, 1)


class DenseFilters(nn.Conv3d):
    """Filter voxels with dense kernels: of the same interface as `SeparableFilters`."""

    def __init__(self, channels: int, kernel: Triple) -> None:
        super().__init__(1, channels, kernel)

    def forward(self, x: Tensor, beyond: Triple = (0, 0, 0)) -> Tensor:
        """Return the responses (B, C, Z + 2 beyond, ...), see `SeparableFilters.forward`."""
        padding = [k // 2 + more for k, more in zip(self.kernel_size, beyond, strict=True)]
        return F.conv3d(x, self.weight, self.bias, padding=padding)


def along(x: Tensor, taps: Tensor, axis: int, beyond: int) -> Tensor:
    """Filter one axis of x (S or 1, B, Z, Y, X) with the taps (S, k) of each scale; see `SeparableFilters.forward`."""
    n, k, size, parts = x.shape[axis], taps.shape[1], x.shape[axis] + 2 * beyond, []
    for done in range(0, size, ROWS):
        rows, first = min(ROWS, size - done), done - beyond - k // 2  # the first voxel that these responses see
        low = min(max(first, 0), n - 1)
        high = max(min(first + rows - 1 + k, n), low + 1)  # what there is of them, at least one voxel
        matrix, part = band(taps, rows, high - low, first - low), x.narrow(axis, low, high - low)
        if axis == 4:
            part = part.flatten(1, 3) @ matrix.mT  # (S, B Z Y, X) (S, X, rows)
        else:
            part = matrix[:, None] @ part.flatten(axis + 1).flatten(1, axis - 1)  # (S, 1, rows, n) (S, B, n, ...)
        parts.append(part.view(-1, *x.shape[1:axis], rows, *x.shape[axis + 1:]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def band(taps: Tensor, rows: int, columns: int, first: int) -> Tensor:
    """Return the matrices (S, rows, columns) whose row r has the taps (S, k) from column r + first on."""
    k = taps.shape[1]
    first = max(min(first, columns), 1 - rows - k)  # there may be no column for any tap
    line = F.pad(taps, (rows - 1 + first, columns - first - k))
    return line.unfold(1, columns, 1).flip(1)


def filter_size(spacing_um: tuple[float, float, float],
                reach_um: tuple[float, float, float] = (0.5, 0.4, 0.4), largest: int = 13) -> Triple:
    """Return the odd kernel size (z, y, x) in voxels that reaches `reach_um` to either side, from 3 to `largest`."""
    return tuple(min(largest, 2 * max(1, round(r / s)) + 1) for r, s in zip(reach_um, spacing_um, strict=True))


def blob_factors(kernel: Triple, spacing_um: tuple[float, float, float], sigmas_um: tuple[float, ...] = SIGMAS_UM,
                 elongation: float = 2.5) -> tuple[list[Tensor], Tensor]:
    """Return the bank of `blob_filters` as what it is a product of, float64.

    Returns: the Gaussians of each axis, (S, k) for z, y and x, of unit norm; and how much of each scale a filter of
    the bank has, (2 S - 1, S).
    """
    taps = []
    for k, spacing, longer in zip(kernel, spacing_um, (elongation, 1, 1), strict=True):
        at = (torch.arange(k, dtype=torch.float64) - k // 2) * spacing / longer
        gaussians = torch.exp(-0.5 * (at / torch.tensor(sigmas_um, dtype=torch.float64)[:, None]) ** 2)  # (S, k)
        taps.append(gaussians / gaussians.norm(dim=1, keepdim=True))
    one = torch.diag(1 / math.prod(t.sum(1) for t in taps))  # Gaussians of sum 1
    mix = torch.cat([one[:-1] - one[1:], one])
    overlap = math.prod(t @ t.T for t in taps)  # inner products of the scales, (S, S)
    return taps, mix / (mix @ overlap * mix).sum(1, keepdim=True).sqrt()


def blob_filters(channels: int, kernel: Triple, spacing_um: tuple[float, float, float],
                 sigmas_um: tuple[float, ...] = SIGMAS_UM, elongation: float = 2.5) -> Tensor:
    """Make a bank of differences of neighbouring Gaussians and of Gaussians, each of unit norm.

    White noise of unit variance then gives responses of unit variance: a response is a matched-filter signal-to-noise
    ratio. Seed of the idea: scale-space blob detection (Lindeberg 1998); measured in `pretraining_findings.md`.
    Parameters: channels, number of filters wanted; kernel, voxels (z, y, x); spacing_um; sigmas_um, lateral standard
    deviations; elongation, axial over lateral (the point-spread function of light-sheet optics).
    Returns: (n, 1, kz, ky, kx) with n = min(channels, 2 len(sigmas_um) - 1).
    """
    (z, y, x), mix = blob_factors(kernel, spacing_um, sigmas_um, elongation)
    return torch.einsum("cs,sz,sy,sx->czyx", mix[:channels], z, y, x)[:, None].float()
