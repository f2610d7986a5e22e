"""Figures of a paper: mean squared displacement against theory, panels for what is there and what is not."""

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.view import paper


def walks(n, frames, seed=0, diffusion=0.05, dt=2.0, drift=0.0):
    steps = np.random.default_rng(seed).normal(0, np.sqrt(2 * diffusion * dt), (n, frames, 3)) + drift
    at = steps.cumsum(1)
    rows = [(k, f, *at[k, f]) for k in range(n) for f in range(frames)]
    return pd.DataFrame(rows, columns=["track_id", "frame", "z_um", "y_um", "x_um"])


def test_brownian_motion_has_the_displacement_of_theory():
    table = paper.displacement(walks(300, 40), dt_s=2.0)
    expected = 6 * 0.05 * table["lag_s"]  # 2 dimensions x D x t, three dimensions
    assert np.all(np.abs(table["msd_um2"] - expected) < 5 * table["sem_um2"])
    assert table["pairs"].iloc[0] == 300 * 39 and table["lag_s"].iloc[0] == 2.0


def test_the_standard_error_is_that_of_repeated_experiments():
    runs = [paper.displacement(walks(40, 20, seed), dt_s=2.0, max_lag=3) for seed in range(60)]
    spread = np.std([r["msd_um2"] for r in runs], axis=0)
    said = np.mean([r["sem_um2"] for r in runs], axis=0)
    assert np.allclose(said, spread, rtol=0.35)


def test_directed_motion_has_slope_two_and_gaps_do_no_harm():
    table = walks(3, 30, diffusion=0, drift=0.1)
    whole = paper.displacement(table, dt_s=1.0)
    assert np.allclose(whole["msd_um2"], 3 * (0.1 * whole["lag_s"]) ** 2)
    holes = table[table["frame"] % 3 != 1]
    assert np.allclose(paper.displacement(holes, 1.0, max_lag=5)["msd_um2"], whole["msd_um2"][:5])
    # negative control: shifting rows instead of frames takes a gap for one step
    wrong = (holes.groupby("track_id")["x_um"].diff() ** 2).mean() * 3
    assert not np.isclose(wrong, whole["msd_um2"][0], rtol=0.2)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_tracks_too_short_to_move(frames):
    table = paper.displacement(walks(2, frames), dt_s=2.0)
    assert len(table) == (frames == 2)
    assert paper.msd({"ours": table})._repr_png_()


def test_the_overview_draws_what_is_there_and_says_what_is_not():
    volume = np.random.default_rng(0).poisson(50, (4, 16, 20))
    labels = (volume > 60).astype(np.uint32)
    tracks = walks(3, 5)
    whole = paper.overview(volume, (0.25, 0.1, 0.1), np.zeros((2, 4, 5, 3)), (0.5, 0.4, 0.4), labels, tracks)
    bare = paper.overview(volume, (0.25, 0.1, 0.1))
    assert whole._repr_png_() and bare._repr_png_()
    said = [t.get_text() for ax in bare.axes for t in ax.texts]
    assert said.count("not in this run") == 3
    assert not any("not in" in t.get_text() for ax in whole.axes for t in ax.texts)


def test_losses_draw_every_number_that_moves():
    log = pd.DataFrame({"step": range(9), "dino": np.arange(9.0), "constant": 1.0, "nan": np.nan, "word": "x"})
    assert [ax.get_title(loc="left") for ax in paper.losses(log).axes] == ["dino (nats)"]
    assert paper.losses(log[:0])._repr_png_() and paper.losses(pd.DataFrame())._repr_png_()


def test_the_overview_shows_the_brightest_token_of_those_above_each_other():
    rgb = np.zeros((3, 2, 2, 3))
    rgb[0, 0, 0], rgb[2, 0, 0], rgb[1, 1, 1] = (0.2, 0, 0), (0, 0.9, 0.1), (0, 0, 1)
    shown = paper.overview(np.ones((3, 4, 4)), (0.25, 0.1, 0.1), rgb, (0.25, 0.2, 0.2)).axes[1].images[0].get_array()
    assert np.allclose(shown, [[(0, 0.9, 0.1), (0, 0, 0)], [(0, 0, 0), (0, 0, 1)]])
