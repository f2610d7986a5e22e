"""What the twin is compared by is right where it is known, sees a wrong twin, and makes a scene like a given one."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellfm_nb.errors import InputError
from cellfm_nb.manifest import locate
from cellfm_nb.simulate import (
    Camera,
    Scene,
    SceneConfig,
    camera_from_stack,
    compare_with_real,
    gaussian_psf,
    measured_psf,
    portrait,
    scene_like,
)

SPACING = (0.16, 0.1, 0.1)
SIGMA = (0.3, 0.13, 0.13)
PSF, CAMERA = gaussian_psf(SIGMA), Camera(offset=100, gain=2.0, read_noise=1.5, background=20.0)
GIVEN = SceneConfig(shape=(1, 64, 150, 150), spacing_um=SPACING, n_puncta=80, envelope="box", snr=25.0,
                    radius_um=(0.1, 0.1), brightness_spread=0.4)


def taken(config, seed=0, psf=PSF):
    return Scene(config, psf, CAMERA, seed).render(0)[0]


@pytest.fixture(scope="module")
def given():
    return portrait(taken(GIVEN), SPACING, SIGMA)


def test_a_portrait_finds_what_was_put_in(given):
    assert given.background == pytest.approx(100 + 2 * 20, rel=0.05)
    assert given.noise_variance == pytest.approx(2**2 * (20 + 1.5**2), rel=0.15)  # of the dimmer half
    room = 8.74 * 14 * 14  # um^3: the field without the walls' margins
    assert len(given.puncta) / given.volume_um3 == pytest.approx(80 / room, rel=0.1)
    for axis, sigma, voxel in zip("zyx", SIGMA, SPACING, strict=True):
        width = np.sqrt(sigma**2 + 0.1**2 + voxel**2 / 12)
        assert given.puncta[f"width_{axis}"].median() == pytest.approx(width, rel=0.04)
    assert given.puncta["peak"].median() == pytest.approx(2 * 25 * np.sqrt(20 + 1.5**2), rel=0.1)


def test_a_good_twin_is_near_and_a_wrong_one_is_far(given):
    def distances(config, psf=PSF):
        table = compare_with_real(portrait(taken(config, 1, psf), SPACING, SIGMA), given, SPACING, SIGMA)
        return table.set_index("measure")["distance"].abs()

    twin = distances(GIVEN)
    assert (twin[["width_z", "width_y", "width_x", "background", "dark", "power spectrum"]] < 0.1).all()
    assert (twin[["peak", "puncta", "noise variance"]] < 0.25).all()
    wide = distances(GIVEN, gaussian_psf((0.3, 0.2, 0.2)))
    assert wide["width_x"] > 0.2 and wide["width_z"] < 0.1
    assert distances(SceneConfig(**vars(GIVEN) | {"snr": 12.0}))["peak"] > 0.4
    assert distances(SceneConfig(**vars(GIVEN) | {"n_puncta": 30}))["puncta"] > 1
    assert distances(SceneConfig(**vars(GIVEN) | {"background_photons": 60.0}))["noise variance"] > 1


def test_a_scene_is_made_like_a_volume(given):
    config = scene_like(given, (64, 150, 150), SPACING, PSF, CAMERA, envelope="box")
    assert config.n_puncta == pytest.approx(80, rel=0.15) and config.snr == pytest.approx(25, rel=0.15)
    assert config.brightness_spread == pytest.approx(0.4, rel=0.25) and config.background_photons == 20
    assert 0.06 < config.radius_um[0] <= config.radius_um[1] < 0.15


def test_what_deskewing_filled_is_left_out(given):
    volume = taken(GIVEN).astype(np.float32)
    filled = np.pad(volume, ((0, 0), (0, 0), (0, 150)), constant_values=103.0)
    again = portrait(filled, SPACING, SIGMA)
    assert again.volume_um3 == pytest.approx(given.volume_um3, rel=0.04)  # one rim less
    assert again.background == pytest.approx(given.background, rel=0.01)
    assert len(again.puncta) == pytest.approx(len(given.puncta), rel=0.05)


def test_the_twin_stands_beside_the_real_stack():
    files = locate("llsm_pycudadecon")
    if files is None:
        pytest.skip("llsm_pycudadecon is not on this machine: cellfm data fetch llsm_pycudadecon")
    spacing = (0.3 * np.sin(np.radians(31.5)), 0.1, 0.1)
    psf = measured_psf(tifffile.imread(files["psf.tif"]), (0.1, 0.101, 0.101))
    camera = camera_from_stack(tifffile.imread(files["im_raw.tif"]))
    real = tifffile.imread(files["im_deskewed.tif"])[20:64, 60:190, 190:320]
    config = scene_like(real, real.shape, spacing, psf, camera, envelope="box", scan_angle_deg=31.5)
    scene = Scene(config, psf, camera)
    raw = scene.render(0)[0].astype(np.float32)
    matrix, offset = np.array([[1, 0, 0], [0, 1, 0], [-scene.scan.shift_px, 0, 1]]), (0, 0, scene.scan.first_px)
    twin = ndimage.affine_transform(raw, matrix, offset, real.shape, order=1)  # deskewed, as the real one is
    far = compare_with_real(twin, real, spacing, psf.sigma_um).set_index("measure")["distance"].abs()
    assert (far[["width_z", "width_y", "width_x"]] < 0.15).all() and far["peak"] < 0.4
    assert far["background"] < 0.2 and far["puncta"] < 1.2


@pytest.mark.parametrize("call", [
    lambda: portrait(np.zeros((9, 9)), SPACING, SIGMA), lambda: portrait(np.zeros((4, 9, 9)), SPACING, SIGMA),
    lambda: portrait(np.full((9, 9, 9), np.nan), SPACING, SIGMA), lambda: portrait(np.ones((9, 9, 9)), SPACING, SIGMA),
    lambda: portrait(np.zeros((9, 9, 9)), (0, 1, 1), SIGMA),
    lambda: scene_like(taken(SceneConfig(**vars(GIVEN) | {"n_puncta": 2})), (64, 150, 150), SPACING, PSF, CAMERA)])
def test_what_cannot_be_compared_is_refused(call):
    with pytest.raises(InputError):
        call()
