"""Raw, skewed stacks: deskewed by an independent hand, every bead is where the truth says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from cellfm_nb.movie import Movie
from cellfm_nb.simulate import Camera, Scan, Scene, SceneConfig, gaussian_psf, simulate_movie, write_simulated

FIELD = {"shape": (1, 40, 110, 110), "spacing_um": (0.2, 0.1, 0.1), "n_puncta": 10, "envelope": "box", "snr": 50.0,
         "background_photons": 0.0, "radius_um": (0.0, 0.0)}
PSF = gaussian_psf((0.25, 0.12, 0.12))


def unskewed(raw, angle_deg, step_um, pixel_um, shape, direction=1):
    """Deskew by scipy, from the microscope's numbers alone: the oracle."""
    shift = direction * np.cos(np.radians(angle_deg)) * step_um / pixel_um
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-shift, 0, 1]])
    return ndimage.affine_transform(raw, matrix, (0, 0, max(0, shift * (shape[0] - 1))), shape, order=1)


def misses(volume, rows):
    """Distances (voxels) between the truth and the centroids of puncta that stand alone and well inside."""
    points, half, found = rows[["z", "y", "x"]].to_numpy(), np.array([6, 7, 7]), []
    for i, place in enumerate(points):
        low = np.rint(place).astype(int) - half
        others = np.abs(np.delete(points, i, 0) - place)
        if (others < 2.2 * half).all(1).any() or (low < 0).any() or (low + 2 * half >= volume.shape).any():
            continue
        window = volume[tuple(slice(a, a + 2 * h + 1) for a, h in zip(low, half, strict=True))].astype(float)
        found.append(np.abs(np.array(ndimage.center_of_mass(window)) + low - place).max() if window.any() else np.inf)
    return np.array(found)


@pytest.mark.parametrize(("angle", "direction"), [(31.5, 1), (31.5, -1), (45.0, 1), (90.0, 1)])
def test_deskewed_beads_are_at_their_true_places(angle, direction):
    config = SceneConfig(**FIELD, scan_angle_deg=angle, scan_direction=direction)
    scene = Scene(config, PSF, Camera(background=0), seed=2)
    raw = scene.expected(0)
    step = 0.2 / np.sin(np.radians(angle))
    assert raw.shape == scene.scan.raw_shape and np.allclose(scene.frame_spacing_um, (step, 0.1, 0.1))
    flat = unskewed(raw, angle, step, 0.1, config.shape[1:], direction)
    rows = scene.truth.positions
    found = misses(flat, rows)
    assert len(found) >= 3 and found.max() < 0.1
    assert raw.sum(dtype=float) == pytest.approx(rows["mass"].sum(), rel=1e-3)  # no light is lost
    straight = Scene(SceneConfig(**FIELD), PSF, Camera(background=0), seed=2).expected(0)
    assert np.corrcoef(flat.ravel(), straight.ravel())[0, 1] > 0.97
    if angle < 90:  # the negative control: a scan the other way round
        wrong = misses(unskewed(raw, angle, step, 0.1, config.shape[1:], -direction), rows)
        assert not wrong.max() < 0.1


def test_raw_stacks_and_their_mapping_are_written(tmp_path):
    config = SceneConfig(shape=(2, 28, 60, 60), spacing_um=(0.2, 0.1, 0.1), n_puncta=9, scan_angle_deg=31.5, snr=8.0)
    write_simulated(tmp_path / "raw.ome.zarr", tmp_path / "truth", config, PSF, seed=3)
    movie, masks = Movie.open(tmp_path / "raw.ome.zarr"), Movie.open(tmp_path / "truth" / "labels.zarr")
    scan = Scan.of(config)
    assert movie.shape == (2, 1, *scan.raw_shape) == masks.shape
    assert np.allclose(movie.spacing_um, (0.2 / np.sin(np.radians(31.5)), 0.1, 0.1))
    frames, truth = simulate_movie(config, PSF, seed=3)
    assert np.array_equal(movie.frame(1), frames[1]) and np.array_equal(masks.frame(1), truth.labels[1])
    made = json.loads((tmp_path / "truth" / "scene.json").read_text())["made_with"]["scan"]
    for row in truth.positions.query("frame == 1 and visible").itertuples():
        where = np.argwhere(truth.labels[1] == row.track_id + 1)  # raw voxels of its mask
        lab = where @ np.array(made["matrix"]).T + made["offset"]
        assert np.abs(lab.mean(0) - (row.z, row.y, row.x)).max() < 1.5
    assert np.median(frames[0][:, 25:35, :5]) < np.median(frames[0][10:18, 25:35, 60:100])  # dark beside the cell
