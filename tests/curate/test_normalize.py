import numpy as np
import pytest
from scipy import ndimage

from cellfm_nb.curate import (
    LEVEL,
    NoiseModel,
    deskew,
    encoder_frame,
    fit_noise,
    histogram_normalize,
    normalize,
    normalized_frame,
    separate,
)
from cellfm_nb.curate.background import (
    background_spread,
    find_background,
    flat_fill,
    refine_background,
    running_median,
    smoothed,
    subtract_background,
)
from cellfm_nb.curate.stretch import SAMPLE, movie_limits, order_statistics, percentiles, stretch_limits
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

from .twin import puncta

SPACING = (0.25, 0.1, 0.1)
QUANTILES = np.array([0.1, 1, 5, 25, 50, 75, 95, 99, 99.9])


def with_hot(volume, share=1e-4, value=65000):
    hot = volume.copy()
    rng = np.random.default_rng(3)
    hot.flat[rng.choice(volume.size, max(1, int(share * volume.size)), replace=False)] = value
    return hot


@pytest.mark.parametrize("gain, background", [(0.5, 30), (1, 100), (2, 400)])
def test_background_is_standard_normal(gain, background):
    y = normalize(volume := puncta(gain=gain, background=background, n=25), fit_noise(volume), SPACING)
    assert y.dtype == np.float32 and y.shape == volume.shape
    low = np.quantile(y, [0.00135, 0.02275, 0.1587])
    np.testing.assert_allclose(low, [-3, -2, -1], atol=0.15)
    assert abs(np.median(y)) < 0.08


def test_noise_is_the_same_at_every_brightness():
    """A picture without structure but with a steep gradient: bright and dark ends get the same spread."""
    volume = puncta((16, 96, 160), n=0, gradient=1.8)
    y = normalize(volume, fit_noise(volume), SPACING)
    dark, bright = y[..., 8:48].std(), y[..., -48:-8].std()
    assert bright / dark == pytest.approx(1, abs=0.1)
    counts = np.diff(volume.astype(float), axis=1)
    assert counts[..., -48:-8].std() / counts[..., 8:48].std() > 1.4  # negative control: the counts themselves


def test_puncta_keep_their_height_and_dig_no_ring():
    """Negative control: subtracting a plain wide Gaussian leaves a dark ring around a bright object."""
    volume = puncta(n=0, gradient=0)
    volume[8:16, 40:56, 40:56] += 400
    y = normalize(volume, fit_noise(volume), SPACING)
    ring = ndimage.binary_dilation(np.pad(np.ones((8, 16, 16), bool), [(8, 8), (40, 40), (40, 40)]), iterations=4)
    ring[7:17, 38:58, 38:58] = False
    assert y[ring].mean() > -0.3
    plain = volume - ndimage.gaussian_filter(volume.astype(np.float32), (5, 12, 12))
    assert plain[ring].mean() / np.sqrt(102) < -1


def test_hot_voxels_do_not_matter(picture):
    """N1: 0.01% hot voxels move no quantile of the output by 1% of its range; nor is any of them left."""
    clean, hot = (normalize(v, fit_noise(v), SPACING) for v in (picture, with_hot(picture)))
    a, b = np.percentile(clean, QUANTILES), np.percentile(hot, QUANTILES)
    assert np.abs(a - b).max() < 0.01 * (a[-1] - a[0])
    assert hot.max() < 1.5 * clean.max()


def original(volume):
    """The original's histogram normalisation: no clipping, then min-max."""
    k = volume.size // 5000
    ends = np.sort(volume.ravel()).astype(float)
    stretched = (volume - ends[k]) / (ends[-1 - k] - ends[k] + 1e-6)
    return (stretched - stretched.min()) / (stretched.max() - stretched.min())


def test_histogram_rule_clips_and_the_original_undoes_it(picture):
    hot = with_hot(picture, share=0)
    a, b = (np.percentile(histogram_normalize(v), QUANTILES) for v in (picture, hot))
    assert np.abs(a - b).max() < 0.01
    plain = (hot - float(hot.min())) / (float(hot.max()) - hot.min())
    np.testing.assert_allclose(original(hot), plain, atol=1e-6)  # the rule has no effect at all
    assert np.percentile(original(hot), 99.9) < 0.1 < np.percentile(original(picture), 99.9)


