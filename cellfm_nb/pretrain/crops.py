"""The crops a run learns from: held in memory, or fetched by number from shards too large to hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellfm_nb.errors import InputError

AGAIN = "make them with notebook 02 or `cellfm curate`"


class Crops:
    """Give crops as (n, k, z, y, x) tensors: k pictures of each place, one unless said otherwise.

    Parameters: source, an array or tensor (n, z, y, x) or (n, k, z, y, x), the k pictures being neighbouring frames
    (`neighbours`) or independent exposures; or anything with `len` and `source[i]` that is a crop (z, y, x) or
    (k, z, y, x), or a (crop, metadata) pair, such as a ShardLoader: then only what a step needs is read. Crops are
    normalised (background noise of standard deviation 1), float16 or float32, all of one shape.
    Raises InputError where they cannot be trained on (of a source that is fetched: when a bad crop is met).
    """

    def __init__(self, source: Any) -> None:
        self.held = isinstance(source, np.ndarray | Tensor)
        if self.held:
            source = torch.from_numpy(np.ascontiguousarray(source)) if isinstance(source, np.ndarray) else source.cpu()
            source = source.unsqueeze(1) if source.dim() == 4 else source
            if source.dim() != 5 or not source.shape[1]:
                raise _unfit(source)
        self.source = source
        if not len(source):
            raise InputError("there are no crops to learn from", where="pretrain", got="0 crops", do=AGAIN)
        self.shape = tuple((self.source if self.held else self._fetch(0)).shape[-4:])
        if self.held:
            _check(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def take(self, picks: Sequence[int]) -> Tensor:
        """Return some crops, (n, k, z, y, x)."""
        if self.held:
            return self.source[list(picks)]
        return torch.stack([self._fetch(i) for i in picks])

    def digest(self) -> str:
        """Return what tells these crops from others: their content, or the source's own `identity`."""
        if self.held:
            return hashlib.sha256(self.source.numpy().tobytes()).hexdigest()
        return str(getattr(self.source, "identity", len(self)))

    def _fetch(self, i: int) -> Tensor:
        found = self.source[i]
        crop = torch.from_numpy(np.array(found[0] if isinstance(found, tuple) else found))
        crop = crop.unsqueeze(0) if crop.dim() == 3 else crop
        if crop.dim() != 4 or tuple(crop.shape) != getattr(self, "shape", tuple(crop.shape)):
            raise _unfit(crop)
        return _check(crop)


def neighbours(movie: Any, places: Sequence[Sequence[int]], shape: tuple[int, int, int], k: int = 2) -> np.ndarray:
    """Cut k successive frames of a movie at each place: pictures that show the same objects a moment later.

    Parameters: movie (t, z, y, x), normalised, an array or anything that is cut like one; places (n, 4), frame and
    first corner (t, z, y, x) of each, "frame" and "origin_px" of a packed crop; shape (z, y, x) voxels; k, frames.
    Returns: (n, k, z, y, x), for `Crops` and `PretrainSettings(pairs="next")`.
    Raises: InputError when a place reaches beyond the movie.
    """
    for place in places:
        if any(not 0 <= p <= m - s for p, s, m in zip(place, (k, *shape), movie.shape, strict=True)):
            raise InputError("a place reaches beyond the movie", where="pretrain.neighbours", got=tuple(place),
                             expected=f"a corner (t, z, y, x) with {k} frames of {shape} voxels in {movie.shape}")
    return np.stack([np.asarray(movie[tuple(slice(p, p + s) for p, s in zip(place, (k, *shape), strict=True))])
                     for place in places])


def _check(crops: Tensor) -> Tensor:
    if not crops.is_floating_point():
        raise _unfit(crops)
    if not torch.isfinite(crops).all():
        raise InputError("the crops hold NaN or infinite voxels", where="pretrain", do=AGAIN)
    return crops


def _unfit(crops: Tensor) -> InputError:
    return InputError("pretraining needs normalised crops", where="pretrain", got=f"{crops.dtype} {tuple(crops.shape)}",
                      expected="floating point (n, z, y, x) or (n, k, z, y, x), n >= 1, all of one shape", do=AGAIN)
