"""Voronoi against brute force, the joint metric, masks against truth, touching and extended objects (G3, G4)."""

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.instances import score_instances
from cellfm_nb.seeds import rng
from cellfm_nb.segment.blobs import detect
from cellfm_nb.segment.instances import FeatureGrid, alpha_by_density, largest_parts, ridges, segment_instances, voronoi


def segment(volume, scene, sigma=None):
    sigma = sigma or scene.sigma_um
    return segment_instances(volume, detect(volume, scene.spacing_um, sigma), scene.spacing_um, sigma)


def random_case(seed):
    draw = rng(seed, "voronoi")
    return draw.random((8, 12, 11)) < 0.5, draw.uniform(0, 7.9, (6, 3)), (0.25, 0.1, 0.1)


@pytest.mark.parametrize("seed", range(4))
def test_voronoi_equals_brute_force(seed):
    mask, seeds, spacing = random_case(seed)
    labels = voronoi(mask, seeds, spacing)
    d = (((np.argwhere(mask)[:, None] - seeds) * spacing) ** 2).sum(-1)
    np.testing.assert_array_equal(labels[mask], d.argmin(1) + 1)
    assert (labels > 0).sum() == mask.sum() and not labels[~mask].any()


def test_voronoi_in_voxels_would_be_wrong():
    mask, seeds, spacing = random_case(0)
    assert (voronoi(mask, seeds, spacing) != voronoi(mask, seeds, (1, 1, 1))).mean() > 0.02


def test_joint_metric_is_plain_voronoi_at_alpha_one_and_follows_features_below():
    mask = np.ones((4, 8, 16), bool)
    seeds = np.array([[1.5, 3.5, 3.0], [1.5, 3.5, 12.0]])
    values = np.zeros((1, 2, 4, 1), np.float32)
    values[:, :, 1:] = 1.0                                   # the border between objects lies at x = 4, not at 7.5
    features = FeatureGrid(values, (4, 4, 4))
    plain = voronoi(mask, seeds, (1, 1, 1))
    np.testing.assert_array_equal(voronoi(mask, seeds, (1, 1, 1), features, alpha=1.0), plain)
    joint = voronoi(mask, seeds, (1, 1, 1), features, alpha=0.3)
    assert (plain[..., 6] == 1).all() and (joint[..., 6] == 2).all() and (joint[..., 1] == 1).all()
    with pytest.raises(InputError, match="alpha"):
        voronoi(mask, seeds, (1, 1, 1), features, alpha=1.5)


def test_weight_of_space_follows_the_density_seed_by_seed():
    seeds = np.array([[0, 0, 0.0], [0, 0, 0.3], [0, 0, 9.0], [0, 0, 9.45]])
    alpha = alpha_by_density(seeds, 0.3)
    np.testing.assert_allclose(alpha, [0.3, 0.3, 0.55, 0.55])
    assert alpha_by_density(seeds[:1], 0.3).tolist() == [0.8]
    mask, at, spacing = random_case(1)
    features = FeatureGrid(rng(1, "features").random((2, 3, 3, 4)), (4, 4, 4))
    np.testing.assert_array_equal(voronoi(mask, at, spacing, features, np.full(6, 0.4)),
                                  voronoi(mask, at, spacing, features, 0.4))
    np.testing.assert_array_equal(voronoi(mask, at, spacing, features, np.ones(6)), voronoi(mask, at, spacing))


def test_names_of_seeds_do_not_matter():                                              # G3
    mask, seeds, spacing = random_case(2)
    order = rng(2, "order").permutation(6)
    features = FeatureGrid(rng(2, "features").random((2, 3, 3, 4)), (4, 4, 4))
    labels, again = (voronoi(mask, s, spacing, features, 0.5) for s in (seeds, seeds[order]))
    np.testing.assert_array_equal(np.append(0, np.argsort(order) + 1)[labels], again)


def test_feature_grid_is_sampled_at_voxel_centres():
    grid = FeatureGrid(np.arange(4, dtype=np.float32)[None, None, :, None], (4, 4, 4))
    at = grid.at(np.array([[0, 0, 1.5], [0, 0, 5.5], [0, 0, 3.5], [0, 0, 0]]))
    np.testing.assert_allclose(at[:, 0], [0, 1, 0.5, 0])     # token k is centred on voxel 4 k + 1.5


