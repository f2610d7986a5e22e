import math

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellfm_nb.curate import deskew, deskew_affine, plane_shift_px, write_deskewed
from cellfm_nb.curate.deskew import level_of
from cellfm_nb.curate.slabs import to_dtype
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("angle", [31.5, 60.0, 89.0])
def test_equals_scipy_affine(angle, direction):
    raw = np.random.default_rng(0).normal(100, 9, (7, 5, 11)).astype(np.float32)
    out, _ = deskew(raw, 0.1, 0.3, angle, fill=98, direction=direction)
    matrix, offset = deskew_affine(len(raw), plane_shift_px(0.1, 0.3, angle, direction))
    oracle = ndimage.affine_transform(raw.astype(float), matrix, offset, out.shape, order=1, mode="grid-constant",
                                      cval=98)
    np.testing.assert_allclose(out, oracle, atol=2e-3)
    assert np.abs(out - oracle[:, :, ::-1]).max() > 1


def test_upright_sheet_changes_nothing(picture):
    out, spacing = deskew(picture, 0.1, 0.3, 90.0)
    assert np.array_equal(out, picture) and spacing == pytest.approx((0.3, 0.1, 0.1))


def test_shape_spacing_and_intensity():
    raw = np.random.default_rng(1).uniform(98, 300, (9, 4, 20)).astype(np.float32)
    out, spacing = deskew(raw, 0.1, 0.3, 31.5, fill=98)
    shift = math.cos(math.radians(31.5)) * 3
    assert out.shape == (9, 4, math.ceil(8 * shift) + 20)
    assert spacing == pytest.approx((0.3 * math.sin(math.radians(31.5)), 0.1, 0.1))
    assert (out - 98).sum(dtype=float) == pytest.approx((raw - 98).sum(dtype=float), rel=1e-5)


def tilted_bead(centre_um, sigma_um, shape, pixel, step, angle):
    """Sample a round bead as a stage scan does: plane p shows what lies p steps further along the stage."""
    p, y, x = np.indices(shape, sparse=True)
    a = math.radians(angle)
    real = (p * step * math.sin(a), y * pixel, x * pixel + p * step * math.cos(a))
    return 1000 * np.exp(-sum((r - c) ** 2 for r, c in zip(real, centre_um, strict=True)) / 2 / sigma_um**2)


def moments(volume, spacing):
    grid = [g * s for g, s in zip(np.indices(volume.shape, sparse=True), spacing, strict=True)]
    centre = [(volume * g).sum() / volume.sum() for g in grid]
    return centre, [math.sqrt((volume * (g - c) ** 2).sum() / volume.sum()) for g, c in zip(grid, centre, strict=True)]


def test_tilted_bead_lands_where_it_is_and_round():
    centre = (3.1, 2.03, 7.07)
    raw = tilted_bead(centre, 0.3, (40, 41, 60), 0.1, 0.3, 31.5)
    out, spacing = deskew(raw, 0.1, 0.3, 31.5, fill=0)
    found, width = moments(out.astype(float), spacing)
    assert max(abs(f - c) / s for f, c, s in zip(found, centre, spacing, strict=True)) < 0.1
    assert max(width) / min(width) < 1.03
    skewed, _ = moments(raw, (0.3, 0.1, 0.1))  # negative control: the raw stack fails both
    assert abs(skewed[2] - centre[2]) > 1


def test_real_stack_equals_reference(real):
    raw, reference = (tifffile.imread(real / f"im_{name}.tif") for name in ("raw", "deskewed"))
    out, _ = deskew(raw, 0.1, 0.3, 31.5)
    width = min(out.shape[2], reference.shape[2])
    assert np.corrcoef(out[:, ::4, :width].ravel(), reference[:, ::4, :width].ravel())[0, 1] > 0.999
    wrong, _ = deskew(raw[:, ::4], 0.1015, 0.3, 31.5)
    width = min(wrong.shape[2], reference.shape[2])
    assert np.corrcoef(wrong[..., :width].ravel(), reference[:, ::4, :width].ravel())[0, 1] < 0.999


@pytest.mark.parametrize("direction, rotate", [(1, False), (-1, False), (1, True), (-1, True)])
def test_skew_along_y_is_skew_along_x_with_axes_exchanged(tmp_path, direction, rotate):
    """P5: to the bit, in memory and streamed."""
    raw = np.random.default_rng(0).integers(90, 900, (40, 11, 30)).astype(np.uint16)
    how = {"direction": direction, "rotate": rotate}
    along_x, spacing = deskew(raw, 0.1, 0.3, 31.5, **how)
    along_y, same = deskew(raw.swapaxes(1, 2), 0.1, 0.3, 31.5, **how, skew_axis="y")
    assert np.array_equal(along_y, along_x.swapaxes(1, 2)) and spacing == same and along_y.flags.c_contiguous
    assert not np.array_equal(along_y[:, :11, :11], deskew(raw.swapaxes(1, 2), 0.1, 0.3, 31.5, **how)[0][:, :11, :11])
    tifffile.imwrite(tmp_path / "raw.tif", raw.swapaxes(1, 2), imagej=True, metadata={"axes": "ZYX"})
    write_deskewed(tmp_path / "out.ome.zarr", tmp_path / "raw.tif", 0.1, 0.3, 31.5, skew_axis="y", **how)
    movie = Movie.open(tmp_path / "out.ome.zarr")
    assert np.array_equal(movie.frame(0), np.rint(along_y)) and movie.spacing_um == pytest.approx(spacing)
    with pytest.raises(InputError, match="x or y"):
        deskew(raw, 0.1, 0.3, 31.5, skew_axis="z")


