"""Views of one crop: where they lie, how they are turned, what noise does (N3-N5 of the reference)."""

import itertools
from dataclasses import replace

import pytest
import torch

from cellfm_nb.errors import InputError
from cellfm_nb.pretrain import PretrainSettings, make_views, shared_fraction
from cellfm_nb.pretrain.views import Placement, change_contrast, place_views, recorrupt
from cellfm_nb.seeds import torch_rng

S = PretrainSettings(n_local=4)
PLAIN = replace(S, brightness=(1, 1), gamma=(1, 1))


def crops(batch=6, shape=(24, 64, 64)):
    return torch.randn(batch, 1, *shape, generator=torch_rng(0, "crops"))


def numbered(shape=(24, 64, 64)):
    """A crop whose voxels are their own index."""
    return torch.arange(float(torch.tensor(shape).prod()), dtype=torch.float64).view(1, 1, *shape)


@pytest.mark.parametrize("least", [0.1, 0.25, 0.6])
def test_compared_views_overlap_by_at_least_the_set_share(least):  # N5
    s = replace(S, min_overlap=least)
    for step in range(30):
        g, n = place_views(5, (24, 64, 64), s, torch_rng(0, "place", step))
        assert (shared_fraction(g, 0, g, 1) >= least).all()
        for i, j in itertools.product(range(2), range(s.n_local)):
            assert (shared_fraction(g, i, n, j) >= least).all()
        for at in (g, n):
            stop = at.starts + torch.tensor(at.shape)
            assert (at.starts >= 0).all() and (stop <= torch.tensor([24, 64, 64])).all()


def test_negative_control_independent_boxes_need_not_overlap():
    """The original's views: centroids of independent clusters, usually disjoint."""
    g = torch_rng(0, "independent")
    starts = torch.stack([torch.randint(0, c - v + 1, (2, 400), generator=g)
                          for c, v in zip((24, 64, 64), S.global_shape, strict=True)], dim=-1)
    none = torch.zeros(2, 400, 3, dtype=torch.bool)
    independent = Placement(starts, S.global_shape, none, none[..., 0])
    assert (shared_fraction(independent, 0, independent, 1) < S.min_overlap).float().mean() > 0.3


def test_views_do_move():
    g, n = place_views(200, (24, 64, 64), S, torch_rng(0, "place"))
    assert shared_fraction(g, 0, g, 1).std() > 0.05
    assert set(g.starts[..., 0].flatten().tolist()) == set(range(9))


def test_reported_boxes_map_every_voxel_back():  # N5
    g, _ = place_views(1, (24, 64, 64), S, torch_rng(3, "place"))
    view = g.cut(numbered())  # (2, 1, 1, z, y, x)
    z, y, x = g.indices()
    want = (z * 64 + y) * 64 + x
    assert torch.equal(view[:, :, 0].long(), want.expand_as(view[:, :, 0]))


def test_turns_and_flips_keep_the_voxels_and_never_mix_z():  # N4
    g, _ = place_views(40, (24, 64, 64), S, torch_rng(0, "place"))
    views = g.cut(numbered().expand(40, -1, -1, -1, -1))
    seen = set()
    for b in range(40):
        start, stop = g.starts[0, b], g.starts[0, b] + torch.tensor(g.shape)
        box = numbered()[0, 0, start[0]:stop[0], start[1]:stop[1], start[2]:stop[2]]
        view = views[0, b, 0]
        assert torch.equal(view.flatten().sort().values, box.flatten().sort().values)
        planes = (view // (64 * 64)).flatten(1)  # the crop's z of each voxel, by the view's z
        assert (planes == planes[:, :1]).all()
        seen.add((g.flips[0, b].tolist()[1], g.flips[0, b].tolist()[2], bool(g.swaps[0, b])))
    assert len(seen) == 8  # four turns, mirrored or not


def test_flip_twice_and_turn_four_times_is_nothing():  # N4
    start = torch.zeros(1, 1, 3, dtype=torch.long)
    x = torch.randn(1, 1, 8, 16, 16, generator=torch_rng(0, "x"))

    def apply(x, flips, swap):
        return Placement(start, (8, 16, 16), torch.tensor([[flips]]), torch.tensor([[swap]])).cut(x)[0]

    for flips in itertools.product([False, True], repeat=3):
        assert torch.equal(apply(apply(x, flips, False), flips, False), x)
    once = apply(x, (False, True, False), True)  # a quarter turn
    assert not torch.equal(once, x)
    assert torch.equal(apply(apply(apply(once, *QUARTER), *QUARTER), *QUARTER), x)


QUARTER = ((False, True, False), True)


def test_added_noise_has_the_effect_asked_for():  # N3
    y = crops()[None]
    noisy, _ = recorrupt(y, (0.5, 0.5), torch_rng(0, "noise"))
    assert (noisy - y).std() == pytest.approx(0.5, rel=0.02)


def test_negative_control_noise_on_raw_counts_has_none():
    """The original: sigma 0.1 on 16-bit counts, then min-max to [0, 1]."""
    raw = 100 + 400 * torch.rand(20_000, generator=torch_rng(0, "raw"))
    noisy = raw + 0.1 * torch.randn(20_000, generator=torch_rng(0, "noise"))
    scale = lambda v: (v - v.min()) / (v.max() - v.min())  # noqa: E731
    assert (scale(noisy) - scale(raw)).std() < 0.05 * 0.1


def test_the_two_noisy_copies_are_independent():
    noise = crops(12)[None]  # an image of noise alone
    a, b = recorrupt(noise, (0.5, 0.6), torch_rng(1, "noise"))
    assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.005
    assert abs(torch.corrcoef(torch.stack([a.flatten(), noise.flatten()]))[0, 1]) > 0.8  # the plain pair is not


def test_contrast_keeps_order_and_sign():
    y = torch.linspace(-5, 20, 400).view(1, 1, 1, 1, 1, 400)
    out = change_contrast(y, S, torch_rng(0, "contrast")).flatten()
    assert (out.diff() > 0).all() and out.abs().max() < 60
    assert torch.allclose(change_contrast(y, PLAIN, torch_rng(0, "contrast")), y, atol=1e-5)


def test_same_generator_same_views():  # N6
    a, b = (make_views(crops(), S, torch_rng(5, "views", 1)) for _ in range(2))
    assert torch.equal(a.globals, b.globals) and torch.equal(a.locals, b.locals)
    assert a.globals.shape == (2, 6, 1, 16, 32, 32) and a.locals.shape == (4, 6, 1, 8, 16, 16)


def test_crops_smaller_than_a_view_are_refused():
    with pytest.raises(InputError, match="smaller than a global view"):
        make_views(crops(shape=(12, 64, 64)), S, torch_rng(0, "views"))
