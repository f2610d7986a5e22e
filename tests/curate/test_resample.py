import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm_nb.curate.resample import resample, write_resampled
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie


def oracle(volume, shape):
    tensor = torch.from_numpy(volume)[None, None]
    return torch.nn.functional.interpolate(tensor, size=shape, mode="trilinear", align_corners=False)[0, 0].numpy()


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 13)] * 3), target=st.tuples(*[st.floats(0.3, 3)] * 3), chunk=st.integers(1, 40))
def test_equals_torch_for_any_chunk(shape, target, chunk):  # P7
    volume = np.random.default_rng(0).random(shape, np.float32)
    out, spacing = resample(volume, (1, 1, 1), target, chunk_planes=chunk)
    np.testing.assert_allclose(out, oracle(volume, out.shape), atol=1e-5)
    np.testing.assert_allclose([n * s for n, s in zip(out.shape, spacing, strict=True)], shape)  # physical size kept


def test_without_halo_there_are_seams():
    """Negative control: resampling chunk by chunk, as the original did, differs at the chunks' borders."""
    volume = np.random.default_rng(0).random((32, 8, 8), np.float32)
    seams = np.concatenate([oracle(volume[i : i + 16], (48, 8, 8)) for i in (0, 16)])
    assert np.abs(seams - oracle(volume, (96, 8, 8))).max() > 0.1
    ours, _ = resample(volume, (3, 1, 1), (1, 1, 1), chunk_planes=16)
    np.testing.assert_allclose(ours, oracle(volume, (96, 8, 8)), atol=1e-5)


def test_scale_one_is_identity_and_constant_stays():
    volume = np.random.default_rng(0).integers(0, 65535, (5, 6, 7), np.uint16)
    out, spacing = resample(volume, (0.2, 0.1, 0.1), (0.2, 0.1, 0.1))
    assert np.array_equal(out, volume) and spacing == (0.2, 0.1, 0.1)
    flat, _ = resample(np.full((5, 6, 7), 312, np.uint16), (0.2, 0.1, 0.1), (0.07, 0.13, 0.1))
    assert (flat == 312).all()


def test_same_object_at_two_spacings():
    """N7: a blob sampled at two spacings resamples to the same array within interpolation error."""
    def blob(shape, spacing):
        grid = [(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)]
        z, y, x = np.meshgrid(*grid, indexing="ij")
        return np.exp(-((z - 4) ** 2 + (y - 4.2) ** 2 + (x - 3.9) ** 2) / 2).astype(np.float32)

    a, _ = resample(blob((16, 32, 32), (0.5, 0.25, 0.25)), (0.5, 0.25, 0.25), (0.4, 0.4, 0.4))
    b, _ = resample(blob((40, 40, 40), (0.2, 0.2, 0.2)), (0.2, 0.2, 0.2), (0.4, 0.4, 0.4))
    assert a.shape == b.shape and np.abs(a - b).max() < 0.05


def test_reads_only_the_slabs_it_needs():
    class Lazy:
        shape, read = (100, 4, 4), 0

        def __getitem__(self, part):
            planes = np.arange(*part.indices(100))
            Lazy.read = max(Lazy.read, len(planes))
            return np.broadcast_to(planes[:, None, None], (len(planes), 4, 4)).astype(np.float32)

    out, _ = resample(Lazy(), (1, 1, 1), (0.5, 1, 1), chunk_planes=8)
    assert Lazy.read <= 6 and out.shape == (200, 4, 4)
    np.testing.assert_allclose(out[1:-1, 0, 0], (np.arange(200) / 2 - 0.25)[1:-1], atol=1e-5)


@pytest.mark.parametrize("spacing, target", [((1, 1), (1, 1, 1)), ((1, 1, 1), (0, 1, 1)), ((1, -1, 1), (1, 1, 1)),
                                             ((1, float("nan"), 1), (1, 1, 1))])