def test_writer_makes_a_movie(tmp_path, picture):
    tifffile.imwrite(tmp_path / "raw.tif", picture, imagej=True, metadata={"axes": "ZYX"})
    write_deskewed(tmp_path / "stack.ome.zarr", tmp_path / "raw.tif", 0.1, 0.3, 31.5)
    movie = Movie.open(tmp_path / "stack.ome.zarr")
    expected, spacing = deskew(picture, 0.1, 0.3, 31.5)
    assert movie.spacing_um == pytest.approx(spacing) and movie.dtype == np.uint16
    assert np.array_equal(movie.frame(0), np.rint(expected))


@pytest.mark.parametrize("pixel, step, angle, direction", [
    (0, 0.3, 31.5, 1), (0.1, -1, 31.5, 1), (0.1, float("nan"), 31.5, 1), (0.1, 0.3, 0, 1), (0.1, 0.3, 120, 1),
    (0.1, 0.3, 31.5, 2)])
def test_bad_geometry(pixel, step, angle, direction):
    with pytest.raises(InputError):
        deskew(np.ones((3, 4, 5)), pixel, step, angle, fill=0, direction=direction)


def test_bad_volumes():
    for bad in (np.ones((4, 5)), np.full((3, 4, 5), np.nan)):
        with pytest.raises(InputError):
            deskew(bad, 0.1, 0.3, 31.5, fill=0)


def test_shear_then_inverse_shear_is_the_identity():
    """P5: to the bit of a float where the shift is whole; within the interpolation's blur where it is not."""
    raw = np.random.default_rng(0).uniform(98, 300, (9, 4, 30)).astype(np.float32)
    there, _ = deskew(raw, 0.1, 0.4, 60.0, fill=98)  # 2 pixels a plane
    back, _ = deskew(there, 0.1, 0.4, 60.0, fill=98, direction=-1)
    np.testing.assert_allclose(back[:, :, 16:46], raw, atol=1e-4)
    smooth = ndimage.gaussian_filter(raw, (0, 2, 3))
    there, _ = deskew(smooth, 0.1, 0.3, 31.5, fill=smooth.mean())
    back, _ = deskew(there, 0.1, 0.3, 31.5, fill=smooth.mean(), direction=-1)
    start = 8 * plane_shift_px(0.1, 0.3, 31.5)  # where the raw stack now begins, between two pixels
    moved = ndimage.shift(smooth, (0, 0, start % 1), order=3)[:, :, 5:25]
    assert np.abs(back[:, :, int(start) + 5 : int(start) + 25] - moved).max() < 0.02 * np.ptp(smooth)


def test_odd_volumes_have_a_defined_outcome():
    """P6: zeros stay zeros, a constant stays constant, one plane stays itself, a voxel is a volume."""
    for rotate in (False, True):
        assert not deskew(np.zeros((5, 6, 7)), 0.1, 0.3, 31.5, rotate=rotate)[0].any()
        flat, _ = deskew(np.full((5, 6, 7), 312, np.uint16), 0.1, 0.3, 31.5, rotate=rotate)
        np.testing.assert_allclose(flat, 312, rtol=1e-6)
        assert np.isfinite(deskew(np.arange(3.0).reshape(3, 1, 1), 0.1, 0.3, 31.5, rotate=rotate)[0]).all()
        with pytest.raises(InputError):
            deskew(np.full((5, 6, 7), np.nan), 0.1, 0.3, 31.5, rotate=rotate)
    one = np.random.default_rng(0).random((1, 4, 5)).astype(np.float32)
    assert np.array_equal(deskew(one, 0.1, 0.3, 31.5)[0], one)


def test_every_channel_is_deskewed_and_keeps_its_name(tmp_path):
    raw = np.random.default_rng(0).integers(90, 110, (2, 2, 6, 16, 16)).astype(np.uint16)
    raw[:, 1] += 300
    movie = Movie.from_array(raw, "tczyx", spacing_um=(0.3, 0.1, 0.1), channel_names=("GFP", "RFP"))
    movie.save(tmp_path / "raw.ome.zarr")
    write_deskewed(tmp_path / "out.ome.zarr", tmp_path / "raw.ome.zarr", 0.1, 0.3, 31.5)
    out = Movie.open(tmp_path / "out.ome.zarr")
    assert out.n_channels == 2 and out.channel_names == ("GFP", "RFP")
    for c in (0, 1):  # each filled with its own background
        want, _ = deskew(raw[1, c], 0.1, 0.3, 31.5, level_of(raw[0, c]))
        np.testing.assert_array_equal(out.frame(1, c), np.rint(want))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32"])
def test_what_is_too_bright_saturates_and_never_wraps(dtype):
    volume = np.array([[[-5.0, 7.4, 3e9, 4294967296.0]]], np.float32)
    out = to_dtype(volume, np.dtype(dtype))
    assert out[0, 0, 1] == 7 and (np.diff(out[0, 0].astype(np.float64)) >= 0).all() and out[0, 0, 3] > 250