def test_masks_follow_the_truth(scene):
    true = scene.grid_positions()
    for own in (0.0, 0.1):
        volume, labels = scene(true, np.full(len(true), 12.0), own_um=own)
        score = score_instances([(segment(volume, scene), labels)])
        assert score.ap[0.5] > 0.85 and score.matched_iou > 0.72


def test_labels_name_their_spots_and_far_background_changes_nothing(scene):
    true = scene.grid_positions()
    volume, _ = scene(true, np.full(len(true), 12.0))
    spots = detect(volume, scene.spacing_um, scene.sigma_um)
    labels = segment_instances(volume, spots, scene.spacing_um, scene.sigma_um)
    assert labels.dtype == np.uint32 and set(np.unique(labels)) == set(range(len(spots) + 1))
    at = np.rint(spots[["z", "y", "x"]].to_numpy()).astype(int)
    np.testing.assert_array_equal(labels[tuple(at.T)], np.arange(1, len(spots) + 1))
    wider = np.pad(volume, ((0, 0), (0, 0), (0, 30)))
    again = segment_instances(wider, spots, scene.spacing_um, scene.sigma_um)
    assert (again[..., :64] == labels).mean() > 0.999 and not again[..., 64:].any()


def sphere_count(separation, radius=0.6):
    """Return how many instances two solid spheres of this radius (um), so far apart, give; truth is 2 (1 at 0)."""
    spacing = np.array([0.2, 0.1, 0.1])
    grid = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip((24, 48, 64), spacing, strict=True)),
                                indexing="ij"), -1)
    middle = np.array([2.3, 2.4, 3.2])
    shift = np.array([0, 0, separation / 2])
    inside = sum((((grid - middle - sign * shift) ** 2).sum(-1) <= radius**2) for sign in (-1, 1)) > 0
    volume = (20 * inside + rng(1, "spheres").normal(size=inside.shape)).astype(np.float32)
    sigma = tuple([radius / np.sqrt(5)] * 3)                 # the standard deviation of a ball along an axis
    spots = detect(volume, spacing, sigma)
    return len(np.unique(segment_instances(volume, spots, spacing, sigma))) - 1


def test_two_touching_spheres_are_two_and_one_is_one():
    assert sphere_count(0.0) == 1
    for times_radius in (2.0, 2.1, 2.4):
        assert sphere_count(times_radius * 0.6) == 2


def test_tubes_and_rings_keep_their_own_outline(scene):
    shape, spacing = (16, 96, 96), np.array(scene.spacing_um)
    z, y, x = (np.indices(shape) + 0.0) * spacing[:, None, None, None]
    along = np.sqrt((np.hypot(y - 4.7, x - 4.7) - 2.2) ** 2 + (z - 2.0) ** 2)
    ring = along < 0.3
    volume = (10 * np.exp(-0.5 * (along / 0.26) ** 2) + rng(2, "ring").normal(size=shape)).astype(np.float32)
    labels = segment(volume, scene)
    score = score_instances([(labels, ring.astype(np.uint32))])
    assert score.n_found <= 2 and score.matched_iou > 0.5
    spots = detect(volume, scene.spacing_um, scene.sigma_um)
    assert len(spots) > 5                                    # the spots alone would cut the ring into beads


def test_no_spots_no_labels(scene):
    empty = pd.DataFrame(columns=["z", "y", "x", "amplitude", "scale", "score"], dtype=float)
    assert not segment_instances(np.zeros((4, 8, 8), np.float32), empty, (1, 1, 1), (1, 1, 1)).any()


def test_saddle_between_two_basins():
    smooth = np.array([[[5.0, 4.0, 2.0, 3.0, 6.0]]])
    basin = np.array([[[1, 1, 1, 2, 2]]])
    i, j, level, neck = ridges(smooth, basin, np.array([0.2, 0.1, 0.5]))
    assert (i.tolist(), j.tolist(), level.tolist(), neck.tolist()) == ([1], [2], [2.0], [pytest.approx(0.02)])


def test_only_the_largest_part_is_kept():
    labels = np.array([[[1, 1, 0, 1, 0, 2]]], np.uint32)
    assert largest_parts(labels).tolist() == [[[1, 1, 0, 0, 0, 2]]]
