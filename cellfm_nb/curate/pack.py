"""Pack the crops an encoder learns from: the movie's accepted frames, and a real stack beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellfm_nb.curate.crops import choose_crops
from cellfm_nb.curate.noise import fit_movie_noise
from cellfm_nb.curate.normalize import LEVEL, separated_frame
from cellfm_nb.curate.quality import accepted
from cellfm_nb.curate.shards import Sample, write_shard
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.progress import Progress
from cellfm_nb.provenance import outside_digest
from cellfm_nb.seeds import rng


def write_crops(tar_path: Path, index_path: Path, movie_path: Path, quality_path: Path, stack_path: Path | None = None,
                *, crop_shape: Sequence[int], n_crops: int, method: str = "content", stack_share: float = 0.25,
                seed: int = 0, c: int = 0, name: str = "crops-000000.tar") -> None:
    """Write crops into a shard and its index (a workspace writer).

    Parameters: tar_path and index_path to write; movie_path; quality_path, the verdicts (CSV); stack_path, a volume
    of its own beside the movie, brought to the movie's spacing; crop_shape (z,y,x); n_crops in all, stack_share of
    them from the stack; method as in `choose_crops`; seed; c, channel; name, what the index calls the shard.
    Samples: see `crops_of`.
    """
    movie = Movie.open(movie_path)
    frames = accepted(pd.read_csv(quality_path, keep_default_na=False))
    stack = Movie.open(stack_path) if stack_path is not None else None
    n_stack = round(n_crops * stack_share) if stack is not None else 0
    about: dict[str, Any] = {"crop_shape": list(map(int, crop_shape)), "method": method, "seed": seed,
                             "spacing_um": list(movie.spacing_um), "sources": []}
    how = {"crop_shape": crop_shape, "method": method, "seed": seed, "target_um": movie.spacing_um, "about": about,
           "bar": Progress(n_crops, "crops")}

    def samples() -> Iterator[Sample]:
        yield from crops_of(movie, frames, n_crops - n_stack, "movie", outside_digest(Path(movie_path)), c=c, **how)
        if stack is not None:
            yield from crops_of(stack, range(stack.n_frames), n_stack, "stack", outside_digest(Path(stack_path)), **how)

    write_shard(tar_path, samples(), name, about).save(index_path)
    how["bar"].close()


def crops_of(movie: Movie, frames: Sequence[int], n: int, label: str, digest: str, *, crop_shape: Sequence[int],
             method: str = "content", seed: int = 0, c: int = 0, target_um: Sequence[float] | None = None,
             draw: str | None = None, about: dict[str, Any] | None = None, bar: Progress | None = None
             ) -> Iterator[Sample]:
    """Yield n samples spread evenly over the frames of a channel of a movie.

    Parameters: movie; frames to take; n; label, the first word of the keys; digest of the movie's content;
    crop_shape (z,y,x), method, seed, c; target_um (z,y,x), resample to it (None: the movie's own spacing); draw, what
    the random draws are keyed by (None: the label); about, filled with where the samples came from; bar, stepped.
    Samples: float16 voxels (z,y,x) as `encoder_frame` gives them, and {"movie", "movie_sha256", "frame", "channel",
    "origin_px", "spacing_um" (z,y,x), "signal", "chosen_by"}: enough to find every voxel again.
    """
    target_um = movie.spacing_um if target_um is None else target_um
    noise = fit_movie_noise(movie, c) if np.allclose(movie.spacing_um, target_um, rtol=0.01) else None
    chosen = sorted({int(i) for i in np.linspace(0, len(frames) - 1, min(n, len(frames))).round()})
    if about is not None:
        about["sources"].append({"label": label, "name": movie.name, "sha256": digest, "channel": c,
                                 "frames": [int(frames[i]) for i in chosen],
                                 "noise": asdict(noise) if noise else "fitted on each frame after resampling"})
    for k, i in enumerate(chosen):
        t = int(frames[i])
        here = n * (k + 1) // len(chosen) - n * k // len(chosen)
        volume, background, spacing = separated_frame(movie, t, noise, c, target_um)
        boxes = choose_crops(volume, crop_shape, here, method, rng(seed, "curate", "crops", draw or label, t))
        for j, box in enumerate(boxes.itertuples()):
            where = slice(box.z0, box.z1), slice(box.y0, box.y1), slice(box.x0, box.x1)
            crop = (volume[where] + LEVEL * background[where]).astype(np.float16)
            yield f"{label}-c{c}-{t:05d}-{j:04d}", crop, {
                "movie": movie.name, "movie_sha256": digest, "frame": t, "channel": c,
                "origin_px": [int(box.z0), int(box.y0), int(box.x0)], "spacing_um": list(spacing),
                "signal": round(float(box.signal), 6), "chosen_by": box.chosen_by}
            if bar is not None:
                bar.step()


def fitting_crop(shape: Sequence[int], crop_shape: Sequence[int], smallest: Sequence[int],
                 multiple: Sequence[int] = (4, 8, 8)) -> tuple[int, int, int]:
    """Return the crop shape cut to fit a volume, in multiples of a patch, and no smaller than one training view.

    Parameters: shape of the volume, crop_shape wanted, smallest allowed, multiple, all (z,y,x) voxels.
    Raises InputError when the volume is smaller than the smallest crop.
    """
    fitting = tuple(int(min(c, n // m * m)) for c, n, m in zip(crop_shape, shape, multiple, strict=True))
    if any(f < s for f, s in zip(fitting, smallest, strict=True)):
        raise InputError("The movie is smaller than a crop.", got=f"{tuple(map(int, shape))} voxels (z, y, x)",
                         expected=f"at least {tuple(map(int, smallest))}", do="Use a larger field of view, or train "
                         "with smaller views (PretrainSettings.global_shape).")
    return fitting
