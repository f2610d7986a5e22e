"""Write tracks as the Cell Tracking Challenge has them: https://celltrackingchallenge.net.

A merge has two parents, which its table has no place for; a track with a gap must be cut in two, the later piece
naming the earlier one as its parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from cellfm_nb.errors import InputError


def write_ctc(folder: Path, tracks: pd.DataFrame, labels: Any, n_frames: int, shape: tuple[int, int, int]) -> None:
    """Write maskTTT.tif (uint16, z y x) and res_track.txt (lines: label, first frame, last frame, parent).

    Parameters: labels, a Movie or array whose frame t holds the objects' labels, or None: each object is then one
    voxel, the nearest free one where two meet; n_frames and shape (z, y, x) voxels. pieces.csv says which of our
    tracks each label is.
    Raises InputError when there are more pieces than uint16 can number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = tracks.sort_values(["track_id", "frame"])
    begins = (table["track_id"].diff() != 0) | (table["gap"] > 0)
    table = table.assign(piece=begins.cumsum())
    if len(table) and table["piece"].max() > np.iinfo(np.uint16).max:
        raise InputError("Too many tracks for this format.", where="track/ctc", got=int(table["piece"].max()),
                         expected="at most 65535 (uint16)", do="Use track/tracks.geff.")
    pieces = table.groupby("piece").agg(track_id=("track_id", "first"), first=("frame", "min"), last=("frame", "max"),
                                        parent_id=("parent_id", "first"), gap=("gap", "first"))
    last_piece = {int(t): int(p) for p, t in pieces["track_id"].items()}
    before = pieces.index.to_series() - 1
    pieces["parent"] = np.where(pieces["gap"] > 0, before, pieces["parent_id"].map(last_piece).fillna(0)).astype(int)
    lines = [f"{row.Index} {row.first} {row.last} {row.parent}" for row in pieces.itertuples()]
    (folder / "res_track.txt").write_text("\n".join(lines) + "\n" if lines else "")
    pieces[["track_id"]].to_csv(folder / "pieces.csv")
    digits = max(3, len(str(n_frames - 1)))
    for t in range(n_frames):
        here = table[table["frame"] == t]
        tifffile.imwrite(folder / f"mask{t:0{digits}d}.tif", _paint(here, labels, t, shape), compression="zlib",
                         photometric="minisblack")


def _paint(here: pd.DataFrame, labels: Any, t: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the piece of each voxel of frame t, uint16 (z, y, x)."""
    if labels is None:
        mask = np.zeros(shape, np.uint16)
        voxel = np.clip(np.rint(here[["z", "y", "x"]].to_numpy(float)).astype(int), 0, np.array(shape) - 1)
        piece, own = here["piece"].to_numpy(), np.zeros(len(here), bool)
        own[np.unique(voxel, axis=0, return_index=True)[1]] = True
        mask[tuple(voxel[own].T)] = piece[own]
        for at, number in zip(voxel[~own], piece[~own], strict=True):   # two in one voxel: the format allows none
            mask[_free(mask, at)] = number
        return mask
    frame = np.asarray(labels.frame(t) if hasattr(labels, "frame") else labels[t])
    number = np.zeros(int(max(frame.max(initial=0), here["label"].max() if len(here) else 0)) + 1, np.uint16)
    number[here["label"].to_numpy(int)] = here["piece"]
    number[0] = 0
    return number[frame]


def _free(mask: np.ndarray, at: np.ndarray) -> tuple[int, ...]:
    """Return the free voxel nearest to `at`, sought in growing cubes around it."""
    for reach in range(1, max(mask.shape) + 1):
        low = np.maximum(at - reach, 0)
        free = low + np.argwhere(mask[tuple(slice(a, b) for a, b in zip(low, at + reach + 1, strict=True))] == 0)
        if len(free):
            return tuple(free[((free - at) ** 2).sum(1).argmin()].tolist())
    raise InputError("More objects than voxels.", where="track/ctc", got=f"shape {mask.shape}",
                     expected="a voxel for each object", do="Give labels, or use track/tracks.geff.")
