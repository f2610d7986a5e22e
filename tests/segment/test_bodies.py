"""Bodies larger than the PSF: balls at a neck (G4), many touching, contacts, scale, spacing, names."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cellfm_nb.errors import InputError
from cellfm_nb.score.instances import score_instances
from cellfm_nb.seeds import rng
from cellfm_nb.segment.bodies import contacts, find_foreground, larger_than_psf, segment_bodies

SPACING = np.array([0.6, 0.4, 0.4])


def balls(centres_um, radius_um, shape=(30, 60, 60), spacing=SPACING, seed=0, light=30.0, blur_um=0.4):
    """Return (counts, labels) of solid balls; a voxel belongs to the nearest centre."""
    grid = np.moveaxis(np.indices(shape), 0, -1) * spacing
    d = np.stack([np.linalg.norm(grid - c, axis=-1) for c in centres_um])
    labels = np.where(d.min(0) <= radius_um, d.argmin(0) + 1, 0).astype(np.uint32)
    clean = gaussian_filter(light * (labels > 0), blur_um / spacing)
    return 100 + 2 * rng(seed, "balls").poisson(clean + 5).astype(np.float32), labels


@pytest.mark.parametrize("times_radius", [0.0, 0.6, 1.2, 1.5, 2.0, 2.3])
def test_two_balls_are_two_from_a_distance_of_1p2_radii(times_radius):                # G4
    radius, middle, way = 5.0, np.array([10.5, 14.2, 14.2]), np.array([0.2, 0.5, 0.84])
    way /= np.linalg.norm(way)
    centres = [middle + s * way * radius * times_radius / 2 for s in (-1, 1)]
    volume, _ = balls(centres, radius, (36, 72, 72), blur_um=0.2)
    assert segment_bodies(volume, SPACING).max() == (2 if times_radius >= 1.2 else 1)


def cluster(seed, n=12, radius=3.0, apart=1.6):
    draw, centres = rng(seed, "cluster"), []
    while len(centres) < n:
        c = draw.uniform(radius, np.array([30, 60, 60]) * SPACING - radius)
        if all(np.linalg.norm(c - o) > apart * radius for o in centres):
            centres.append(c)
    return balls(centres, radius, seed=seed)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_touching_balls_are_parted(seed):
    volume, truth = cluster(seed)
    assert score_instances([(segment_bodies(volume, SPACING), truth)]).ap[0.5] > 0.7


def test_gain_offset_and_mirror_change_nothing_but_names():
    volume, _ = cluster(4)
    labels = segment_bodies(volume, SPACING)
    np.testing.assert_array_equal(segment_bodies(7 * volume - 300, SPACING) > 0, labels > 0)
    mirrored = segment_bodies(volume[::-1, :, ::-1], SPACING)[::-1, :, ::-1]
    assert score_instances([(mirrored, labels)], (0.9,)).ap[0.9] > 0.9


def test_contact_of_a_slanted_plane_is_its_area():
    shape, spacing = (20, 20, 20), np.array([0.5, 0.5, 0.5])
    z, y, x = np.indices(shape)
    region = np.where(x + y + z < 28, 1, 2)
    i, j, area, seam = contacts(region, np.ones(shape), spacing)
    faces = sum((np.diff(region, axis=a) != 0).sum() for a in range(3)) * 0.25
    assert (i[0], j[0], seam[0]) == (0, 1, 1.0)
    assert area[0] == pytest.approx(faces / np.sqrt(3), rel=0.01)


def test_radius_is_read_from_the_mask():
    volume, _ = balls([[8.7, 11.8, 11.8]], 5.0)
    seen = find_foreground(volume, SPACING)
    assert seen.radius_um == pytest.approx(5, rel=0.15)       # the root reaches a little further out


def test_blank_volumes_are_said():
    with pytest.raises(InputError, match="nothing to segment"):
        segment_bodies(np.ones((4, 5, 6)), (1, 1, 1))


def test_holes_and_texture_part_no_body():
    volume, truth = balls([[8.7, 11.8, 11.8]], 6.0, light=60.0)
    grain = gaussian_filter(rng(1, "grain").normal(size=volume.shape), 0.8 / SPACING)
    textured = 100 + (volume - 100) * np.exp(0.5 * grain / grain.std())
    textured[13:17, 28:33, 28:33] = 110                                               # as dark as around it
    labels = segment_bodies(textured, SPACING)
    assert labels.max() == 1 and labels[15, 30, 30] == 1
    assert score_instances([(labels, truth)]).matched_iou > 0.85


@pytest.mark.parametrize("shape, spacing, radius", [((30, 60, 60), SPACING, 3.0), ((24, 48, 48), (1, 1, 1), 6.0),
                                                    ((12, 64, 64), (1.5, 0.3, 0.3), 4.0)])
def test_bodies_are_larger_than_the_psf(shape, spacing, radius):
    size = (np.array(shape) - 1) * spacing
    centres = [size * [0.5, y, x] for y in (0.25, 0.75) for x in (0.25, 0.75)]
    counts, _ = balls(centres, radius, shape, np.array(spacing))
    assert larger_than_psf(counts, spacing, np.maximum((0.33, 0.13, 0.13), 0.9 * np.array(spacing)))


def test_a_tube_is_no_body():
    z, y, x = np.indices((24, 64, 64)) * np.array([0.25, 0.1, 0.1])[:, None, None, None]
    tube = gaussian_filter((np.hypot(z - 3, y - 3.2 - 0.8 * np.sin(x)) < 0.3).astype(float), (1.3, 1.3, 1.3))
    counts = rng(0, "tube").poisson(100 + 100 * tube)
    assert not larger_than_psf(counts, (0.25, 0.1, 0.1), (0.33, 0.13, 0.13))


def test_puncta_cells_of_puncta_noise_and_blank_frames_are_no_bodies(scene):
    true = scene.grid_positions()
    z, y, x = np.indices((24, 64, 64))
    cell = 12 * (np.hypot(np.hypot(y - 32, x - 32) / 26, (z - 12) / 11) < 1)
    for peak, haze in ((3, 0), (12, 0), (0, 0), (8, cell)):
        volume = scene(true, np.full(len(true), float(peak)), seed=peak)[0]
        assert not larger_than_psf(1000 + 20 * (volume + haze), scene.spacing_um, scene.sigma_um), (peak, haze)
    blank = np.zeros((8, 16, 16), np.float32)
    assert not larger_than_psf(blank, scene.spacing_um, scene.sigma_um)
