"""Scenes the tests link: made on the spot, small, with exact truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.seeds import rng
from cellfm_nb.simulate import SceneConfig, Truth, simulate_tracks

SPACING = (0.25, 0.1, 0.1)
POSITION = ["z_um", "y_um", "x_um"]


def detections(truth: Truth, seed: int, noise: float = 0.085) -> pd.DataFrame:
    """Return what a perfect detector would see of a scene: visible positions, mass with noise, in random order."""
    seen = truth.positions[truth.positions["visible"]].copy()
    sd = noise * seen.loc[seen["frame"] == 0, "mass"].median()
    seen["mass"] = np.maximum(seen["mass"] + sd * rng(seed, "test", "mass").standard_normal(len(seen)), 0.3 * sd)
    seen["mass_sd"], seen["true_id"] = sd, seen["track_id"]
    seen = seen.drop(columns=["track_id", "visible", "radius_um"]).sample(frac=1, random_state=seed)
    return seen.assign(label=np.arange(1, len(seen) + 1)).reset_index(drop=True)


@pytest.fixture(scope="session")
def scene() -> tuple[Truth, pd.DataFrame]:
    """The default movie's scene, and its detections."""
    truth = simulate_tracks(SceneConfig(), 101)
    return truth, detections(truth, 101)


@pytest.fixture(scope="session")
def dense_scene() -> tuple[Truth, pd.DataFrame]:
    """A crowded scene: the 95th percentile of the steps nearly reaches the nearest neighbour."""
    truth = simulate_tracks(SceneConfig(shape=(24, 40, 144, 144), density_per_um3=0.14, diffusion_um2_s=0.0125,
                                        speed_um_s=0.35, directed_share=0.33), 102)
    return truth, detections(truth, 102)


def table(paths: dict[int, dict[int, tuple]], mass: dict[int, float] | None = None) -> pd.DataFrame:
    """Write paths {track: {frame: (z, y, x) um}} as an object table that remembers its tracks in `true_id`."""
    rows = [(k, t, *place, (mass or {}).get(k, 100.0)) for k, path in paths.items() for t, place in path.items()]
    return pd.DataFrame(rows, columns=["true_id", "frame", *POSITION, "mass"])


def link_set(tracks: pd.DataFrame, by: str = "track_id") -> set[tuple]:
    """Return the links of a table as pairs of (frame, z, y, x)."""
    tracks = tracks.sort_values([by, "frame"])
    rows = [tuple(r) for r in tracks[["frame", *POSITION]].to_numpy().round(9)]
    same = tracks[by].to_numpy()[1:] == tracks[by].to_numpy()[:-1]
    return {(rows[k], rows[k + 1]) for k in np.flatnonzero(same)}
