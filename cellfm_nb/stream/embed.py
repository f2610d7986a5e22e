"""From voxels to tokens, chunk by chunk with the stem's halo: the same tokens as from the whole volume."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.errors import InputError
from cellfm_nb.stream.stem import filter_tokens
from cellfm_nb.stream.store import TokenStore

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder

Triple = tuple[int, int, int]


def embed_chunks(encoder: Encoder, volume: Any, grid: Triple, chunk: Triple
                 ) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield (token slices, tokens (cz, cy, cx, D)) of each chunk, embedded with its halo and cut to itself.

    Parameters: encoder; volume (z, y, x), an array or what slices to one; grid and chunk (z, y, x) in tokens.
    Raises: InputError on NaN or infinite voxels.
    """
    patch, weights = encoder.config.patch, encoder.cls_token
    tiled = weights.device.type == "cpu" and encoder.config.stem != "patch"
    halo = encoder.stem.reach if tiled else encoder.halo
    for where, low, high in cut(grid, chunk, halo, patch, volume.shape):
        voxels = torch.from_numpy(read_voxels(volume, low, high)).to(weights.device, weights.dtype)
        if tiled:
            tokens = filter_tokens(encoder.stem, surround(voxels, where, low, patch, halo))
        else:
            tokens, around = encoder.embed(voxels[None, None])
            tokens = tokens[0].reshape(*around, -1)[inner(where, low, patch)]
        code = encoder.position.added(where, grid)
        yield where, tokens if code is None else tokens + code.to(tokens.dtype)


def cut(grid: Triple, chunk: Triple, halo: Triple, patch: Triple,
        shape: Triple) -> Iterator[tuple[tuple[slice, ...], list[int], list[int]]]:
    """Yield (token slices, first voxel, last voxel + 1) of each chunk; the voxels include the halo, where there is
    any."""
    for corner in product(*(range(0, g, c) for g, c in zip(grid, chunk, strict=True))):
        stop = [min(a + c, g) for a, c, g in zip(corner, chunk, grid, strict=True)]
        low = [max(a * p - h, 0) for a, p, h in zip(corner, patch, halo, strict=True)]
        high = [min(b * p + h, n) for b, p, h, n in zip(stop, patch, halo, shape, strict=True)]
        yield tuple(slice(a, b) for a, b in zip(corner, stop, strict=True)), low, high


def inner(where: tuple[slice, ...], low: list[int], patch: Triple) -> tuple[slice, ...]:
    """Return where a chunk's own tokens are in the grid that was embedded with its halo."""
    return tuple(slice(s.start - m // p, s.stop - m // p) for s, m, p in zip(where, low, patch, strict=True))


def surround(voxels: Tensor, where: tuple[slice, ...], low: list[int], patch: Triple, halo: Triple) -> Tensor:
    """Add zeros, the background, where a chunk's patches and their halo reach beyond the volume."""
    pads = []
    for s, a, n, p, h in zip(where, low, voxels.shape, patch, halo, strict=True):
        before = a - (s.start * p - h)
        pads = [before, s.stop * p + h - (a + n), *pads]  # the last axis comes first
    return F.pad(voxels, pads)


def read_voxels(volume: Any, low: list[int], high: list[int]) -> np.ndarray:
    """Read a box of voxels as float32. Raises InputError when any is NaN or infinite."""
    voxels = np.asarray(volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], np.float32)
    if not np.isfinite(voxels).all():
        raise InputError("the volume has NaN or infinite voxels", where=f"voxels {low} to {high}",
                         expected="finite, normalised intensities", do="normalise it with notebook 02 first")
    return voxels


def write_chunk(store: TokenStore, first: int, grid: Triple, where: tuple[slice, ...], tokens: Tensor) -> None:
    """Write tokens (cz, cy, cx, D) of a chunk at their rows: z, y, x with x running fastest, after `first` rows."""
    zs, ys, xs = where
    if (ys.stop - ys.start, xs.stop - xs.start) == grid[1:]:  # whole planes are one run of rows
        store.write(first + zs.start * prod(grid[1:]), tokens.flatten(0, 2))
        return
    for i, z in enumerate(range(zs.start, zs.stop)):
        for j, y in enumerate(range(ys.start, ys.stop)):
            store.write(first + (z * grid[1] + y) * grid[2] + xs.start, tokens[i, j])
