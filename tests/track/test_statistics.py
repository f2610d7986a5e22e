"""Motion statistics on tracks whose motion is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from cellfm_nb.seeds import rng
from cellfm_nb.track import (
    bleaching,
    diffusion,
    directed_runs,
    dwell,
    link_objects,
    mean_squared_displacement,
    model_steps,
    motion_table,
    step_lengths,
    track_statistics,
)

from .conftest import POSITION, SPACING


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
    fit = diffusion(paths("brownian"), 2.0)
    assert fit["diffusion"] == pytest.approx(0.02, rel=0.1) and fit["alpha"] == pytest.approx(1, abs=0.05)


def test_localisation_error_is_told_from_slow_motion() -> None:
    """Positions known to 0.15 um: alpha stays 1 within its error; a fit that ignores it reads 0.9 and less."""
    tracks = paths("brownian")
    tracks[POSITION] += rng(3, "test", "localisation").normal(0, 0.15, (len(tracks), 3))
    fit, msd = diffusion(tracks, 2.0), mean_squared_displacement(tracks, 2.0, 8)
    assert abs(fit["alpha"] - 1) < 3 * fit["alpha_error"] < 0.3
    assert abs(fit["diffusion"] - 0.02) < 3 * fit["diffusion_error"]
    assert fit["localisation"] == pytest.approx(0.15, abs=max(3 * fit["localisation_error"], 0.03))
    assert np.polyfit(np.log(msd["lag_s"]), np.log(msd["msd_um2"]), 1)[0] < 0.9


def test_directed_runs_are_those_of_the_scene(scene: tuple) -> None:
    """A quarter of the puncta run at any time, 0.15 um/s for 8 s: linked, or with every link right."""
    objects = scene[1]
    linking = link_objects(objects, SPACING, 2.0)
    true = objects.assign(track_id=objects["true_id"])
    for tracks in (linking.tracks, true):
        runs = directed_runs(tracks, linking.scales, 2.0)
        steps = (len(tracks) - tracks["track_id"].nunique()) * 2.0
        assert 0.12 < runs["duration_s"].sum() / steps < 0.4
        assert runs["speed_um_s"].mean() == pytest.approx(np.hypot(0.15, np.sqrt(6 * 0.005 / 2)), rel=0.3)
    still = paths("brownian", n=60)
    quiet = directed_runs(still, linking.scales.with_(step_um2=np.full(3, 0.08)), 2.0)
    assert quiet["duration_s"].sum() < 0.1 * 60 * 29 * 2.0            # control: Brownian tracks run little


def test_dwell_allows_for_the_end_of_the_movie() -> None:
    generator = rng(4, "test", "dwell")
    start, life = generator.integers(0, 90, 400), generator.geometric(0.05, 400)          # mean 20 frames
    rows = [(k, t) for k in range(400) for t in range(start[k], min(start[k] + life[k], 100))]
    tracks = pd.DataFrame(rows, columns=["track_id", "frame"])
    mean, error = dwell(tracks, 2.0)
    assert abs(mean - 40) < 3 * error < 10
    assert 2.0 * tracks.groupby("track_id").size().mean() < 36                           # control: the plain mean
    assert dwell(tracks[tracks["frame"] > 98], 2.0) == (np.inf, np.inf)


def test_bleaching_is_the_common_fall_of_light() -> None:
    tracks = paths("brownian", n=50)
    generator = rng(5, "test", "bleach")
    level = np.exp(generator.normal(0, 0.5, 50))[tracks["track_id"]]
    tracks["mass"] = level * np.exp(-tracks["frame"] * 2.0 / 80 + generator.normal(0, 0.1, len(tracks)))
    time, error = bleaching(tracks, 2.0)
    assert abs(time - 80) < 3 * error < 15


def test_the_motion_table_is_whole(scene: tuple) -> None:
    linking = link_objects(scene[1], SPACING, 2.0)
    got = motion_table(linking.tracks, linking.scales, 2.0)
    assert len(got) == 9 and np.isfinite(got["value"]).all() and got["quantity"].is_unique


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
    assert np.isnan(diffusion(single, 2.0)["alpha"])
    assert track_statistics(single, 2.0)["speed_um_s"].isna().all()


def test_a_flat_movie_diffuses_in_two_dimensions() -> None:
    """z constant: D is that of y and x (control: counted over three axes it is a third too low)."""
    flat = paths("brownian").assign(z_um=1.0)
    assert diffusion(flat, 2.0)["diffusion"] == pytest.approx(0.02, rel=0.1)
    assert diffusion(flat, 2.0, dimensions=3)["diffusion"] < 0.015
    generator = rng(6, "test", "flat")
    apart = 8.0 * np.stack([np.zeros(200), *np.divmod(np.arange(200), 15)], 1)[flat["track_id"]]
    apart = flat[[*POSITION, "frame"]].assign(**{c: flat[c] + apart[:, k] for k, c in enumerate(POSITION)})
    apart = apart[generator.uniform(size=len(apart)) < 0.98]
    linking = link_objects(apart, SPACING, 2.0, identity="none")
    assert linking.scale_table().set_index("quantity")["value"]["diffusion coefficient"] == pytest.approx(0.02, rel=0.1)


def test_time_in_runs_is_a_share_of_the_linked_time(scene: tuple) -> None:
    """Tracks that always run, every third frame unseen: 100% and never more."""
    scales = link_objects(scene[1], SPACING, 2.0).scales.with_(step_um2=np.full(3, 1e-4), velocity_um2=np.full(3, 0.1))
    tracks = paths("directed", n=40).assign(mass=1.0)
    got = motion_table(tracks[tracks["frame"] % 3 > 0], scales, 2.0).set_index("quantity")["value"]
    assert 90 < got["time in directed runs"] <= 100 + 1e-9


def test_motion_of_tracks_linked_by_descriptor(scene: tuple) -> None:
    objects = scene[1].assign(d0=scene[1]["true_id"] % 5, d1=scene[1]["true_id"] % 3)
    linking = link_objects(objects, SPACING, 2.0, identity="descriptor", events=False)
    assert np.isfinite(motion_table(linking.tracks, linking.scales, 2.0)["value"]).all()


def test_steps_found_and_drawn_from_the_model_have_one_law(scene: tuple) -> None:
    linking = link_objects(scene[1], SPACING, 2.0)
    found = step_lengths(linking.tracks)
    drawn = model_steps(linking.scales, 20_000, seed=1)
    assert ks_2samp(found, drawn).statistic < 0.06
    still = linking.scales.with_(step_um2=4 * linking.scales.step_um2)                  # a model that is wrong is seen
    assert ks_2samp(found, model_steps(still, 20_000, seed=1)).statistic > 0.2
    longer = linking.tracks["gap"] > 0
    assert len(found) == len(linking.tracks) - linking.tracks["track_id"].nunique() - longer.sum()
    assert (step_lengths(linking.tracks, axes=(2,)) <= found + 1e-12).all()
