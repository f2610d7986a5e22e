"""The joint fit against scipy's least squares on the same voxels."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from cellfm_nb.seeds import rng
from cellfm_nb.segment.fit import joint_fit, render, start_blobs

SPACING, PSF = np.array([0.25, 0.1, 0.1]), np.array([0.33, 0.13, 0.13])


def test_two_touching_blobs_fit_as_least_squares_does():
    true = start_blobs(np.array([[6.2, 12.3, 11.8], [6.0, 12.5, 15.4]]), np.array([14.0, 9.0]), 0.006)
    volume = render(true, (13, 25, 28), SPACING, PSF) + rng(0, "fit").normal(size=(13, 25, 28)).astype(np.float32)
    fitted = joint_fit(volume, start_blobs(true.position + 0.4, np.array([10.0, 10.0]), 0.004), SPACING, PSF, sweeps=30)
    lateral = 0.3 * PSF[-1] ** 2

    def rest(p):
        p = p.reshape(2, 5)
        blobs = start_blobs(p[:, 1:4], p[:, 0], p[:, 4] * lateral)
        light = render(blobs, volume.shape, SPACING, PSF).astype(float)
        return np.append((volume - light).ravel(), p[:, 4] - 1)               # the prior of a blob's own size

    begin = np.column_stack([fitted.amplitude, fitted.position, fitted.extra / lateral]).ravel()
    best = least_squares(rest, begin, diff_step=1e-3, max_nfev=20).x.reshape(2, 5)
    assert fitted.amplitude == pytest.approx(best[:, 0], rel=0.02)
    np.testing.assert_allclose(fitted.position, best[:, 1:4], atol=0.03)
    assert fitted.extra / lateral == pytest.approx(best[:, 4], abs=0.1)


def test_no_blob_is_placed_outside_the_volume():
    beyond = start_blobs(np.array([[-1.4, 12.0, 12.0], [6.0, 26.3, 12.0]]), np.array([30.0, 30.0]), 0.006)
    volume = render(beyond, (13, 25, 25), SPACING, PSF)
    near = start_blobs(np.array([[0.0, 12.0, 12.0], [6.0, 24.0, 12.0]]), np.array([10.0, 10.0]), 0.006)
    place = joint_fit(volume, near, SPACING, PSF, sweeps=12).position
    assert (place >= -0.5).all() and (place <= np.array(volume.shape) - 0.5).all()
    np.testing.assert_allclose(place, [[-0.5, 12.0, 12.0], [6.0, 24.5, 12.0]], atol=0.05)   # as far as they may go