@pytest.mark.parametrize("a, b", [(1 / 65535, 0), (2.0, 500), (0.1, -30)])
def test_units_do_not_matter(picture, a, b):
    """N2: invariant to x -> a x + b."""
    other = (a * picture.astype(np.float64) + b).astype(np.float32)
    y, z = (normalize(v, fit_noise(v), SPACING) for v in (picture.astype(np.float32), other))
    assert np.abs(y - z).max() < 0.03
    np.testing.assert_allclose(histogram_normalize(picture), histogram_normalize(other), atol=1e-4)


def test_order_is_kept(picture):
    """N2: raising a voxel raises it in the output, and two voxels of one neighbourhood keep their order."""
    noise = fit_noise(picture)
    y = normalize(picture, noise, SPACING)
    left, right = picture[:, :, :-1].astype(int), picture[:, :, 1:].astype(int)
    apart = np.abs(left - right) > 4
    same = np.sign(left - right)[apart] == np.sign(y[:, :, :-1] - y[:, :, 1:])[apart]
    assert same.mean() > 0.9999


def test_fill_is_left_out_of_every_statistic(picture):
    skewed, spacing = deskew(picture, 0.1, 0.3, 31.5)
    y = normalize(skewed, fit_noise(skewed), spacing)
    fill = flat_fill(skewed)
    assert fill.mean() > 0.2 and (y[fill] == 0).all()
    centre, sd = background_spread(y[~fill])
    assert abs(centre) < 0.05 and sd == pytest.approx(1, abs=0.1)
    assert background_spread(skewed)[1] < 0.5 * background_spread(skewed[~fill])[1]  # negative control: fill counted


@pytest.mark.parametrize("shape, axis, half", [((5, 6, 7), 0, 2), ((5, 6, 7), 2, 3), ((4, 3, 9), 1, 5),
                                               ((1, 3, 3), 0, 4)])
def test_running_median_equals_scipy(shape, axis, half):
    a = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    size = [2 * half + 1 if i == axis else 1 for i in range(3)]
    np.testing.assert_array_equal(running_median(a, axis, half), ndimage.median_filter(a, size, mode="reflect"))


def test_a_cell_border_leaves_no_bright_rim():
    """Negative control: with a wide Gaussian as background the border of a cell looks like an object."""
    volume = puncta((24, 128, 128), n=0, gradient=0, background=30)
    cell = np.hypot(*(np.indices((128, 128)) - 64)) < 40
    volume = volume + np.random.default_rng(0).poisson(60, volume.shape) * cell
    y = normalize(volume, fit_noise(volume), SPACING)
    rim = cell & ~ndimage.binary_erosion(cell, iterations=8)
    assert y[:, rim].mean() < 0.7 and abs(np.mean(y[:, cell])) < 0.25
    gaussian = volume - ndimage.gaussian_filter(volume.astype(float), (5, 12, 12))
    assert gaussian[:, rim].mean() / np.sqrt(90 + 1.6**2) > 1


def test_frame_is_resampled_first(picture):
    movie = Movie.from_array(picture[None], spacing_um=SPACING)
    y, spacing = normalized_frame(movie, 0)
    assert spacing == SPACING and np.array_equal(y, normalize(picture, fit_noise(picture), SPACING))
    coarse, spacing = normalized_frame(movie, 0, target_um=(0.5, 0.1, 0.1))
    assert coarse.shape == (12, 96, 96) and spacing == pytest.approx((0.5, 0.1, 0.1))
    assert background_spread(coarse)[1] == pytest.approx(1, abs=0.1)


def test_a_frame_of_one_value_is_empty_and_does_not_end_the_movie(picture):
    movie = Movie.from_array(np.stack([picture, np.full_like(picture, 7)]), spacing_um=SPACING)
    for target in (None, (0.5, 0.1, 0.1)):
        with pytest.warns(UserWarning, match="frame 1: 7"):
            empty, spacing = encoder_frame(movie, 1, target_um=target)
        there, same = encoder_frame(movie, 0, target_um=target)
        assert empty.shape == there.shape and spacing == same and empty.dtype == np.float32 and not empty.any()


@pytest.mark.parametrize("bad", [np.full((9, 64, 64), 3.0), np.full((9, 64, 64), np.nan), np.zeros((64, 64)),
                                 np.where(np.arange(9 * 4096).reshape(9, 64, 64) == 5, np.inf, 1.0)])
def test_bad_volumes(bad, picture):
    for use in (lambda: normalize(bad, fit_noise(picture), SPACING), lambda: histogram_normalize(bad)):
        with pytest.raises(InputError):
            use()


