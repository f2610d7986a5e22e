"""The movie: same bits in any order, SNR as defined, masks that are where the puncta are, files that read back."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from cellfm_nb.errors import InputError
from cellfm_nb.manifest import locate
from cellfm_nb.movie import Movie
from cellfm_nb.profiles import settings
from cellfm_nb.simulate import (
    Camera,
    Scene,
    SceneConfig,
    camera_from_stack,
    gaussian_psf,
    measured_psf,
    simulate_movie,
    write_simulated,
)

SMALL = SceneConfig(shape=(5, 24, 64, 64), n_puncta=12)
CAMERA = Camera(offset=100, gain=2.0, read_noise=1.5, background=10.0)


@pytest.fixture(scope="module")
def small():
    return simulate_movie(SMALL, camera=CAMERA, seed=4)


def test_frames_are_the_same_in_any_order(small):
    frames, truth = small
    scene = Scene(SMALL, camera=CAMERA, seed=4)
    for t in (3, 0, 4):
        frame, labels = scene.render(t)
        assert frame.dtype == np.uint16 and labels.dtype == np.uint32
        assert np.array_equal(frame, frames[t]) and np.array_equal(labels, truth.labels[t])
    assert not np.array_equal(Scene(SMALL, camera=CAMERA, seed=5).render(0)[0], frames[0])


def test_noise_differs_between_frames_of_equal_light():
    still = SceneConfig(shape=(2, 16, 40, 40), n_puncta=1, diffusion_um2_s=0, directed_share=0, split_rate_s=0,
                        merge_rate_s=0, bleach_s=1e9, blink_probability=0)
    frames, _ = simulate_movie(still, camera=CAMERA)
    noise = frames.astype(float) - frames.mean(0)
    assert np.abs(noise).max() > 5


@pytest.mark.parametrize("snr", [2.0, 4.0, 8.0])
def test_snr_is_as_defined(snr):
    # one punctum at a time, peak read off the picture itself
    config = SceneConfig(shape=(1, 24, 96, 96), n_puncta=25, snr=snr)
    scene = Scene(config, camera=CAMERA, seed=1)
    rows = scene.truth.positions.query("visible")
    peaks = [scene.psf.render(config.shape[1:], [(r.z, r.y, r.x)], [r.mass], r.radius_um, config.spacing_um).max()
             for r in rows.itertuples()]
    assert np.median(peaks) / np.sqrt(10.0 + 1.5**2) == pytest.approx(snr, rel=0.05)
    light = scene.expected(0) - scene.background
    assert light.sum(dtype=float) == pytest.approx(rows["mass"].sum(), rel=1e-3)
    inside = np.array([scene.background[tuple(np.rint([r.z, r.y, r.x]).astype(int))] for r in rows.itertuples()])
    assert np.median(inside) == pytest.approx(10.0, rel=0.15)


def test_masks_are_half_maximum_surfaces_where_the_puncta_are(small):
    _, truth = small
    scene = Scene(SMALL, camera=CAMERA, seed=4)
    for t in range(SMALL.shape[0]):
        rows = truth.positions.query("frame == @t")
        shown = rows[rows["visible"]]
        assert set(np.unique(truth.labels[t])) - {0} == set(shown["track_id"] + 1)  # dark ones are absent
        points = shown[["z_um", "y_um", "x_um"]].to_numpy()
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(len(points))
        for row in shown[apart.min(1) > 1.5].itertuples():
            assert truth.labels[t][tuple(np.rint([row.z, row.y, row.x]).astype(int))] == row.track_id + 1
            own = scene.psf.render(SMALL.shape[1:], [(row.z, row.y, row.x)], [row.mass], row.radius_um,
                                   SMALL.spacing_um)
            assert np.array_equal(truth.labels[t] == row.track_id + 1, own >= own.max() / 2)


def test_crowded_puncta_all_keep_a_voxel():
    crowd = SceneConfig(shape=(1, 14, 30, 30), n_puncta=60, brightness_spread=1.0)
    _, truth = simulate_movie(crowd, camera=CAMERA)
    assert set(np.unique(truth.labels)) - {0} == set(truth.positions.query("visible")["track_id"] + 1)


def test_outside_is_darker_than_the_cell(small):
    frames, _ = small
    assert frames[:, :2].mean() < frames[:, 10:14, 28:36, 28:36].mean() - 3


def test_files_read_back(tmp_path):
    write_simulated(tmp_path / "movie.ome.zarr", tmp_path / "truth", SMALL, camera=CAMERA, seed=4)
    movie, masks = Movie.open(tmp_path / "movie.ome.zarr"), Movie.open(tmp_path / "truth" / "labels.zarr")
    frames, truth = simulate_movie(SMALL, camera=CAMERA, seed=4)
    assert movie.spacing_um == SMALL.spacing_um and movie.dt_s == SMALL.dt_s and movie.shape == (5, 1, 24, 64, 64)
    assert "simulated" in " ".join([movie.name, *movie.notes])
    assert np.array_equal(np.asarray(movie.data[:, 0]), frames) and np.array_equal(masks.frame(2), truth.labels[2])
    for name in ("positions", "tracks", "events"):
        table, exact = pd.read_csv(tmp_path / "truth" / f"{name}.csv"), getattr(truth, name)
        assert list(table) == list(exact) and len(table) == len(exact)
    table = pd.read_csv(tmp_path / "truth" / "positions.csv")
    assert np.abs(table[["z", "y", "x"]] - truth.positions[["z", "y", "x"]]).to_numpy().max() < 1e-3
    assert table["visible"].dtype == bool
    assert json.loads((tmp_path / "truth" / "scene.json").read_text())["made_with"]["simulated"] is True


def test_optics_and_camera_are_taken_from_files(tmp_path):
    psf = gaussian_psf((0.3, 0.15, 0.15), (0.1, 0.1, 0.1))
    bead = np.pad(psf.kernel, 6) * 1e6 + 100
    tifffile.imwrite(tmp_path / "bead.tif", np.rint(bead).astype(np.uint16))
    dark = np.random.default_rng(0).poisson(np.linspace(1, 30, 64)[None, :, None], (6, 64, 64))
    tifffile.imwrite(tmp_path / "raw.tif", (110 + 2 * dark).astype(np.uint16))
    write_simulated(tmp_path / "m.ome.zarr", tmp_path / "truth", SMALL, tmp_path / "bead.tif", tmp_path / "raw.tif")
    made = json.loads((tmp_path / "truth" / "scene.json").read_text())["made_with"]
    assert np.allclose(made["psf_sigma_um"], (0.3, 0.15, 0.15), rtol=0.03)
    assert made["camera"]["offset"] == pytest.approx(113, abs=3) and "bead.tif" in made["psf"]


def test_the_real_bead_and_stack_give_plausible_optics():
    files = locate("llsm_pycudadecon")
    if files is None:
        pytest.skip("llsm_pycudadecon is not on this machine: cellfm data fetch llsm_pycudadecon")
    psf = measured_psf(tifffile.imread(files["psf.tif"]), (0.1, 0.101, 0.101))
    assert np.allclose(psf.sigma_um, (0.29, 0.13, 0.13), rtol=0.1)
    camera = camera_from_stack(tifffile.imread(files["im_raw.tif"]))
    assert 95 < camera.offset < 100 and 1.7 < camera.gain < 2.8 and 0.5 <= camera.read_noise < 2.5
    assert 3 < camera.background < 15


def test_a_scene_is_made_from_a_profile():
    config = SceneConfig.from_sizes(settings("tiny", "movie", spacing_um="0.3, 0.12, 0.12", snr=2.0))
    assert config.shape == (20, 40, 144, 144) and config.spacing_um == (0.3, 0.12, 0.12) and config.snr == 2.0


@pytest.mark.parametrize("bad", ["absent.tif", "text.tif", "flat.tif"])
def test_bad_files_are_refused_before_anything_is_written(tmp_path, bad):
    (tmp_path / "text.tif").write_text("not an image")
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((20, 20), np.uint16))
    with pytest.raises(InputError):
        write_simulated(tmp_path / "m.ome.zarr", tmp_path / "truth", SMALL, psf=tmp_path / bad)
    assert not (tmp_path / "m.ome.zarr").exists() and not (tmp_path / "truth").exists()


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="smaller than the PSF"):
        Scene(SceneConfig(shape=(1, 16, 40, 40)), psf=gaussian_psf((1.2, 0.2, 0.2)))
    with pytest.raises(InputError, match="No such frame"):
        Scene(SMALL).render(5)
