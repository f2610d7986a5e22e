import math

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellfm_nb.curate.deskew import deskew, write_deskewed
from cellfm_nb.curate.geometry import coverslip_affine, plane_shift_px
from cellfm_nb.curate.geometry_estimate import estimate_geometry
from cellfm_nb.curate.rotate import coverslip_slabs
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

from .twin import stage_scan

BEAD = np.array([[28.3, 20.3, 42.6]])  # (p, y, x) in the raw stack


def width_and_centre(volume):
    grid, total = np.indices(volume.shape, sparse=True), volume.sum()
    centre = np.array([(volume * g).sum() / total for g in grid])
    away = [g - c for g, c in zip(grid, centre, strict=True)]
    spread = np.array([[(volume * a * b).sum() / total for a in away] for b in away])
    return centre, np.sqrt(np.linalg.eigvalsh(spread))


@pytest.mark.parametrize("direction", [1, -1])
def test_rotated_bead_lands_where_it_is_and_round(direction):
    """P5: centroid within 0.1 voxel, second moments isotropic, light kept to 1% (times the Jacobian)."""
    raw = stage_scan((56, 41, 86), BEAD, sigma_um=0.2, direction=direction)
    geometry = (0.1, 0.3, 31.5)
    out, spacing = deskew(raw, *geometry, fill=0, direction=direction, rotate=True)
    shape, matrix, offset = coverslip_affine(raw.shape, *geometry, direction)
    truth = np.linalg.solve(matrix, BEAD[0] - offset)
    centre, width = width_and_centre(out.astype(float))
    assert out.shape == shape and spacing == (0.1,) * 3
    assert np.abs(centre - truth).max() < 0.1 and width.max() / width.min() < 1.06
    jacobian = 0.3 * math.sin(math.radians(31.5)) / 0.1
    assert out.sum(dtype=float) == pytest.approx(jacobian * raw.sum(), rel=0.01)
    # negative control: one affine transform of the raw index reads neighbours a whole step apart, and smears along X
    plain = ndimage.affine_transform(raw, matrix, offset, shape, order=1)
    assert (smeared := width_and_centre(plain)[1]).max() / smeared.min() > 1.15


@pytest.mark.parametrize("angle, direction, out_um", [(31.5, 1, 0.1), (60.0, -1, 0.13), (90.0, 1, 0.1), (45, 1, 0.07)])
def test_rotation_equals_scipy_plane_by_plane(angle, direction, out_um):
    raw = np.random.default_rng(0).normal(100, 9, (9, 5, 11)).astype(np.float32)
    out, _ = deskew(raw, 0.1, 0.3, angle, fill=98, direction=direction, rotate=True, out_um=out_um)
    shape, matrix, offset = coverslip_affine(raw.shape, 0.1, 0.3, angle, direction, out_um)
    at = np.einsum("ij,jzyx->izyx", matrix, np.indices(shape, float)) + offset[:, None, None, None]
    at[1] = np.minimum(at[1], raw.shape[1] - 1)
    shift, below, expected = plane_shift_px(0.1, 0.3, angle, direction), np.floor(at[0] + 1e-12), 0
    for plane in (below, below + 1):  # scipy looks into each of the two planes, straight across the sheet
        look = np.stack([plane, at[1], at[2] + shift * (at[0] - plane)])
        weight = np.maximum(1 - np.abs(at[0] - plane), 0)
        expected = expected + weight * ndimage.map_coordinates(raw.astype(float), look, order=1, mode="grid-constant",
                                                               cval=98)
    np.testing.assert_allclose(out, expected, atol=5e-3)
    if angle == 90:  # nothing is sheared: the affine transform of the raw index is the same thing
        plain = ndimage.affine_transform(raw.astype(float), matrix, offset, shape, order=1, cval=98,
                                         mode="grid-constant")
        np.testing.assert_allclose(out, plain, atol=5e-3)


def test_smooth_picture_equals_scipy_affine():
    """Where the picture is smooth, which neighbours are read does not matter: the map itself is scipy's."""
    raw = stage_scan((40, 21, 80), [[20.0, 10, 40]], sigma_um=0.7).astype(np.float32)
    out, _ = deskew(raw, 0.1, 0.3, 31.5, fill=0, rotate=True)
    shape, matrix, offset = coverslip_affine(raw.shape, 0.1, 0.3, 31.5)
    inside = ndimage.affine_transform(np.ones(raw.shape), matrix, offset, shape, order=1) > 0.999
    inside = ndimage.binary_erosion(inside, iterations=4)
    plain = ndimage.affine_transform(raw.astype(float), matrix, offset, shape, order=1)
    assert np.abs(out - plain)[inside].max() < 0.02 * raw.max()


