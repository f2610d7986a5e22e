"""What is done to every movie of a data set, and whether it fits a movie."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from cellfm_nb.curate.crops import METHODS
from cellfm_nb.curate.resample import resampled_shape
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.movie.spacing import by

INVENTED = (2, 4)  # times the voxels along an axis: from here worth a note, from here refused
FEW_VOXELS = 2**25  # of a movie whose every frame goes into its digest: read in half a second


@dataclass(frozen=True)
class Recipe:
    """What is done to every movie of a data set.

    crop_shape (z,y,x) voxels; n_crops per movie, over its channels; method as in `choose_crops`; seed; channels (None:
    all); spacing_um (z,y,x), dt_s and axes, over what the files say (None: what they say); target_um (z,y,x), resample
    to it (None: each movie keeps its own spacing); max_bytes of a shard; raw_ok, take raw stage scans as they are.
    Raises InputError when no crop could be made so.
    """

    crop_shape: tuple[int, int, int] = (24, 64, 64)
    n_crops: int = 192
    method: str = "content"
    seed: int = 0
    channels: tuple[int, ...] | None = None
    spacing_um: tuple[float, float, float] | None = None
    dt_s: float | None = None
    axes: str | None = None
    target_um: tuple[float, float, float] | None = None
    max_bytes: int = 1_000_000_000
    raw_ok: bool = False

    def __post_init__(self) -> None:
        shape = tuple(self.crop_shape)
        if self.n_crops < 1 or len(shape) != 3 or min(shape) < 1 or self.method not in METHODS:
            raise InputError("No crops can be made so.", got=f"{self.n_crops} crops of {by(shape)} voxels, by "
                             f"{self.method!r}", expected=f"1 crop or more of (z,y,x) voxels, by {', '.join(METHODS)}",
                             do="Correct --crops (n_crops), --crop-shape or the method.")


def check_movie(movie: Movie, recipe: Recipe) -> list[str]:
    """Return notes on what a recipe does to a movie; raise InputError where it would make nonsense of it."""
    if movie.raw_scan and not recipe.raw_ok:
        raise InputError("This movie is a raw stage scan.", where=movie.source, got="planes along the stage",
                         expected="planes that stand above each other", do="Deskew it first (cellfm deskew), or take "
                         "it as it is: --raw-ok (raw_ok=True in the recipe).")
    spacing, target = movie.spacing_um, recipe.target_um or movie.spacing_um
    finer = max(s / t for s, t in zip(spacing, target, strict=True))
    if finer > INVENTED[1]:
        raise InputError("The target is far finer than the movie.", where=movie.source,
                         got=f"{by(target)} um from {by(spacing)} um, {finer:.3g} times the voxels along an axis",
                         expected=f"at most {INVENTED[1]} times", do="Is each of them in micrometre? Choose a coarser "
                         "--target, or correct the spacing with --spacing.")
    shape, _ = resampled_shape(movie.shape[2:], spacing, target)
    if any(n < c for n, c in zip(shape, recipe.crop_shape, strict=True)):
        at = f" at {by(target)} um" if recipe.target_um else ""
        raise InputError("The movie is smaller than a crop.", where=movie.source, got=f"{by(shape)} voxels (z,y,x){at}",
                         expected=f"at least {by(recipe.crop_shape)}, the crop", do="Choose smaller crops "
                         "(--crop-shape Z,Y,X), or leave this movie out.")
    return [f"resampled to {finer:.2g} times the voxels along an axis: the finest of them hold nothing that was "
            "measured"] if finer > INVENTED[0] else []


def voxel_digest(movie: Movie) -> str:
    """Return a digest of the voxels as numbers, the same in every file format, whatever spacing and names it states.

    Of all frames of a small movie; of a large one the first, the middle and the last. Integers beyond 2^24 are rounded.
    """
    n = movie.n_frames
    state = hashlib.sha256(repr(tuple(map(int, movie.shape))).encode())
    for t in range(n) if math.prod(movie.shape) <= FEW_VOXELS else sorted({0, n // 2, n - 1}):
        for c in range(movie.n_channels):
            try:
                state.update(np.ascontiguousarray(movie.frame(t, c), "<f4"))
            except InputError:  # a damaged frame is told by the quality table
                state.update(b"unreadable")
    return state.hexdigest()
