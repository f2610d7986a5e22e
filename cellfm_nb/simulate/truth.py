"""The exact truth of a simulated movie: its tables and masks, and the folder they are written to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cellfm_nb.movie import write_frames
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.scan import Scan


@dataclass
class Truth:
    """Hold the exact tables of a scene (columns as written to truth/*.csv), and the label masks when made in memory.

    positions: one row a punctum and frame, dark ones too (visible False); z, y, x in voxels; mass is the light it
    gives in that frame, bleaching included, blinking not: relative from `simulate_tracks`, photoelectrons from
    `simulate_movie`. tracks: start, end, parent_id (-1 none; a merge's child has the brighter parent): one that starts
    late without a parent appeared, one that ends early and is no event's parent vanished. events: split and merge.
    labels: (t, z, y, x) uint32, track_id + 1, or None. made_with: PSF, camera, background, SNR, seed.
    """

    config: SceneConfig
    positions: pd.DataFrame
    tracks: pd.DataFrame
    events: pd.DataFrame
    labels: np.ndarray | None = None
    made_with: dict[str, object] = field(default_factory=dict)


def write_truth(folder: Path, truth: Truth, labels: Iterable[np.ndarray] | None = None) -> None:
    """Write positions.csv, tracks.csv, events.csv, scene.json and labels.zarr into a folder.

    Parameters: folder, made when absent; truth; labels, frames (z, y, x) uint32, default truth.labels.
    labels.zarr is OME-Zarr (t, 1, z, y, x) uint32: `Movie.open(folder / "labels.zarr")` reads it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("positions", "tracks", "events"):
        getattr(truth, name).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    scene = {"made_with": truth.made_with, "scene": dataclasses.asdict(truth.config)}
    (folder / "scene.json").write_text(json.dumps(scene, indent=1) + "\n")
    frames = truth.labels if labels is None else labels
    if frames is not None:
        config, scan = truth.config, Scan.of(truth.config)
        shape, spacing = (scan.raw_shape, scan.raw_spacing_um) if scan else (config.shape[1:], config.spacing_um)
        write_frames(folder / "labels.zarr", frames, (config.shape[0], *shape), np.uint32, spacing, config.dt_s,
                     name="truth", labels=True)
