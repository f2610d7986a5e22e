"""Views of a training batch: how placement and grey values are put together (N3-N6 of the reference).

The geometry and the noise themselves are tested in tests/augment.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from cellfm_nb.augment import place_crops
from cellfm_nb.errors import InputError
from cellfm_nb.pretrain import PretrainSettings, make_views, shared_fraction
from cellfm_nb.pretrain.crops import neighbours
from cellfm_nb.pretrain.views import noisy, place_views
from cellfm_nb.seeds import torch_rng

S = PretrainSettings(n_local=4)
CROP = (24, 64, 64)


def crops(batch=6, shape=CROP):
    return torch.randn(batch, 1, *shape, generator=torch_rng(0, "crops"))


@pytest.mark.parametrize("least", [0.1, 0.25, 0.6])
def test_compared_views_overlap_by_at_least_the_set_share(least):  # N5
    s = replace(S, min_overlap=least)
    for step in range(30):
        g, n = place_views(5, CROP, s, torch_rng(0, "place", step))
        assert (shared_fraction(g, 0, g, 1) >= least).all()
        for i, j in itertools.product(range(2), range(s.n_local)):
            assert (shared_fraction(g, i, n, j) >= least).all()
        for at in (g, n):
            stop = at.starts + torch.tensor(at.shape)
            assert (at.starts >= 0).all() and (stop <= torch.tensor(CROP)).all()


def test_views_do_move():
    g, _ = place_views(200, CROP, S, torch_rng(0, "place"))
    assert shared_fraction(g, 0, g, 1).std() > 0.05
    assert set(g.starts[..., 0].flatten().tolist()) == set(range(9))


def test_turns_never_mix_z():  # N4
    numbered = torch.arange(24.0).view(1, 1, 24, 1, 1).expand(40, 1, *CROP)  # voxels that are their own z
    g, _ = place_views(40, CROP, S, torch_rng(0, "place"))
    planes = g.cut(numbered).flatten(4)
    assert (planes == planes[..., :1]).all()
    seen = {(*g.flips[0, b].tolist()[1:], bool(g.swaps[0, b])) for b in range(40)}
    assert len(seen) == 8  # four turns, mirrored or not


def test_added_noise_has_the_effect_asked_for():  # N3
    s = replace(S, brightness=(1, 1), gamma=(1, 1), noise=(0.5, 0.5))
    views = make_views(crops(), s, torch_rng(5, "views", 1))
    assert (views.globals - views.at_global.cut(crops())).std() == pytest.approx(0.5, rel=0.02)


def test_same_generator_same_views():  # N6
    a, b = (make_views(crops(), S, torch_rng(5, "views", 1)) for _ in range(2))
    assert torch.equal(a.globals, b.globals) and torch.equal(a.locals, b.locals)
    assert a.globals.shape == (2, 6, 1, 16, 32, 32) and a.locals.shape == (4, 6, 1, 8, 16, 16)


def test_a_seed_gives_the_views_it_always_gave():
    """Recorded once: a training run that was killed goes on with the same views after an update."""
    v = make_views(crops(3), S, torch_rng(5, "views", 1))
    assert v.at_global.starts.tolist() == [[[2, 25, 26], [8, 22, 20], [3, 20, 16]], [[4, 14, 22], [3, 21, 10],
                                                                                       [5, 21, 22]]]
    assert v.at_local.starts[:, 0].tolist() == [[12, 31, 24], [10, 29, 25], [10, 21, 21], [6, 23, 39]]
    assert v.at_global.swaps.tolist() == [[False, True, True], [True, False, True]]
    assert float(v.globals.double().sum()) == pytest.approx(-184.70757, abs=0.01)
    assert float(v.targets.double().abs().sum()) == pytest.approx(158788.525, abs=0.1)


def test_a_sample_has_its_own_draws_whatever_stands_beside_it():  # N6
    s = replace(S, scale=(0.9, 1.2), pairs="noise")
    for how in (S, s):
        keys = [torch_rng(5, "views", 1, i) for i in range(6)]
        whole = make_views(crops(), how, keys)
        for first, stop in ((0, 1), (1, 6)):
            part = make_views(crops()[first:stop], how, [torch_rng(5, "views", 1, i) for i in range(first, stop)])
            for name in ("globals", "locals", "targets"):
                assert torch.equal(getattr(part, name), getattr(whole, name)[:, first:stop])


def test_stretched_views_overlap_and_stay_inside():  # N5
    s = replace(S, scale=(0.8, 1.5))
    g, n = place_views(200, CROP, s, torch_rng(0, "place"))
    drawn = g.scales[..., 1:]
    assert 0.8 <= drawn.min() < 0.85 < 1.4 < drawn.max() <= 1.5 and (g.scales[..., 0] == 1).all()
    assert (shared_fraction(g, 0, g, 1) >= 0.25 - 1e-9).all() and (shared_fraction(g, 1, n, 3) >= 0.25 - 1e-9).all()
    assert (g.starts >= 0).all() and (g.starts + g.extents <= torch.tensor(CROP) + 1e-9).all()
    views = make_views(crops(), s, torch_rng(5, "views", 1))
    assert views.globals.shape == (2, 6, 1, 16, 32, 32) and views.at_global.scales is not None
    with pytest.raises(InputError, match="smaller than a global view"):
        make_views(crops(shape=(24, 40, 40)), s, torch_rng(0, "views"))


def covariance(a, b):
    """The mean product of two pictures of nothing but noise."""
    return float((a * b).mean())


def test_the_two_copies_of_a_stretched_view_share_no_noise():  # N3
    s = replace(S, scale=(1.4, 1.4))
    at, _ = place_views(6, CROP, s, torch_rng(0, "place"))
    seen, target = noisy(at, crops(), s, torch_rng(1, "noise"))
    assert abs(covariance(seen, target)) < 0.02
    late = at.cut(crops())  # control: noise added after the cut, as strong as that of the crop was before
    n = torch.randn(late.shape, generator=torch_rng(2, "noise"))
    assert covariance(late + 0.5 * n, late - n / 0.5) < -0.3


@pytest.mark.parametrize(("pairs", "shared"), [("same", 1.0), ("noise", 0.0)])
def test_views_of_one_place_share_the_noise_of_the_picture_or_none(pairs, shared):
    s = replace(S, pairs=pairs, global_shape=CROP, brightness=(1, 1), gamma=(1, 1))
    v = make_views(crops(), s, torch_rng(5, "views"))
    z, y, x = v.at_global.indices()
    back = torch.zeros(2, 6, *CROP)  # both views laid back over the crop they were cut from
    for i, b in itertools.product(range(2), range(6)):
        back[i, b][z[i, b], y[i, b], x[i, b]] = v.globals[i, b, 0]
    assert covariance(back[0], back[1]) == pytest.approx(shared, abs=0.02)
    assert covariance(v.globals, v.targets) == pytest.approx(0, abs=0.02)  # and the two copies share none in either


def test_view_i_shows_picture_i_of_its_place():
    movie = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 30, 70, 70).numpy()  # voxels that are their own frame
    pairs = torch.from_numpy(neighbours(movie, [(0, 1, 2, 3), (3, 6, 6, 6)], CROP))
    assert pairs.shape == (2, 2, *CROP)
    s = replace(S, pairs="next", brightness=(1, 1), gamma=(1, 1), noise=(1e-3, 1e-3))
    v = make_views(pairs, s, torch_rng(5, "views"))
    assert v.globals.mean(dim=(2, 3, 4, 5)).round().tolist() == [[0, 3], [1, 4]]
    assert v.locals.mean(dim=(2, 3, 4, 5)).round().tolist() == [[0, 3], [1, 4], [0, 3], [1, 4]]
    same = make_views(pairs, replace(s, pairs="same"), torch_rng(5, "views"))
    assert same.globals.mean(dim=(2, 3, 4, 5)).round().tolist() == [[0, 3], [0, 3]]
    with pytest.raises(InputError, match="one picture"):
        make_views(pairs[:, :1], s, torch_rng(5, "views"))
    with pytest.raises(InputError, match="beyond the movie"):
        neighbours(movie, [(4, 0, 0, 0)], CROP)


def test_a_view_of_a_given_place_holds_the_voxels_of_that_place():
    at = place_crops(torch.tensor([[[2, 3, 4]] * 6]), (16, 32, 32))
    seen, _ = noisy(at, crops(), replace(S, noise=(1e-6, 1e-6)), torch_rng(1, "noise"))
    torch.testing.assert_close(seen[0], crops()[:, :, 2:18, 3:35, 4:36], atol=1e-4, rtol=0)


def test_crops_smaller_than_a_view_are_refused():
    with pytest.raises(InputError, match="smaller than a global view"):
        make_views(crops(shape=(12, 64, 64)), S, torch_rng(0, "views"))
