import math

import numpy as np
import pytest

from cellfm_nb.curate.bleach import correct_bleaching, fit_bleaching, fit_movie_bleaching, frame_light, write_corrected
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

SPACING = (0.25, 0.1, 0.1)


def fading(half_life_s, n=20, dt_s=2.0, snr=4.0, seed=0, shape=(20, 128, 128)):
    """Return counts of 70 wandering puncta, peak snr * sqrt(background + read^2), that fade on a steady background."""
    rng = np.random.default_rng(seed)
    where = rng.uniform(8, np.array(shape) - 8, (70, 3))
    height = snr * math.sqrt(100 + 1.6**2) * rng.lognormal(0, 0.35, 70)
    frames = []
    for t in range(n):
        where = np.clip(where + rng.normal(0, 0.7, where.shape), 2, np.array(shape) - 3)
        light = np.full(shape, 100.0) * (1 + 0.35 * np.linspace(-0.5, 0.5, shape[2]))
        for at, peak in zip(where, height * 0.5 ** (t * dt_s / half_life_s), strict=True):
            z, y, x = (np.arange(max(int(a) - 6, 0), min(int(a) + 7, n)) for a, n in zip(at, shape, strict=True))
            away = (z - at[0])[:, None, None] ** 2 / 2 + (y - at[1])[:, None] ** 2 / 3.38 + (x - at[2]) ** 2 / 3.38
            light[z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1] += peak * np.exp(-away)
        frames.append(np.rint(100 + rng.poisson(light) + 1.6 * rng.standard_normal(shape)).astype(np.uint16))
    return frames


@pytest.fixture(scope="module")
def faded():
    return fading(40.0)


def test_planted_half_life_is_found(faded):
    movie = Movie.from_array(np.stack(faded), spacing_um=SPACING, dt_s=2.0)
    found = fit_movie_bleaching(movie)
    assert found.significant and found.half_life_s == pytest.approx(40, rel=0.1) and found.sd_s < 6
    # negative control: the light above a threshold, which fewer and fewer voxels pass, fades too fast
    counted = [float((f - 100.0)[f > 250].sum()) for f in faded]
    assert not fit_bleaching(np.array(counted), 2.0).half_life_s == pytest.approx(40, rel=0.1)


def test_no_bleaching_is_said_and_nothing_done():
    frames = fading(math.inf, n=12)
    found = fit_bleaching(np.array([frame_light(f, SPACING) for f in frames]), 2.0)
    assert not found.significant and math.isnan(found.half_life_s) and "no bleaching" in found.told
    for method in ("ratio", "histogram"):
        out = list(correct_bleaching(frames, found, method))
        assert all(np.array_equal(a, b) for a, b in zip(out, frames, strict=True))
    noise = np.random.default_rng(0).normal(0, 1, (20, 12, 30, 30))
    assert not fit_bleaching(np.array([frame_light(f, SPACING) for f in noise])).significant


@pytest.mark.parametrize("method", ["ratio", "histogram"])
def test_correction_brings_the_light_back(faded, method):
    found = fit_bleaching(np.array([frame_light(f, SPACING) for f in faded]), 2.0)
    corrected = list(correct_bleaching(faded, found, method))
    before, after = (np.array([frame_light(f, SPACING) for f in frames]) for frames in (faded, corrected))
    assert before[-4:].mean() < 0.65 * before[:4].mean()
    if method == "ratio":
        assert after[-4:].mean() == pytest.approx(after[:4].mean(), rel=0.15)
        assert np.median(corrected[-1]) == pytest.approx(np.median(faded[0]), abs=1)
    else:
        q = [1, 50, 99, 99.9]
        np.testing.assert_allclose(np.percentile(corrected[-1], q), np.percentile(faded[0], q), atol=2)


def test_fit_finds_offset_and_survives_outliers():
    t, rng = np.arange(60) * 2.0, np.random.default_rng(0)
    light = 100 * 0.5 ** (t / 15) + 30 + rng.normal(0, 1, 60)
    found = fit_bleaching(light, 2.0)
    assert found.half_life_s == pytest.approx(15, rel=0.1) and found.offset == pytest.approx(30, rel=0.1)
    light[[7, 30]], light[20] = 200, np.nan
    assert fit_bleaching(light, 2.0).half_life_s == pytest.approx(15, rel=0.2)
    assert not fit_bleaching(100 + t + rng.normal(0, 1, 60), 2.0).significant  # light that grows does not bleach
    assert not fit_bleaching(np.zeros(9)).significant and not fit_bleaching(np.ones(9)).significant


def test_odd_movies_have_a_defined_outcome():
    """P6."""
    assert frame_light(np.zeros((3, 4, 5)), SPACING) == 0 and frame_light(np.ones((1, 1, 1)), SPACING) == 0
    assert np.isfinite(frame_light(np.arange(20.0).reshape(1, 4, 5), SPACING))
    movie = Movie.from_array(np.zeros((6, 3, 4, 5)), spacing_um=SPACING)
    for bad in (lambda: fit_movie_bleaching(movie), lambda: fit_bleaching(np.ones(3)),
                lambda: frame_light(np.full((3, 4, 5), np.nan), SPACING),
                lambda: list(correct_bleaching([], fit_bleaching(np.ones(9)), "magic"))):
        with pytest.raises(InputError):
            bad()
    found = fit_bleaching(100 * 0.5 ** (np.arange(9) / 4.0))
    assert not np.any([f for f in correct_bleaching(np.zeros((9, 3, 4, 5)), found)])


def test_writer_corrects_each_channel_by_itself(tmp_path, faded):
    steady = fading(math.inf)
    Movie.from_array(np.stack([np.stack([a, b]) for a, b in zip(faded, steady, strict=True)])[::3, :, :, 20:84, 20:84],
                     "tczyx", spacing_um=SPACING, dt_s=6.0).save(tmp_path / "in.ome.zarr")
    write_corrected(tmp_path / "out.ome.zarr", tmp_path / "in.ome.zarr")
    before, after = (Movie.open(tmp_path / name) for name in ("in.ome.zarr", "out.ome.zarr"))
    assert "half-life" in after.notes[-2] and "no bleaching" in after.notes[-1] and after.dtype == np.uint16
    assert np.array_equal(after.frame(6, 1), before.frame(6, 1))
    assert frame_light(after.frame(6), SPACING) > 1.5 * frame_light(before.frame(6), SPACING)


def test_frames_are_never_called_seconds_and_brightening_has_an_end():
    light = 100 * 0.5 ** (np.arange(24) / 2.0) + 1e-3
    found = fit_bleaching(light, None)
    assert "frames" in found.told and math.isnan(found.half_life_s) and found.significant
    frame = 100 + np.random.default_rng(0).normal(0, 5, (4, 8, 8))
    last = list(correct_bleaching([frame] * 24, found))[-1]
    assert last.std() <= 8.01 * frame.std()
