"""The losses by hand, and the original's mistakes as controls (L1-L6 of the reference)."""

import math

import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.pretrain.losses import (
    cross_entropy,
    denoise_loss,
    dino_loss,
    entropy_ratio,
    ibot_loss,
    koleo_loss,
    sinkhorn,
    view_pairs,
)
from cellfm_nb.seeds import torch_rng

K = 16


def logits(*shape, seed=0):
    return torch.randn(*shape, K, generator=torch_rng(seed, "logits", *shape))


def test_no_gradient_where_student_equals_teacher():  # L1
    student = logits(5).requires_grad_()
    teacher = F.softmax(student.detach() / 0.1, dim=-1)
    cross_entropy(teacher, student, 0.1).sum().backward()
    assert student.grad.abs().max() < 1e-5


def test_cross_entropy_is_at_least_the_teachers_entropy():  # L2
    teacher = F.softmax(logits(50), dim=-1)
    entropy = -(teacher * teacher.log()).sum(-1)
    assert (cross_entropy(teacher, logits(50, seed=1), 0.1) > entropy).all()
    torch.testing.assert_close(cross_entropy(teacher, teacher.log() * 0.1, 0.1), entropy)
    even = torch.full((1, K), 1 / K)
    assert cross_entropy(even, torch.zeros(1, K), 0.1).item() == pytest.approx(math.log(K))
    assert entropy_ratio(even).item() == pytest.approx(1)


def ids(views, batch):
    """Logits that say which sample a row is: K = batch."""
    return torch.eye(batch).expand(views, batch, batch) * 1e3


@pytest.mark.parametrize(("batch", "n_local"), [(2, 0), (4, 3), (7, 8)])
def test_every_pair_is_two_views_of_one_sample(batch, n_local):  # L3
    teacher = torch.eye(batch).expand(2, batch, batch)
    assert dino_loss(teacher, ids(2 + n_local, batch), 0.1).item() == pytest.approx(0, abs=1e-5)
    assert all(i != j for i, j in view_pairs(2, 2 + n_local))
    assert len(view_pairs(2, 2 + n_local)) == 2 + 2 * n_local


def test_negative_control_sample_major_packing_pairs_different_samples():
    """The original: rows s0g0, s0g1, s1g0, ... chunked as if all g0 came first."""
    batch = 14
    packed = ids(2, batch).transpose(0, 1).reshape(2 * batch, batch)  # sample-major
    chunks = packed.view(2, batch, batch)  # read view-major
    teacher = torch.eye(batch).repeat_interleave(2, dim=0).view(2, batch, batch)
    pairs_right = (chunks[0].argmax(-1) == teacher[1].argmax(-1)).float().mean()
    assert pairs_right == 0
    assert dino_loss(teacher, chunks, 0.1) > 100


def test_sinkhorn_rows_are_distributions_and_prototypes_are_used_evenly():  # L4
    z = logits(400)
    q = sinkhorn(z, 0.1, iterations=30)
    torch.testing.assert_close(q.sum(-1), torch.ones(400))
    torch.testing.assert_close(q.mean(0), torch.full((K,), 1 / K), atol=5e-3, rtol=0)
    torch.testing.assert_close(sinkhorn(z + 7.0, 0.1), sinkhorn(z, 0.1), atol=1e-5, rtol=1e-4)


def test_sinkhorn_survives_large_logits_and_the_originals_exponential_does_not():
    z = 100 * logits(40)
    assert torch.isfinite(sinkhorn(z, 0.04)).all()
    assert not torch.isfinite(torch.exp(z / 0.04)).all()


def test_koleo_spreads():  # L5
    g = torch_rng(0, "koleo")
    close = torch.randn(1, 8, 32, generator=g) * 0.01 + 1
    apart = torch.randn(1, 8, 32, generator=g)
    assert koleo_loss(apart) < koleo_loss(close)
    order = torch.randperm(8, generator=g)
    torch.testing.assert_close(koleo_loss(apart[:, order]), koleo_loss(apart))
    assert torch.isfinite(koleo_loss(torch.ones(1, 4, 32)))
    assert koleo_loss(torch.ones(2, 1, 32)) == 0


def test_koleo_pushes_the_nearest_pair_apart():  # L5
    x = F.normalize(torch.tensor([[[1.0, 0.1, 0], [1, -0.1, 0], [-1, 0, 0.3]]]), dim=-1).requires_grad_()
    koleo_loss(x).backward()
    moved = (x - 0.01 * x.grad).detach()
    assert (moved[0, 0] - moved[0, 1]).norm() > (x[0, 0] - x[0, 1]).norm()


def test_koleo_treats_views_apart_and_the_originals_chunks_do_not():
    """Two views of a sample should be alike: spreading them works against DINO."""
    one = torch.randn(1, 6, 32, generator=torch_rng(0, "views"))
    views = torch.cat([one, one + 1e-3])
    assert koleo_loss(views) == pytest.approx(koleo_loss(one).item(), abs=0.01)
    together = views.transpose(0, 1).reshape(1, 12, 32)  # both views of a sample in one chunk
    assert koleo_loss(together) > koleo_loss(one) + 3


def test_ibot_touches_hidden_tokens_alone():  # L6
    student, mask = logits(2, 6).requires_grad_(), torch.zeros(2, 6, dtype=torch.bool)
    mask[0, :3], mask[1, 5] = True, True
    weights = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])
    teacher = F.softmax(logits(2, 6, seed=1), dim=-1)
    loss = ibot_loss(teacher[mask], student[mask], weights, 0.1)
    each = cross_entropy(teacher, student, 0.1)
    assert loss.item() == pytest.approx(((each[0, :3].mean() + each[1, 5]) / 2).item(), rel=1e-5)
    loss.backward()
    assert (student.grad[~mask] == 0).all() and (student.grad[mask] != 0).any()
    assert ibot_loss(teacher[:0, 0], student[:0, 0], weights[:0], 0.1) == 0


def test_denoising_is_robust_to_one_bright_voxel():
    prediction, target = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)
    target[0, 0, 0] = 1000
    assert denoise_loss(prediction, target) < F.mse_loss(prediction, target) / 100