def test_eight_bits_and_voxels_of_a_micrometre_are_normalised():
    """Over half of the voxels may have one grey value; a window of under a voxel would follow the noise."""
    volume = puncta((12, 64, 64), background=100, n=12)
    few = np.clip(np.round((volume - np.median(volume) - 8) / 40) + 5, 5, 255).astype(np.uint8)
    assert np.mean(few == 5) > 0.5
    y = normalize(few, NoiseModel(1 / 40, 0.1, 5, "known"), SPACING)
    assert np.isfinite(y).all() and np.median(y) == 0 and y.max() > 1
    coarse = normalize(volume, fit_noise(volume), (2.0, 1.0, 1.0))
    assert coarse.std() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_percentiles_are_numpys(dtype):
    rng = np.random.default_rng(0)
    q = [0, 0.02, 1, 37.3, 50, 99, 99.9, 99.98, 100]
    flat = rng.gamma(2, 20, 400_003).astype(dtype)
    ties = np.where(rng.random(flat.shape) < 0.7, 3, flat).astype(dtype)
    for volume in (flat, ties, np.sort(flat), flat[:1], flat[:2], np.full(200_000, 7, dtype)):
        assert np.array_equal(percentiles(volume, q), np.percentile(volume, q))
    assert percentiles(flat, 99.9) == np.percentile(flat, [99.9])[0] and percentiles(flat, 99.9).shape == ()
    assert percentiles([flat, ties], 99.9) == np.percentile(np.concatenate([flat, ties]), [99.9])[0]


def test_a_sample_that_misleads_costs_time_not_truth():
    """The sample takes every 5th value: here it sees only the zeros, and the counts prove its bracket wrong."""
    volume = np.arange(5 * SAMPLE, dtype=np.int32)
    volume[::5] = 0
    assert order_statistics(volume, [3 * SAMPLE]) == [np.sort(volume)[3 * SAMPLE]]


def test_limits_are_imagejs_and_pool_a_movie():
    """The limits are those of ImageJ's rule on a full histogram; those of the movie are the same for every frame."""
    frames = [puncta(seed=s) + np.uint16(40 * s) for s in range(3)]
    for volume in (frames[0], np.concatenate(frames)):
        counts, k = np.bincount(volume.ravel(), minlength=65536), volume.size // 5000
        low, high = np.argmax(np.cumsum(counts) > k), 65535 - np.argmax(np.cumsum(counts[::-1]) > k)
        assert stretch_limits(volume) == (low, high)
    limits = stretch_limits(frames)
    assert limits == stretch_limits(np.concatenate(frames))
    assert limits == movie_limits(Movie.from_array(np.stack(frames), spacing_um=SPACING))
    a, b = (histogram_normalize(f, limits=limits).astype(float) for f in frames[:2])
    assert np.median(b) - np.median(a) == pytest.approx(40 / (limits[1] - limits[0]), abs=0.01)
    alone = [np.median(histogram_normalize(f)) for f in frames[:2]]  # negative control: frame by frame it is lost
    assert abs(alone[1] - alone[0]) < 0.3 * (np.median(b) - np.median(a))


def test_odd_numbers_have_a_defined_outcome():
    """P6."""
    for bad in (np.full((3, 4, 5), np.nan), np.zeros((3, 4, 5)), np.zeros((0, 4, 5))):
        with pytest.raises(InputError):
            stretch_limits(bad)
    for bad, q in ((np.array([1.0, np.nan]), 50), (np.empty(0), 50), (np.ones(3), 101), (np.ones(3), np.nan)):
        with pytest.raises(InputError):
            percentiles(bad, q)
    with pytest.raises(InputError):
        histogram_normalize(np.arange(8.0).reshape(2, 2, 2), limits=(3, 3))
    assert histogram_normalize(np.arange(2.0).reshape(2, 1, 1)).ravel().tolist() == [0, 1]
    assert not histogram_normalize(np.zeros((2, 3, 4)), limits=(0, 9)).any()


