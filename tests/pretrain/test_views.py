"""Views of a training batch: how placement and grey values are put together (N3-N6 of the reference).

The geometry and the noise themselves are tested in tests/augment.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from cellfm_nb.errors import InputError
from cellfm_nb.pretrain import PretrainSettings, make_views, shared_fraction
from cellfm_nb.pretrain.views import place_views
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


def test_crops_smaller_than_a_view_are_refused():
    with pytest.raises(InputError, match="smaller than a global view"):
        make_views(crops(shape=(12, 64, 64)), S, torch_rng(0, "views"))
