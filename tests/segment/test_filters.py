"""Matched filter, LoG (G2) and local background against direct computation and known answers."""

import numpy as np
import pytest
from scipy.ndimage import correlate1d, gaussian_filter

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.segment.filters import (
    ROWS,
    along,
    band_matrix,
    block_mean,
    expand_blocks,
    gaussian_kernel,
    local_background,
    log_response,
    matched_filter,
    smooth_background,
)


def ball(radius_um, spacing, n=41):
    """Return a solid ball, anti-aliased by sub-sampling each voxel three times an axis."""
    s = np.array(spacing)
    size = np.maximum((n * 0.1 / s).astype(int) | 1, 9)
    axes = [(np.arange(3 * m) - (3 * m - 1) / 2) / 3 * d for m, d in zip(size, s, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    inside = (z**2 + y**2 + x**2 <= radius_um**2).astype(np.float32)
    return inside.reshape(size[0], 3, size[1], 3, size[2], 3).mean((1, 3, 5))


def test_matched_filter_equals_direct_sums_even_at_the_border():
    v = rng(0, "mf").normal(size=(7, 9, 8)).astype(np.float32)
    spacing, sigma = (0.25, 0.1, 0.1), (0.3, 0.12, 0.12)
    z = matched_filter(v, spacing, sigma)
    for at in [(3, 4, 4), (0, 0, 0), (6, 0, 5)]:
        index = np.indices(v.shape)
        u = [(index[k] - at[k]) * spacing[k] / sigma[k] for k in range(3)]
        near = np.all([np.abs(index[k] - at[k]) <= np.ceil(3 * sigma[k] / spacing[k]) for k in range(3)], axis=0)
        g = np.exp(-0.5 * (u[0] ** 2 + u[1] ** 2 + u[2] ** 2)) * near
        assert z[at] == pytest.approx((v * g).sum() / np.sqrt((g**2).sum()), rel=1e-4, abs=1e-5)


def test_matched_filter_of_noise_has_variance_one_everywhere():
    z = np.stack([matched_filter(rng(k, "null").normal(size=(12, 20, 20)), (1, 1, 1), (1.2, 1.2, 1.2))
                  for k in range(60)])
    assert z[:, 4:-4, 4:-4, 4:-4].std() == pytest.approx(1, abs=0.05)
    assert z[:, 0].std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("spacing", [(0.1, 0.1, 0.1), (0.2, 0.1, 0.1)])
def test_log_peaks_at_the_centre_with_scale_r_over_root_three(spacing):
    radius = 0.8
    v = ball(radius, spacing)
    middle = tuple(n // 2 for n in v.shape)
    scales = radius / np.sqrt(3) * np.array([0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.6])
    answers = [log_response(v, spacing, s)[middle] for s in scales]
    assert abs(int(np.argmax(answers)) - 3) <= 1
    response = log_response(v, spacing, scales[3])
    assert np.unravel_index(response.argmax(), v.shape) == middle


def test_log_ignores_constants_and_ramps():
    z, y, x = np.indices((21, 31, 31)).astype(float)
    response = log_response(5 + 0.3 * z - 0.2 * y + 0.7 * x, (0.2, 0.1, 0.1), 0.25)
    assert np.abs(response[8:-8, 12:-12, 12:-12]).max() < 1e-3


def test_isotropic_sigma_in_anisotropic_voxels_is_wrong():
    v = ball(0.8, (0.2, 0.1, 0.1))
    middle = tuple(n // 2 for n in v.shape)
    right = log_response(v, (0.2, 0.1, 0.1), 0.46)[middle]
    wrong = log_response(v, (0.1, 0.1, 0.1), 0.46)[middle]   # the original's: one sigma in voxels for all axes
    assert right > 1.1 * wrong


def test_background_keeps_smooth_things_and_leaves_blobs():
    z, y, x = np.indices((20, 60, 60)).astype(np.float32)
    smooth = 3 + np.sin(x / 18) + 0.001 * (y - 30) ** 2
    v = smooth.copy()
    v[8:12, 28:32, 28:32] += 20
    weight = np.ones_like(v)
    weight[6:14, 25:35, 25:35] = 0
    background = local_background(v, weight, (0.25, 0.1, 0.1), (1.2, 0.6, 0.6))
    assert np.abs(background - smooth)[3:-3, 6:-6, 6:-6].max() < 0.15
    raised = local_background(v, np.ones_like(v), (0.25, 0.1, 0.1), (1.2, 0.6, 0.6))
    assert raised[10, 30, 30] - smooth[10, 30, 30] > 0.5     # unmasked, the blob lifts its own background


def test_block_means_and_back():
    v = rng(1, "block").normal(size=(7, 9, 10)).astype(np.float32)
    coarse = block_mean(v, np.array([2, 3, 4]))
    assert coarse.shape == (4, 3, 3)
    assert coarse[0, 0, 0] == pytest.approx(v[:2, :3, :4].mean(), rel=1e-5)
    assert coarse[3, 2, 2] == pytest.approx(v[6:, 6:, 8:].mean(), rel=1e-4)
    np.testing.assert_allclose(expand_blocks(np.full((4, 3, 3), 2.5), np.array([2, 3, 4]), v.shape), 2.5)


@pytest.mark.parametrize(("volume", "spacing", "word"), [
    (np.zeros((4, 4)), (1, 1, 1), "volume"), (np.full((4, 4, 4), np.nan), (1, 1, 1), "NaN"),
    (np.zeros((4, 4, 4)), (1, -1, 1), "spacing"), (np.zeros((4, 4, 4)), (1, 1), "spacing")])
def test_bad_input_is_said(volume, spacing, word):
    with pytest.raises(InputError, match=word):
        matched_filter(volume, spacing, (1, 1, 1))


@pytest.mark.parametrize("axis", range(3))
def test_a_band_by_blocks_equals_scipy(axis):
    shape = [5, 6, 7]
    shape[axis] = 2 * ROWS + 9                              # three blocks, the last one short
    v, kernel = rng(2, "band").normal(size=shape).astype(np.float32), gaussian_kernel(1.7)
    direct = correlate1d(v, kernel, axis, mode="constant")
    np.testing.assert_allclose(along(v, band_matrix(shape[axis], kernel), axis), direct, atol=2e-5)


def test_background_by_cosines_equals_passes_of_a_reflected_gaussian():
    v = rng(3, "cosines").normal(size=(16, 40, 44)).astype(np.float32) + np.linspace(0, 5, 44, dtype=np.float32)
    sigma, slow = np.array([2.0, 4.0, 4.0]), np.zeros_like(v)
    for _ in range(5):
        slow += gaussian_filter(v - slow, sigma, mode="reflect", truncate=6)
    assert np.abs(smooth_background(v, (1, 1, 1), sigma) - slow).max() < 0.02
