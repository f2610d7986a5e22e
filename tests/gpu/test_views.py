"""Views made on a GPU: the geometry of the CPU, noise of their own, keyed in the same way (N3, N6 of the reference)."""

import pytest
import torch

from cellfm_nb.augment import blur, change_contrast, place_views
from cellfm_nb.pretrain import PretrainSettings, make_views
from cellfm_nb.seeds import torch_rng

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
S = PretrainSettings(n_local=4, noise=(0.5, 0.5), brightness=(1, 1), gamma=(1, 1))


def crops(batch=4, shape=(24, 64, 64)):
    return torch.randn(batch, 1, *shape, generator=torch_rng(0, "crops"))


def keys(batch=4):
    return [torch_rng(5, "views", i) for i in range(batch)]


def test_what_is_drawn_once_per_view_is_the_cpu_s():  # N6
    def seen(x, generator):
        big, _ = place_views(len(x), x.shape[2:], (8, 16, 16), (4, 8, 8), 0, 0.5, generator, scale=(0.8, 1.25))
        out = blur(big.cut(x), (0.0, 0.1), (0.25, 0.1, 0.1), generator)
        return change_contrast(out, (0.8, 1.25), (0.8, 1.2), generator)

    here, there = seen(crops(), torch_rng(1, "all")), seen(crops().cuda(), torch_rng(1, "all"))
    assert there.is_cuda and (here - there.cpu()).abs().max() < 1e-5 * here.abs().max()


def test_noise_is_made_there_with_the_strength_asked_for():  # N3
    views = make_views(crops().cuda(), S, keys())
    assert views.globals.is_cuda and views.locals.is_cuda and views.targets.is_cuda
    here = make_views(crops(), S, keys())
    assert torch.equal(views.at_global.starts, here.at_global.starts)
    assert (views.globals - views.at_global.cut(crops().cuda())).std().item() == pytest.approx(0.5, rel=0.02)
    assert abs((views.globals * views.targets).mean().item()) < 0.02
    flat = views.globals.flatten(2)[:, :, :1000] - here.globals.flatten(2)[:, :, :1000].cuda()
    assert flat.std() > 0.3  # other numbers than the CPU's, of the same law


def test_a_sample_has_its_own_noise_whatever_stands_beside_it():  # N6
    whole, again = (make_views(crops().cuda(), S, keys()) for _ in range(2))
    alone = make_views(crops()[2:3].cuda(), S, keys()[2:3])
    assert torch.equal(whole.globals, again.globals) and torch.equal(whole.globals[:, 2:3], alone.globals)
