"""Where views lie (N4, N5 of the reference): exact maps, controlled overlap, and no turn that turns the PSF."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from cellfm_nb.augment import Placement, place_crops, place_views, shared_fraction
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import torch_rng

VOLUME, BIG, SMALL = (24, 64, 64), (16, 32, 32), (8, 16, 16)
SCALE = (0.8, 1.25)


def placed(batch=4, seed=0, scale=None, least=0.25, n_local=3):
    return place_views(batch, VOLUME, BIG, SMALL, n_local, least, torch_rng(seed, "place"), scale=scale)


def numbered(batch=1, shape=VOLUME):
    """Volumes whose voxels are their own index."""
    return torch.arange(float(np.prod(shape)), dtype=torch.float64).view(1, 1, *shape).expand(batch, 1, *shape)


def grid(shape):
    """Every voxel of a view: (n, 3)."""
    return torch.cartesian_prod(*(torch.arange(float(n), dtype=torch.float64) for n in shape))


def test_every_voxel_of_a_view_is_found_in_the_volume():  # N5
    for at in placed():
        view = at.cut(numbered(4)).flatten(2)  # (V, B, n)
        where = at.to_volume(grid(at.shape))  # (V, B, n, 3)
        assert torch.equal(where, where.round()) and torch.equal(at.to_view(where), grid(at.shape).expand_as(where))
        z, y, x = where.unbind(-1)
        assert torch.equal(view, (z * 64 + y) * 64 + x)


def test_a_voxel_of_one_view_is_found_in_another():  # N5
    big, small = placed(seed=2)
    shown, other = big.cut(numbered(4)), small.cut(numbered(4))
    there = small.to_view(big.to_volume(grid(BIG))[:1])[1]  # view 0 of the big ones in view 1 of the small
    inside = ((there >= 0) & (there < torch.tensor(SMALL))).all(-1)
    assert inside.any(1).all()
    for b in range(4):
        z, y, x = there[b, inside[b]].long().unbind(-1)
        assert torch.equal(other[1, b, 0, z, y, x], shown[0, b, 0].flatten()[inside[b]])


def test_scaled_views_map_too():  # N5; oracle: scipy
    volume = torch.rand(2, 1, *VOLUME, generator=torch_rng(0, "v"), dtype=torch.float64)
    for at in placed(2, scale=SCALE):
        where = at.to_volume(grid(at.shape))
        assert torch.allclose(at.to_view(where), grid(at.shape).expand_as(where), atol=1e-10)
        view = at.cut(volume).flatten(2)
        for v, b in itertools.product(range(len(view)), range(2)):
            want = ndimage.map_coordinates(volume[b, 0].numpy(), where[v, b].T.numpy(), order=1, mode="nearest")
            assert np.allclose(view[v, b], want, atol=1e-6)
        low, high = at.starts, at.starts + at.extents
        assert (low >= 0).all() and (high <= torch.tensor(VOLUME) + 1e-9).all()
        assert (at.scales[..., 0] == 1).all() and torch.equal(at.scales[..., 1], at.scales[..., 2])
        assert at.scales[..., 1].std() > 0.03


def test_half_precision_volumes_are_read_between_voxels_as_precisely():
    volume = torch.rand(2, 1, *VOLUME, generator=torch_rng(0, "v"))
    big, _ = placed(2, scale=SCALE)
    assert big.cut(volume.half()).dtype == torch.float16
    assert (big.cut(volume.half()).float() - big.cut(volume)).abs().max() < 2e-3


def test_labels_keep_their_values_under_any_scale():
    labels = torch.randint(0, 7, (2, 2, *VOLUME), generator=torch_rng(0, "l"))
    big, _ = placed(2, scale=SCALE)
    view = big.cut(labels)
    assert view.dtype == labels.dtype and view.shape == (2, 2, 2, *BIG) and set(view.unique().tolist()) <= set(range(7))


@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize("least", [0.1, 0.4, 1.0])
def test_views_overlap_by_at_least_the_set_share(least, scale):  # N5
    for seed in range(10):
        big, small = placed(8, seed, scale, least)
        assert (shared_fraction(big, 0, big, 1) >= least - 1e-6).all()
        for i, j in itertools.product(range(2), range(3)):
            assert (shared_fraction(big, i, small, j) >= least - 1e-6).all()


def test_negative_control_centroids_of_independent_clusters_need_not_overlap():
    """The original's views: boxes at the centroids of a clustering, which lie where the others do not."""
    g = torch_rng(0, "independent")
    starts = torch.stack([torch.randint(0, c - v + 1, (2, 400), generator=g)
                          for c, v in zip(VOLUME, BIG, strict=True)], dim=-1)
    at = place_crops(starts, BIG)
    assert (shared_fraction(at, 0, at, 1) < 0.25).float().mean() > 0.3


