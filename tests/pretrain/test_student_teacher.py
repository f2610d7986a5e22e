"""Teacher and student, schedules, parameter groups, heads (L7, T1, T3 of the reference)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.encoder import EncoderConfig, blob_filters, filter_size
from cellfm_nb.errors import InputError
from cellfm_nb.pretrain import PretrainSettings, StudentTeacher
from cellfm_nb.pretrain.heads import DenoiseHead, PrototypeHead
from cellfm_nb.pretrain.losses import entropy_ratio, sinkhorn
from cellfm_nb.pretrain.ranks import standardise
from cellfm_nb.pretrain.schedules import at, parameter_groups
from cellfm_nb.seeds import torch_rng

S = PretrainSettings(steps=40, prototypes=16, hidden=32, bottleneck=8)


def model(**changes):
    return StudentTeacher(EncoderConfig(width=32, depth=2, heads=2, registers=1), replace(S, **changes), seed=0)


def test_teacher_starts_as_a_copy_and_gets_no_gradient():  # L7
    m = model()
    for t, s in zip(m.teacher.parameters(), m.student.parameters(), strict=True):
        assert torch.equal(t, s) and not t.requires_grad and t.data_ptr() != s.data_ptr()
    assert not m.train().teacher.training


def test_teacher_follows():  # L7
    m = model()
    with torch.no_grad():
        for p in m.student.parameters():
            p.add_(1.0)
    before = [p.clone() for p in m.teacher.parameters()]
    m.follow(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, m.teacher.parameters(), strict=True))
    m.follow(0.75)
    for old, new, s in zip(before, m.teacher.parameters(), m.student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * s)
    m.follow(0.0)
    assert all(torch.equal(a, b) for a, b in zip(m.teacher.parameters(), m.student.parameters(), strict=True))


def test_schedules():  # T1
    s = replace(S, steps=100, warmup=0.1, ema=0.99, teacher_temp_start=0.02, teacher_temp=0.04, freeze_last=0.05)
    now = [at(step, s) for step in range(100)]
    lr = np.array([n.lr for n in now])
    assert lr[9] == pytest.approx(s.lr) and lr[-1] == pytest.approx(s.min_lr)
    assert (np.diff(lr[:10]) > 0).all() and (np.diff(lr[10:]) < 0).all()
    assert abs(np.diff(lr)).max() <= 0.1 * s.lr + 1e-12  # no jump where the warm-up ends
    assert now[0].ema == pytest.approx(0.99) and now[-1].ema == pytest.approx(1.0)
    assert now[0].teacher_temp == pytest.approx(0.02) and now[50].teacher_temp == pytest.approx(0.04)
    assert [n.last_frozen for n in now].count(True) == 5


@pytest.mark.parametrize("stem", ["dog", "patch"])
def test_every_tensor_once_and_no_decay_on_vectors(stem):  # T3
    m = StudentTeacher(EncoderConfig(width=32, depth=2, heads=2, registers=3, stem=stem), S, seed=0)
    groups = parameter_groups(m)
    names = [name for g in groups for name in g["names"]]
    assert sorted(names) == sorted(n for n, p in m.named_parameters() if p.requires_grad)
    assert len({id(p) for g in groups for p in g["params"]}) == len(names)
    free = next(g for g in groups if not g["decay"])["names"]
    for word in ("bias", "norm", "gamma", "cls_token", "register_tokens", "mask_token"):
        assert [n for n in names if word in n] and all(n in free for n in names if word in n), word
    assert "student.encoder.blocks.0.mlp.fc1.weight" not in free
    assert not any(name.startswith("teacher") for name in names)


def test_layer_decay_acts_by_depth():  # T3
    m = StudentTeacher(EncoderConfig(width=32, depth=3, heads=2, registers=1, position="learned"), S, seed=0)
    scale = {name: g["scale"] for g in parameter_groups(m, filter_lr=0.5, layer_decay=0.9) for name in g["names"]}
    for name, power in {"encoder.blocks.2.mlp.fc1.weight": 1, "encoder.blocks.0.norm1.bias": 3, "encoder.cls_token": 4,
                        "encoder.stem.embed.weight": 4, "encoder.position.code": 4, "encoder.norm.weight": 0,
                        "cls_head.prototypes": 0}.items():
        assert scale[f"student.{name}"] == pytest.approx(0.9**power), name
    for name in ("x", "mix.weight", "mix.bias"):
        assert scale[f"student.encoder.stem.filters.{name}"] == pytest.approx(0.5 * 0.9**4)
    assert scale["denoise_head.fc.weight"] == 1
    # the original looked for names that begin with "backbone": none do, and nothing decayed
    assert not any(name.startswith("backbone") for name in scale)


def test_head_gives_cosines_of_a_standardised_batch():
    head = PrototypeHead(32, 16, 32, 8, torch_rng(0, "head"))
    x = torch.randn(3, 5, 32, generator=torch_rng(0, "x"))
    out = head(x)
    assert out.shape == (3, 5, 16) and out.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(head(10 * x + 3), out, atol=1e-4, rtol=1e-4)
    rows = standardise(x.flatten(0, 1))
    assert rows.mean(0).abs().max() < 1e-6 and (rows.std(0, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("patch", [(4, 8, 8), (8, 8, 8), (2, 7, 7), (14, 14, 6)])
def test_denoising_cells_stand_in_token_order(patch):
    head = DenoiseHead(32, patch, (0.25, 0.1, 0.1), torch_rng(0, "head"))
    x = torch.randn(2, 1, *(2 * p for p in patch), generator=torch_rng(0, "x"))
    cells = head.cells(x)
    assert cells.shape == head.target(x).shape == (2, 8, head.fc.out_features)
    last = x[1, 0, patch[0]:, patch[1]:, patch[2]:]
    assert cells[1, 7].mean() == pytest.approx(last.mean().item(), abs=1e-5)
    first = last[:head.pool[0], :head.pool[1], :head.pool[2]]
    assert cells[1, 7, 0] == pytest.approx(first.mean().item(), abs=1e-5)


def test_denoising_targets_ignore_the_background_and_see_a_spot():
    head = DenoiseHead(32, (4, 8, 8), (0.25, 0.1, 0.1), torch_rng(0, "head"))
    x = torch.zeros(1, 1, 16, 32, 32)
    x[0, 0, 6, 12, 20] = 30.0
    target, lifted = head.target(x), head.target(x + 5)
    assert target[0].abs().sum(-1).argmax() == 1 * 16 + 1 * 4 + 2  # token (1, 1, 2)
    inner = torch.zeros(4, 4, 4, dtype=torch.bool)
    inner[1:3, 1:3, 1:3] = True
    torch.testing.assert_close(target[0, inner.flatten()], lifted[0, inner.flatten()], atol=1e-4, rtol=0)


def test_centring_moves_with_the_teacher():
    m = model(centring="centre")
    z = torch.randn(50, 16, generator=torch_rng(0, "z")) + 5 * torch.eye(16)[3]
    first = m.targets(z, "patch", 0.1)
    for _ in range(60):
        last = m.targets(z, "patch", 0.1)
    torch.testing.assert_close(m.patch_centre, z.mean(0), atol=0.02, rtol=0.02)
    assert last.mean(0)[3] < first.mean(0)[3] and (m.cls_centre == 0).all()


def test_a_small_batch_has_vague_targets_whatever_is_in_it():
    """Sinkhorn, run to its end, gives no row more than n / K of a prototype: its entropy is at least log(K / n)."""
    z, bound = torch.randn(100, 4, 64, generator=torch_rng(0, "small")), np.log(64 / 4) / np.log(64)  # K = 64, n = 4
    assert all(entropy_ratio(sinkhorn(rows, 0.02, iterations=100)) > bound - 1e-6 for rows in z)
    assert entropy_ratio(sinkhorn(z, 0.02)) < bound / 2  # 400 rows can be sure


@pytest.mark.parametrize("bad", [{"centring": "none"}, {"redundancy": -0.1},
                                 {"steps": 0}, {"local_shape": (32, 16, 16)}, {"noise": (0, 1)}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError):
        PretrainSettings(**bad)


def test_settings_from_a_profile():
    class Profile:
        steps, lr, width = 7, 0.1, 128

    assert PretrainSettings.of(Profile(), lr=None, batch=2) == PretrainSettings(steps=7, lr=0.1, batch=2)


def test_denoising_target_is_the_filtered_volume_averaged_over_cells():
    head = DenoiseHead(8, (4, 8, 8), (0.25, 0.1, 0.1), torch_rng(0, "head"))
    x = torch.randn(2, 1, 8, 16, 16, generator=torch_rng(0, "x"))
    blob = blob_filters(1, filter_size((0.25, 0.1, 0.1)), (0.25, 0.1, 0.1), sigmas_um=(0.12, 0.25))
    one_by_one = F.conv3d(x, blob, padding=[k // 2 for k in blob.shape[2:]])
    torch.testing.assert_close(head.target(x), head.cells(one_by_one / 2), atol=1e-5, rtol=1e-5)
