"""Motion statistics on tracks whose motion is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.seeds import rng
from cellfm_nb.track import diffusion, mean_squared_displacement, track_statistics

from .conftest import POSITION


def paths(kind: str, n: int = 200, frames: int = 30, dt: float = 2.0) -> pd.DataFrame:
    generator = rng(0, "test", "statistics", kind)
    if kind == "brownian":
        x = np.cumsum(generator.normal(0, np.sqrt(2 * 0.02 * dt), (frames, n, 3)), axis=0)
    else:
        way = generator.normal(size=(n, 3))
        x = np.arange(frames)[:, None, None] * dt * 0.3 * way / np.linalg.norm(way, axis=1, keepdims=True)
    table = pd.DataFrame(x.reshape(-1, 3), columns=POSITION)
    return table.assign(frame=np.repeat(np.arange(frames), n), track_id=np.tile(np.arange(n), frames))


def test_brownian_diffusion_is_recovered() -> None:
    fit = diffusion(mean_squared_displacement(paths("brownian"), 2.0, 8))
    assert fit["diffusion"] == pytest.approx(0.02, rel=0.05) and fit["alpha"] == pytest.approx(1, abs=0.05)


def test_directed_motion_has_alpha_two_and_its_speed() -> None:
    tracks = paths("directed")
    table = mean_squared_displacement(tracks, 2.0, 6)
    assert np.allclose(table["msd_um2"], (0.3 * table["lag_s"]) ** 2)
    each = track_statistics(tracks, 2.0)
    assert np.allclose(each["speed_um_s"], 0.3) and np.allclose(each["straightness"], 1)


def test_skipped_frames_do_not_bias() -> None:
    tracks = paths("directed")
    holes = tracks[rng(1, "test", "holes").uniform(size=len(tracks)) > 0.3]
    assert np.allclose(mean_squared_displacement(holes, 2.0, 4)["msd_um2"], (0.6 * np.arange(1, 5)) ** 2)


def test_tracks_of_one_row_give_no_motion() -> None:
    single = paths("brownian", n=3, frames=1)
    assert len(mean_squared_displacement(single, 2.0)) == 0
    assert np.isnan(diffusion(mean_squared_displacement(single, 2.0))["alpha"])
    assert track_statistics(single, 2.0)["speed_um_s"].isna().all()