def bead(shape=(17, 17, 17), sigma=(3.0, 1.2, 1.2)):
    away = sum((torch.arange(float(n)) - n // 2).view([-1 if a == i else 1 for a in range(3)]) ** 2 / 2 / s**2
               for i, (n, s) in enumerate(zip(shape, sigma, strict=True)))
    return torch.exp(-away)[None, None]


def test_flips_and_turns_keep_the_point_spread_function():  # N4
    start = torch.zeros(1, 1, 3, dtype=torch.long)
    for *flips, swap in itertools.product([False, True], repeat=4):
        at = Placement(start, (17, 17, 17), torch.tensor([[flips]]), torch.tensor([[swap]]))
        assert torch.allclose(at.cut(bead())[0], bead())


def test_negative_control_a_turn_between_z_and_y_changes_it():
    """The seed's rotation: 90 degrees in the z-y plane lays the long axis of the PSF down."""
    turned = torch.rot90(bead(), 1, (2, 3))
    assert (turned - bead()).abs().max() > 0.5
    assert turned[0, 0, 8, 3, 8] > 10 * bead()[0, 0, 8, 3, 8]


def test_only_squares_turn_and_turns_have_order_four():  # N4
    big, _ = place_views(50, VOLUME, (16, 32, 24), SMALL, 0, 0.25, torch_rng(0, "p"))
    assert not big.swaps.any()
    quarter = Placement(torch.zeros(1, 1, 3, dtype=torch.long), SMALL, torch.tensor([[[False, True, False]]]),
                        torch.tensor([[True]]))
    x = once = torch.randn(1, 1, *SMALL, generator=torch_rng(0, "x"))
    for _ in range(4):
        once = quarter.cut(once)[0]
    assert torch.equal(once, x) and not torch.equal(quarter.cut(x)[0], x)


def test_channels_stay_together():
    pair = torch.cat([numbered(3), -numbered(3)], 1)
    big, _ = placed(3)
    view = big.cut(pair)
    assert view.shape == (2, 3, 2, *BIG) and torch.equal(view[:, :, 0], -view[:, :, 1])


@pytest.mark.parametrize("scale", [None, (0.8, 1.2)])
def test_a_view_may_have_a_volume_of_its_own(scale):
    volumes = torch.randn(2, 3, 1, 12, 24, 24, generator=torch_rng(0, "volumes"))
    at, _ = place_views(3, (12, 24, 24), (8, 16, 16), (4, 8, 8), 0, 0.5, torch_rng(1, "place"), scale=scale)
    views = at.cut(volumes)
    for i in range(2):
        assert torch.equal(views[i], at.cut(volumes[i])[i])
    assert not torch.equal(views[1], at.cut(volumes[0])[1])


def test_more_views_than_two_all_overlap():
    big, _ = place_views(20, VOLUME, BIG, SMALL, 0, 0.3, torch_rng(0, "p"), n_global=4, scale=SCALE)
    for i, j in itertools.combinations(range(4), 2):
        assert (shared_fraction(big, i, big, j) >= 0.3 - 1e-6).all()


def test_bad_input():
    for shape, scale in (((25, 32, 32), None), ((16, 60, 60), SCALE)):
        with pytest.raises(InputError, match="larger than the volume"):
            place_views(1, VOLUME, shape, SMALL, 0, 0.3, torch_rng(0, "p"), scale=scale)
    for least, scale in ((0, None), (0.3, (1.2, 0.8))):
        with pytest.raises(InputError, match="placed so"):
            place_views(1, VOLUME, BIG, SMALL, 0, least, torch_rng(0, "p"), scale=scale)
