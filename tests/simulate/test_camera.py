"""The camera obeys its photon-transfer line, and its constants come back from a stack it took."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import Camera, camera_from_stack


def specimen(camera, level=12.0):
    """A stack of a smooth cell in the dark, taken by a camera."""
    z, y, x = np.mgrid[:12, :160, :160]
    inside = ((y - 80) / 55) ** 2 + ((x - 80) / 50) ** 2 < 1
    light = ndimage.gaussian_filter(inside * level * (1 + 0.8 * np.sin(x / 25) * np.sin(y / 31)), (0, 4, 4))
    return camera.expose(light, rng(5, "test", "specimen"))


def test_mean_and_variance_follow_the_line():
    camera = Camera(offset=100, gain=2.2, read_noise=1.4)
    for light in (0.0, 3.0, 40.0):
        counts = camera.expose(np.full((40, 100, 100), light), rng(0, "test", light)).astype(float)
        assert counts.mean() == pytest.approx(100 + 2.2 * light, abs=0.05)
        expected = 2.2**2 * (light + 1.4**2) + 1 / 12  # rounding to whole counts adds 1/12
        assert counts.var() == pytest.approx(expected, rel=0.02)


def test_counts_are_clipped_not_wrapped():
    camera = Camera(offset=2, gain=2, read_noise=3)
    dark = camera.expose(np.zeros((50, 50)), rng(0, "a"))
    assert dark.dtype == np.uint16 and dark.min() == 0 and dark.max() < 100
    assert (camera.expose(np.full((9, 9), 1e6), rng(0, "b")) == 65535).all()


@pytest.mark.parametrize("true", [Camera(98, 2.2, 1.5), Camera(200, 0.8, 2.5)])
def test_constants_are_recovered_from_a_stack(true):
    found = camera_from_stack(specimen(true, level=30 / true.gain))
    assert found.gain == pytest.approx(true.gain, rel=0.1)
    assert found.offset == pytest.approx(true.offset, abs=1.5)
    assert found.read_noise == pytest.approx(true.read_noise, abs=0.5)
    assert found.background == pytest.approx(30 / true.gain, rel=0.25)
    assert "gain and read noise measured" in found.source


def test_an_undetermined_line_falls_back_and_says_so():
    found = camera_from_stack(Camera(100, 3.0, 1.0).expose(np.zeros((8, 64, 64)), rng(0, "dark")))
    assert (found.gain, found.read_noise) == (Camera().gain, Camera().read_noise)
    assert found.offset == pytest.approx(100, abs=1.5) and "assumed" in found.source


@pytest.mark.parametrize("call", [
    lambda: Camera(gain=0), lambda: Camera(read_noise=-1), lambda: Camera(offset=float("nan")),
    lambda: Camera().expose(np.array([-1.0]), rng(0, "x")), lambda: Camera().expose(np.array([np.nan]), rng(0, "x")),
    lambda: camera_from_stack(np.zeros((64, 64))), lambda: camera_from_stack(np.zeros((3, 8, 8))),
    lambda: camera_from_stack(np.full((3, 64, 64), np.inf))])
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