def test_slabs_and_devices_agree():
    raw = stage_scan((40, 9, 40), [[20, 4, 20], [9, 3, 30]], sigma_um=0.25).astype(np.float32)
    whole, _ = deskew(raw, 0.1, 0.3, 31.5, fill=0, rotate=True)
    for slab in (7, 50):
        parts = coverslip_slabs(raw, 0.1, 0.3, 31.5, 0.0, slab=slab)
        assert np.array_equal(np.concatenate([part for _, part in parts], axis=2), whole)
    for rotate in (True, False):
        ours, theirs = (deskew(raw, 0.1, 0.3, 31.5, fill=0, rotate=rotate, device=d)[0] for d in (None, "cpu"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_a_slab_reads_only_the_planes_it_needs():
    class Lazy:
        shape, ndim, longest = (500, 4, 40), 3, 0

        def __len__(self):
            return 500

        def __getitem__(self, part):
            planes = np.arange(*part.indices(500))
            Lazy.longest = max(Lazy.longest, len(planes))
            return np.broadcast_to(planes[:, None, None], (len(planes), 4, 40)).astype(np.float32)

    for _ in coverslip_slabs(Lazy(), 0.1, 0.3, 31.5, 0.0, slab=32):
        pass
    assert Lazy.longest <= (32 + 40) / 3 + 4


@pytest.mark.parametrize("angle, step, direction", [(31.5, 0.3, 1), (31.5, 0.3, -1), (45.0, 0.2, 1), (60.0, 0.25, 1)])
def test_geometry_is_found_on_beads(angle, step, direction):
    rng = np.random.default_rng(2)
    where = rng.uniform((0, 0, 0), (40, 128, 160), (300, 3))
    light = 100 + stage_scan((40, 128, 160), where, 0.15, 0.1, step, angle, direction, peak=300)
    found = estimate_geometry(rng.poisson(light).astype(np.uint16), 0.1, step)
    truth = step * math.cos(math.radians(angle)) / 0.1
    assert found.shift_px == pytest.approx(truth, rel=0.01) and found.direction == direction
    assert found.word == "sure" and found.angle_deg == pytest.approx(angle, abs=1.2)
    low, high = found.interval_px
    assert low <= truth <= high and high - low < 0.08 * truth


def test_what_is_not_known_is_said():
    rng = np.random.default_rng(0)
    where = rng.uniform((0, 0, 0), (40, 64, 96), (80, 3))
    raw = rng.poisson(100 + stage_scan((40, 64, 96), where, 0.15, peak=400)).astype(np.uint16)
    alone = estimate_geometry(raw, 0.1)
    assert alone.word == "doubtful" and "assumed" in alone.told and alone.step_um == pytest.approx(0.3, rel=0.02)
    assert estimate_geometry(raw, 0.1, angle_deg=31.5).word == "sure"
    wrong = estimate_geometry(raw, 0.1, 0.5, 31.5)
    assert wrong.word == "doubtful" and "does not fit" in wrong.told
    assert estimate_geometry(raw, 0.1, 0.1).word == "not found"  # a shift longer than the step
    noise = estimate_geometry(rng.poisson(100, (40, 64, 96)), 0.1, 0.3)
    assert noise.word == "not found" and math.isnan(noise.shift_px)
    fixed = rng.poisson(100, (40, 64, 96)) + 300 * (rng.random((64, 96)) > 0.99)  # the camera's hot pixels stay put
    assert estimate_geometry(fixed, 0.1, 0.3).word == "not found"
    assert estimate_geometry(np.full((9, 20, 30), 7), 0.1, 0.3).word == "not found"  # P6
    assert estimate_geometry(raw[:1], 0.1, 0.3).word == "not found"
    assert estimate_geometry(raw[:9, :16], 0.1, 0.3).word != "sure"  # too little to know one's own uncertainty
    for bad in (np.full((9, 20, 30), np.nan), raw[0]):
        with pytest.raises(InputError):
            estimate_geometry(bad, 0.1, 0.3)
    with pytest.raises(InputError):
        estimate_geometry(raw, -0.1, 0.3)


def test_geometry_of_the_real_stack(real):
    raw = tifffile.imread(real / "im_raw.tif")
    found = estimate_geometry(raw, 0.1, 0.3)
    assert found.shift_px == pytest.approx(math.cos(math.radians(31.5)) * 3, rel=0.02)
    assert found.word == "sure" and found.direction == 1 and found.angle_deg == pytest.approx(31.5, abs=1)


@pytest.mark.parametrize("rotate", [False, True])
def test_writer_streams_and_notes_what_was_estimated(tmp_path, rotate):
    rng = np.random.default_rng(0)
    where = rng.uniform((0, 0, 0), (70, 40, 290), (150, 3))
    raw = rng.poisson(100 + stage_scan((70, 40, 290), where, 0.15, peak=60)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "raw.tif", np.stack([raw, raw + 5]), imagej=True, metadata={"axes": "TZYX"})
    write_deskewed(tmp_path / "out.ome.zarr", tmp_path / "raw.tif", 0.1, 0.3, fill=100, rotate=rotate)
    movie = Movie.open(tmp_path / "out.ome.zarr")
    note = next(n for n in movie.notes if "geometry estimated" in n)
    found = estimate_geometry(raw, 0.1, 0.3)
    assert f"{found.angle_deg:.2f}" in note
    for t in (0, 1):
        expected, spacing = deskew(raw + 5 * t, 0.1, 0.3, found.angle_deg, fill=100, rotate=rotate)
        assert np.array_equal(movie.frame(t), np.rint(expected)) and movie.spacing_um == pytest.approx(spacing)
    tifffile.imwrite(tmp_path / "flat.tif", np.full((20, 30, 40), 7, np.uint16), imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(InputError):
        write_deskewed(tmp_path / "no.ome.zarr", tmp_path / "flat.tif", 0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flat.tif", "out.ome.zarr", "raw.tif"]
