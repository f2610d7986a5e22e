"""Seeds: maxima over space and scale of the Laplacian of Gaussian in physical units, a tile with its halo at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellfm_nb.segment.filters import check_volume, gaussian_kernel, second_derivative_kernel
from cellfm_nb.segment.maxima import footprint_size, parabolic_offset

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def log_seeds(
    volume: np.ndarray, spacing_um: Sequence[float], scales_um: Sequence[float | Sequence[float]], threshold: float,
    tile: Sequence[int] = (64, 256, 256), device: str | torch.device = "cpu",
) -> pd.DataFrame:
    """Return the places where the scale-normalised LoG is highest of its neighbourhood and above a threshold.

    Parameters
    ----------
    volume : (z, y, x) float32, also a memory map: one tile and its halo are read at a time.
    spacing_um : voxel size (z, y, x), micrometre.
    scales_um : standard deviations looked for, each one number (a ball) or (z, y, x) (an optical blob).
    threshold : least response (of `filters.log_response`).
    tile : voxels (z, y, x) computed at a time; device : of torch.

    Returns
    -------
    Table, best first: z, y, x (voxels, sub-voxel by parabola), z_um, y_um, x_um, scale (index into `scales_um`),
    score. Tiles and devices change nothing beyond float32's rounding. Lindeberg 1998.
    """
    import torch
    from torch.nn.functional import max_pool3d

    sigma = np.stack([np.broadcast_to(np.asarray(s, float), (3,)) for s in scales_um]) / np.asarray(spacing_um, float)
    size = footprint_size(np.ones(3), sigma.min(0))
    halo = np.ceil(4 * sigma.max(0)).astype(int) + np.array(size) // 2 + 1
    place, score, scale = [np.zeros((0, 3))], [np.zeros(0)], [np.zeros(0, int)]
    for corner in itertools.product(*(range(0, n, t) for n, t in zip(volume.shape, tile, strict=True))):
        first = np.array(corner)
        last = np.minimum(first + tile, volume.shape)
        low, high = np.maximum(first - halo, 0), np.minimum(last + halo, volume.shape)
        block, _ = check_volume(volume[tuple(map(slice, low, high))], spacing_um)
        best, which = log_scales(torch.from_numpy(np.array(block)).to(device), sigma).max(0)
        top = max_pool3d(best[None], size, stride=1, padding=[s // 2 for s in size])[0]
        peak = torch.nonzero((best == top) & (best > threshold)).cpu().numpy()
        peak = peak[((peak + low >= first) & (peak + low < last)).all(1)]
        best = best.cpu().numpy()
        place.append(peak + parabolic_offset(best, peak) + low)
        score.append(best[tuple(peak.T)])
        scale.append(which.cpu().numpy()[tuple(peak.T)])
    table = pd.DataFrame(np.concatenate(place), columns=["z", "y", "x"])
    table[["z_um", "y_um", "x_um"]] = table[["z", "y", "x"]].to_numpy() * np.asarray(spacing_um, float)
    table["scale"], table["score"] = np.concatenate(scale), np.concatenate(score)
    return table.sort_values("score", ascending=False, ignore_index=True, kind="stable")


def log_scales(block: Tensor, sigma_px: np.ndarray) -> Tensor:
    """Return (scales, z, y, x) responses of a block, as `filters.log_response` gives them one by one."""
    import torch

    out = block.new_zeros((len(sigma_px), *block.shape))
    for response, sigma in zip(out, sigma_px, strict=True):
        for axis in range(3):
            part = block
            for a in range(3):
                smooth = gaussian_kernel(sigma[a], 4.0)
                kernel = second_derivative_kernel(sigma[a]) if a == axis else smooth / smooth.sum()
                matrix = torch.from_numpy(edge_matrix(block.shape[a], kernel)).to(block)
                part = torch.tensordot(matrix, part, ([1], [a])).movedim(0, a)
            response -= sigma[axis] ** 2 * part
    return out


def edge_matrix(n: int, kernel: np.ndarray) -> np.ndarray:
    """Return the (n, n) matrix that correlates with an odd kernel; outside, the border's voxel goes on."""
    matrix, at = np.zeros((n, n)), np.arange(n)
    for offset, weight in enumerate(kernel, -(len(kernel) // 2)):
        np.add.at(matrix, (at, np.clip(at + offset, 0, n - 1)), weight)
    return matrix