def test_background_goes_and_puncta_stay():
    """Negative control: a plain median over the frame leaves the slope in."""
    flat, steep = (puncta(gradient=g, n=25) for g in (0.0, 1.5))
    ours = subtract_background(steep, SPACING)
    ends = [ours[..., s].mean() for s in (slice(0, 20), slice(-20, None))]
    plain = [(steep - np.median(steep))[..., s].mean() for s in (slice(0, 20), slice(-20, None))]
    assert abs(ends[0] - ends[1]) < 4 and abs(plain[0] - plain[1]) > 80
    tops = [np.percentile(subtract_background(v, SPACING), 99.9) for v in (flat, steep)]
    assert tops[1] == pytest.approx(tops[0], rel=0.1) and abs(np.median(ours)) < 1
    assert not subtract_background(np.full((3, 4, 5), 7), SPACING).any()  # P6
    for bad in ((np.full((3, 4, 5), np.nan), SPACING), (flat, (0, 1, 1)), (flat[0], SPACING)):
        with pytest.raises(InputError):
            subtract_background(*bad)


RNG = np.random.default_rng(0)
ODD = {"zeros": np.zeros((6, 20, 20)), "constant": np.full((6, 20, 20), 9, np.uint16), "one voxel": np.ones((1, 1, 1)),
       "nan": np.full((6, 20, 20), np.nan), "one plane": RNG.poisson(100, (1, 64, 64)).astype(np.uint16),
       "tiny": RNG.poisson(100, (2, 3, 4)).astype(np.uint16), "two voxels": np.arange(2.0).reshape(1, 1, 2),
       "mask": RNG.random((6, 64, 64)) > 0.5, "below zero": RNG.integers(-100, 100, (6, 64, 64)).astype(np.int8)}
WAYS = {"fit_noise": fit_noise, "histogram_normalize": histogram_normalize, "stretch_limits": stretch_limits,
        "normalize": lambda v: normalize(v, NoiseModel(1.0, 0.0, 100.0, "given"), SPACING),
        "subtract_background": lambda v: subtract_background(v, SPACING), "median": lambda v: percentiles(v, 50)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("way", WAYS)
def test_every_odd_volume_ends_in_numbers_or_in_one_message(way, odd):
    """P6."""
    try:
        out = WAYS[way](ODD[odd])
    except InputError:
        assert odd not in ("one plane", "below zero")
    else:
        assert odd != "nan" and (isinstance(out, NoiseModel) or np.isfinite(out).all())


def test_refining_the_background_takes_its_noise_away_and_leaves_curves_and_edges():
    """Negative control: smoothing once flattens what curves and blurs edges."""
    z, y, x = np.indices((24, 96, 96)) - np.array([12, 48, 48])[:, None, None, None]
    ground = 10 * np.exp(-((z / 20) ** 2 + (y / 30) ** 2 + (x / 30) ** 2))
    half, valid = [3.6, 8, 8], np.ones(ground.shape, bool)
    noisy = (ground + np.random.default_rng(0).normal(size=ground.shape)).astype(np.float32)
    medians = find_background(noisy, half)
    refined = refine_background(noisy, medians, half, valid)
    errors = [np.std((a - ground)[4:-4, 12:-12, 12:-12]) for a in (medians, refined, smoothed(noisy, half, valid))]
    assert errors[1] < 0.7 * errors[0] and errors[1] < 0.7 * errors[2]
    step = np.where(x > 0, 12, 0).astype(np.float32)
    sharp = refine_background(step + noisy - ground, find_background(step + noisy - ground, half), half, valid)
    beside = [40, 43, 53, 56]
    assert np.abs(sharp - step)[..., beside].mean() < 0.4
    assert np.abs(smoothed(step, half, valid) - step)[..., beside].mean() > 0.7


def test_an_encoder_sees_the_level_of_the_background():
    volume = puncta((16, 64, 96), n=8, gradient=0, background=30)
    volume[..., 48:] += np.random.default_rng(0).poisson(120, volume[..., 48:].shape).astype(volume.dtype)
    movie, noise = Movie.from_array(volume[None], spacing_um=SPACING), fit_noise(volume)
    (seen, _), (plain, _) = encoder_frame(movie, 0, noise), normalized_frame(movie, 0, noise)
    rest, ground = separate(volume, noise, SPACING)
    np.testing.assert_array_equal(plain, rest)
    np.testing.assert_allclose(seen, rest + LEVEL * ground, atol=1e-5)
    np.testing.assert_array_equal(seen, normalize(volume, noise, SPACING, level=LEVEL))
    left, right = seen[..., :40].mean(), seen[..., 56:].mean()
    assert right - left > 0.4 > 0.2 > abs(plain[..., 56:].mean() - plain[..., :40].mean())  # negative control: plain
    _, other = separate(2 * volume + 50, fit_noise(2 * volume + 50), SPACING)  # units do not matter
    assert np.abs(other - ground).max() < 0.1 * ground.max()
