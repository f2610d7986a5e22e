"""Puncta are drawn where they are, with all their light; a measured PSF keeps its width and loses its background."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import gaussian_psf, measured_psf

SPACING = (0.25, 0.1, 0.1)


def integrated_gaussian(shape, centre_px, sigma_um, spacing_um):
    """The exact integral of a Gaussian over voxels: the oracle for `render`."""
    axes = []
    for n, c, s, h in zip(shape, centre_px, sigma_um, spacing_um, strict=True):
        edges = (np.arange(n + 1) - 0.5 - c) * h / (s * np.sqrt(2))
        axes.append(np.diff(0.5 * (1 + erf(edges))))
    return np.einsum("i,j,k->ijk", *axes)


def bead(centre, sigma_px, shape=(41, 41, 41), background=140.0, light=2e5, noise=10.0):
    image = light * integrated_gaussian(shape, centre, sigma_px, (1, 1, 1)) + background
    return image + noise * rng(0, "test", "bead").standard_normal(shape)


def centroid(volume):
    return np.array([(volume.sum(tuple(b for b in range(3) if b != a)) * np.arange(volume.shape[a])).sum()
                     for a in range(3)]) / volume.sum()


def skewed_psf():
    """A measured-like PSF that no Gaussian describes: a core and a weaker lobe to one side."""
    return measured_psf(bead((20.2, 19.7, 20.4), (3.0, 1.3, 1.3)) + bead((24, 21, 20), (4, 2, 2), light=3e4),
                        (0.1, 0.1, 0.1))


@pytest.mark.parametrize("make", [gaussian_psf, skewed_psf])
@pytest.mark.parametrize("radius", [0.0, 0.11])
def test_light_and_centroid_are_exact(make, radius):
    psf, draw = make(), rng(1, "test", "positions")
    for position in draw.uniform(12, 18, (5, 3)) + [0, 8, 8]:
        volume = psf.render((30, 46, 46), position[None], [500.0], radius, SPACING)
        assert volume.dtype == np.float32 and volume.min() >= 0
        assert volume.sum(dtype=float) == pytest.approx(500, rel=1e-4)
        assert np.abs(centroid(volume.astype(float)) - position).max() < 0.02


def test_rounding_to_voxels_would_fail_the_centroid_test():
    psf, position = gaussian_psf(), np.array([15.4, 22.6, 23.45])
    volume = psf.render((30, 46, 46), np.rint(position)[None], [1.0], 0.0, SPACING).astype(float)
    assert np.abs(centroid(volume) - position).max() > 0.02


def test_gaussian_psf_and_body_equal_the_voxel_integral():
    sigma, radius, centre = (0.35, 0.13, 0.13), 0.1, (14.3, 20.7, 20.2)
    drawn = gaussian_psf(sigma).render((30, 41, 41), [centre], [1.0], radius, SPACING)
    exact = integrated_gaussian((30, 41, 41), centre, np.sqrt(np.square(sigma) + radius**2), SPACING)
    assert np.abs(drawn - exact).max() < 2e-3 * exact.max()


def test_what_leaves_the_volume_is_cut_off_not_wrapped():
    volume = gaussian_psf().render((30, 46, 46), [[0, 0, 0]], [1.0], 0.0, SPACING)
    assert volume[:15, :23, :23].sum() == volume.sum() < 0.3
    assert volume[0, 0, 0] == volume.max()


def test_measured_psf_recovers_the_width_of_a_bead():
    sigma = (3.4, 1.3, 1.4)
    psf = measured_psf(bead((20.3, 19.6, 20.45), sigma), (0.1, 0.1, 0.1))
    # the bead was integrated over voxels, which adds 1/12 voxel^2 to its variance
    expected = 0.1 * np.sqrt(np.square(sigma) + 1 / 12)
    assert np.abs(np.array(psf.sigma_um) / expected - 1).max() < 0.02
    assert psf.kernel.sum() == pytest.approx(1, abs=1e-5) and psf.kernel.min() >= 0
    assert np.abs(centroid(psf.kernel.astype(float)) - np.array(psf.kernel.shape) // 2).max() < 0.02


def test_background_left_in_would_widen_the_kernel():
    clean = measured_psf(bead((20, 20, 20), (3, 1.3, 1.3), background=0), (0.1, 0.1, 0.1))
    lifted = measured_psf(bead((20, 20, 20), (3, 1.3, 1.3), background=500), (0.1, 0.1, 0.1))
    assert np.abs(clean.kernel - lifted.kernel).max() < 0.02 * clean.kernel.max()


@pytest.mark.parametrize("image", [
    np.zeros((9, 9)), np.zeros((9, 9, 9)), np.full((9, 9, 9), np.nan), np.zeros((2, 9, 9)),
    bead((2, 20, 20), (3.0, 1.3, 1.3)), rng(0, "flat").normal(100, 5, (20, 20, 20))])
def test_images_without_a_whole_bead_are_refused(image):
    with pytest.raises(InputError):
        measured_psf(image, (0.1, 0.1, 0.1))


@pytest.mark.parametrize("call", [
    lambda: gaussian_psf((0.3, 0.1, -0.1)), lambda: gaussian_psf((0.3, 0.1)),
    lambda: gaussian_psf(spacing_um=(1, 1, 1)),
    lambda: measured_psf(bead((20, 20, 20), (3, 1, 1)), (0.1, 0, 0.1)),
    lambda: gaussian_psf().render((9, 9, 9), [[4, 4, np.nan]], [1.0], 0, SPACING),
    lambda: gaussian_psf().render((9, 9, 9), [[4, 4, 4]], [-1.0], 0, SPACING),
    lambda: gaussian_psf().render((9, 9, 9), [[4, 4, 4]], [1.0], 0, (0.1, -0.1, 0.1))])
def test_bad_numbers_are_refused(call):
    with pytest.raises(InputError):
        call()
