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


def test_puncta_in_a_cell_are_no_bodies_and_textured_bodies_are():
    volume, _ = cluster(5)
    labels, radius = segment_bodies(volume, SPACING), find_foreground(volume, SPACING).radius_um
    assert larger_than_psf(labels, radius, 12, (0.3, 0.13, 0.13))
    assert not larger_than_psf(labels, radius, 60, (0.3, 0.13, 0.13))                 # puncta within cells
    assert not larger_than_psf(labels, 0.4, 0, (0.3, 0.13, 0.13))                     # tubes
    assert not larger_than_psf(np.zeros_like(labels), 0.0, 0, (0.3, 0.13, 0.13))
