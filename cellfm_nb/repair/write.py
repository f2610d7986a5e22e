"""The repair's artifacts: the encoder that later notebooks use, and the table of what was found and done."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cellfm_nb.encoder import load_encoder, save_encoder
from cellfm_nb.movie import Movie
from cellfm_nb.repair.engine import repair
from cellfm_nb.repair.train import RELATIVE

TOKENS = 8192  # of a frame that are looked at: all states of a ViT-S are then about 160 MB
Prepare = Callable[..., tuple[np.ndarray, tuple[float, float, float]]]


def write_repair(weights_path: str | Path, config_path: str | Path, table_path: str | Path,
                 pretrained_path: str | Path, movie_path: str | Path, prepare: Prepare, n_frames: int = 2,
                 train: bool = False, device: str = "cpu", **options: Any) -> None:
    """Look for defects on frames of a movie, repair the blocks that alarm, write encoder, config.json and table (CSV).

    Parameters: weights_path, config_path, table_path to write; pretrained_path, the encoder.safetensors of an
    encoder folder; movie_path; prepare(movie, t, target_um=..., **options) -> (volume, spacing_um), normalised and at
    the spacing asked for; n_frames, looked at, spread over the movie, of larger
    ones the middle of at most 8192 tokens (it says so); train, follow the clip by training; device.
    A healthy encoder is written with the same weights, to the bit.
    """
    folder = Path(pretrained_path).parent
    encoder, movie = load_encoder(folder, device), Movie.open(movie_path)
    frames = sorted({round(t) for t in np.linspace(0, movie.n_frames - 1, n_frames)})
    volumes = [prepare(movie, t, target_um=encoder.config.spacing_um, **options)[0] for t in frames]
    whole = volumes[0].shape
    volumes = [middle(volume, encoder.config.patch) for volume in volumes]
    if volumes[0].shape != whole:
        print(f"Frames are large: the middle {volumes[0].shape} of {whole} voxels is looked at.")
    mended, table = repair(encoder, volumes, train=RELATIVE if train else None)
    trained_on = json.loads((folder / "config.json").read_text()).get("trained_on", {})
    done = {int(b): d for b, d in zip(table["block"], table["repaired"], strict=True) if d != "nothing"}
    save_encoder(mended, weights_path, config_path, trained_on | {"repaired": done})
    table.to_csv(table_path, index=False)


def middle(volume: np.ndarray, patch: tuple[int, int, int], tokens: int = TOKENS) -> np.ndarray:
    """Return the middle of a volume (z, y, x) that has at most so many tokens, the longest axes cut first."""
    grid = [-(-n // p) for n, p in zip(volume.shape, patch, strict=True)]
    while math.prod(grid) > tokens:
        grid[int(np.argmax(grid))] -= 1
    size = [min(n, g * p) for n, g, p in zip(volume.shape, grid, patch, strict=True)]
    return volume[tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(volume.shape, size, strict=True))]
