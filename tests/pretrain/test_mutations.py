"""The original's training mistakes, put back one at a time: the very test that guards against each must then fail.

The tests named here pass as they stand (they are collected in their own files); what is shown is that they can fail.
"""

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn

from cellfm_nb.bench import ssl_variants as mistakes
from cellfm_nb.encoder import Encoder
from cellfm_nb.encoder.vit import Tokens
from cellfm_nb.pretrain import PretrainSettings, losses, make_masks, schedules, student_teacher, views
from cellfm_nb.pretrain.crops import Crops
from cellfm_nb.pretrain.health import masked_spread
from cellfm_nb.pretrain.trainer import Trainer
from cellfm_nb.seeds import rng, torch_rng

from . import test_losses, test_student_teacher, test_views
from .test_engine import CONFIG, spots

QUIET = PretrainSettings(batch=4, noise=(1e-3, 1e-3), brightness=(1, 1), gamma=(1, 1), n_local=3,
                         global_shape=(8, 16, 16), local_shape=(4, 8, 8), prototypes=32)


@contextmanager
def as_it_is():
    yield


class Names(nn.Module):
    """An encoder that says which sample a view is of: each sample is a constant, its number."""

    def forward(self, x, mask=None, saliency=True):
        who = x.mean(dim=(1, 2, 3, 4)).round().long()
        cls = 50.0 * F.one_hot(who, CONFIG.width)
        grid = tuple(-(-n // p) for n, p in zip(x.shape[2:], CONFIG.patch, strict=True))
        return Tokens(cls, cls[:, None].expand(-1, int(np.prod(grid)), -1), cls, grid)


def cls_loss():
    """Return the DINO loss of a whole step whose CLS tokens name their samples."""
    crops = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 12, 24, 24)
    trainer = Trainer(Crops(crops.contiguous()), CONFIG, QUIET, 0, "cpu")
    model = trainer.model
    for network in (model.student, model.teacher):
        network.encoder, network.cls_head = Names(), nn.Identity()
    model.targets = lambda logits, kind, temperature: logits.softmax(-1)
    masks = make_masks(8, trainer.grid, QUIET.mask_ratio, QUIET.mask_share, rng(0, "masks"))
    return float(trainer.losses(trainer.views(0, range(4)), masks, 0.04)[0]["dino"])


@pytest.mark.parametrize(("world", "right"), [(as_it_is, True), (mistakes.mispaired, False)])
def test_a_step_compares_views_of_one_sample_alone(world, right):  # L3, in the trainer
    with world():
        assert (cls_loss() < 1e-3) == right
        for batch, n_local in ((2, 0), (4, 3)):
            test = test_losses.test_every_pair_is_two_views_of_one_sample
            passes(lambda test=test, b=batch, n=n_local: test(b, n), right, dino_loss=losses.dino_loss)


def passes(test, right, **names):
    """Run a test, with some names of test_losses replaced; it must pass or fail as told."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setattr(test_losses, name, value)
        if right:
            test()
        else:
            with pytest.raises(AssertionError):
                test()


@pytest.mark.parametrize("on_logits", [False, True])
def test_koleo_spreads_what_the_backbone_says_and_leaves_the_heads_alone(on_logits, monkeypatch):  # L5, in the trainer
    trainer = Trainer(Crops(spots()), CONFIG, QUIET, 0, "cpu")
    real, head = losses.koleo_loss, trainer.model.student.cls_head
    if on_logits:
        monkeypatch.setattr(losses, "koleo_loss", lambda cls: real(head(cls)))
    masks = make_masks(8, trainer.grid, QUIET.mask_ratio, QUIET.mask_share, rng(0, "masks"))
    trainer.losses(trainer.views(0, range(4)), masks, 0.04)[0]["koleo"].backward()
    touched = [p for p in head.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert bool(touched) == on_logits
    assert trainer.model.student.encoder.cls_token.grad.abs().max() > 0


def test_a_teacher_that_is_not_its_student_is_noticed(monkeypatch):  # L7
    def another(student):
        return student_teacher.Network(Encoder(student.encoder.config, seed=1), test_student_teacher.S, 1)

    monkeypatch.setattr(student_teacher, "copy", SimpleNamespace(deepcopy=another))
    with pytest.raises(AssertionError):
        test_student_teacher.test_teacher_starts_as_a_copy_and_gets_no_gradient()


def test_a_layer_decay_that_looks_for_other_names_is_noticed(monkeypatch):  # T3
    monkeypatch.setattr(schedules, "layers_above", lambda name, depth: depth if name.startswith("backbone") else 0)
    with pytest.raises(AssertionError):
        test_student_teacher.test_layer_decay_acts_by_depth()


ALONE = """
import sys
from datetime import timedelta
import torch.distributed as dist
from cellfm_nb.pretrain import losses, pretrain, ranks
from tests.pretrain.test_engine import CONFIG, S, spots
rank, folder, right = int(sys.argv[1]), sys.argv[2], losses.denoise_loss
dist.init_process_group("gloo", f"file://{folder}/meet", timeout=timedelta(seconds=60), rank=rank, world_size=2)
losses.denoise_loss = lambda *a: right(*a) * (float("nan") if rank else 1)
ranks.mean_over_ranks = lambda values, device: values  # each rank judges by its own loss
ranks.average_gradients = lambda parameters: None  # and sees no other's gradients, which would stop it too
try:
    pretrain(spots(), CONFIG, S, seed=1)
except FloatingPointError:
    print("stopped", flush=True)
"""


def test_a_rank_that_stops_alone_is_noticed(tmp_path):  # T7
    ranks = [subprocess.Popen([sys.executable, "-c", ALONE, str(rank), str(tmp_path)], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for rank in range(2)]
    assert ["stopped" in process.communicate(timeout=100)[0] for process in ranks] == [False, True]


@pytest.mark.parametrize(("world", "differ"), [(as_it_is, True), (mistakes.hidden_alike, False)])
def test_hidden_tokens_differ_from_one_another(world, differ):
    with world():
        encoder = Encoder(replace(CONFIG, stem="patch"), seed=0)
    x, mask = torch.randn(2, 1, 16, 32, 32, generator=torch_rng(0, "x")), torch.zeros(2, 64, dtype=torch.bool)
    mask[:, 10:30] = True
    with torch.no_grad():
        assert (masked_spread(encoder(x, mask).patches, mask) > 1e-3) == differ


def test_noise_that_a_later_normalisation_scales_away_is_noticed(monkeypatch):  # N3
    real, counts_per_noise = views.recorrupt, 100.0
    monkeypatch.setattr(views, "recorrupt", lambda v, *rest: tuple(
        copy / counts_per_noise for copy in real(v * counts_per_noise, *rest)))
    with pytest.raises(AssertionError):
        test_views.test_added_noise_has_the_effect_asked_for()


def test_a_sinkhorn_that_overflows_is_noticed():
    logits = test_losses.logits(40)
    assert torch.isfinite(losses.sinkhorn(100 * logits, 0.04)).all()
    with mistakes.plain_exponential():
        assert not torch.isfinite(student_teacher.sinkhorn(100 * logits, 0.04)).all()
        torch.testing.assert_close(student_teacher.sinkhorn(logits, 0.1), losses.sinkhorn(logits, 0.1))  # where it fits