def test_bad_spacing(spacing, target):
    with pytest.raises(InputError):
        resample(np.zeros((3, 3, 3)), spacing, target)


@pytest.mark.parametrize("n_out", [1, 5, 7, 12])
def test_antialias_equals_torch_and_keeps_the_light(n_out):
    plane = np.random.default_rng(0).random((12, 12), np.float32)
    oracle = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], (n_out, 12), mode="bilinear",
                                             antialias=True)[0, 0].numpy()
    for axis in (0, 1, 2):
        volume = np.moveaxis(np.repeat(plane[:, :, None], 2, 2), 0, axis)
        target = [12 / n_out if a == axis else 1 for a in range(3)]
        for chunk in (2, 64):
            ours, _ = resample(volume, (1, 1, 1), target, chunk, antialias=True)
            np.testing.assert_allclose(np.moveaxis(ours, axis, 0)[:, :, 0], oracle, atol=1e-5)
    if n_out == 5:  # negative control: without it a fine pattern turns into a coarse one
        stripes = np.broadcast_to(np.arange(60) % 2, (4, 4, 60)).astype(np.float32)
        coarse = [resample(stripes, (1, 1, 1), (1, 1, 60 / 19), antialias=a)[0][..., 1:-1] for a in (True, False)]
        assert np.ptp(coarse[0]) < 0.2 < 0.8 < np.ptp(coarse[1])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_from_file_to_file(tmp_path, dtype):
    frames = np.random.default_rng(0).integers(90, 4000, (2, 2, 9, 40, 300)).astype(dtype)
    Movie.from_array(frames, "tczyx", spacing_um=(0.5, 0.1, 0.1), dt_s=2.0).save(tmp_path / "in.ome.zarr")
    write_resampled(tmp_path / "out.ome.zarr", tmp_path / "in.ome.zarr", (0.2, 0.1, 0.13))
    movie = Movie.open(tmp_path / "out.ome.zarr")
    expected, spacing = resample(frames[1, 1], (0.5, 0.1, 0.1), (0.2, 0.1, 0.13))
    assert movie.spacing_um == pytest.approx(spacing) and movie.dt_s == 2 and "resampled" in movie.notes[-1]
    expected = np.rint(expected) if dtype == np.uint16 else expected
    assert movie.dtype == dtype and np.array_equal(movie.frame(1, 1), expected)
    frames[1, 0, 4, 5, 6] = np.nan if dtype == np.float32 else 0
    if dtype == np.float32:
        Movie.from_array(frames, "tczyx", spacing_um=(0.5, 0.1, 0.1)).save(tmp_path / "nan.ome.zarr")
        with pytest.raises(InputError):
            write_resampled(tmp_path / "no.ome.zarr", tmp_path / "nan.ome.zarr", (0.2, 0.1, 0.1))
        assert not [p for p in tmp_path.iterdir() if "no.ome" in p.name]


def test_odd_volumes_have_a_defined_outcome():
    """P6."""
    assert not resample(np.zeros((3, 4, 5)), (1, 1, 1), (0.4, 0.7, 2))[0].any()
    assert (resample(np.full((1, 1, 1), 7), (1, 1, 1), (0.2, 5, 1))[0] == 7).all()
    hole = np.ones((8, 8, 8), np.float32)
    hole[4, 4, 4] = np.nan
    assert 0 < np.isnan(resample(hole, (1, 1, 1), (0.5, 0.5, 0.5))[0]).sum() <= 64
    with pytest.raises(InputError):
        resample(np.zeros((0, 4, 5)), (1, 1, 1), (1, 1, 2))


def test_large_volumes_are_threaded_and_the_same():
    volume = np.random.default_rng(0).random((20, 200, 210), np.float32)
    out, _ = resample(volume, (2.4, 1, 1), (1, 0.7, 1.2))
    # in double: torch computes places in the voxels' own type, and single is off by 1e-5 a hundred voxels in
    np.testing.assert_allclose(out, oracle(volume.astype(float), out.shape), atol=1e-6)
