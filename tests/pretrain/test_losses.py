"""The losses by hand, and the original's mistakes as controls (L1-L6 of the reference)."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.pretrain.health import rankme
from cellfm_nb.pretrain.losses import (
    cross_entropy,
    denoise_loss,
    dino_loss,
    entropy_ratio,
    gram_loss,
    ibot_loss,
    koleo_loss,
    position_loss,
    redundancy_loss,
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


@pytest.mark.parametrize("stated", [1, 40, 1000])
def test_sinkhorn_is_the_textbook_s_whatever_batch_size_that_states(stated):  # L4
    z = logits(40)
    q = np.exp(z.double().numpy().T / 0.1)  # (K, B), as in SwAV's listing
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * K
        q /= q.sum(axis=0, keepdims=True) * stated
    torch.testing.assert_close(sinkhorn(z, 0.1).double(), torch.from_numpy(q.T * stated), atol=1e-6, rtol=1e-4)


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


def gradient(loss_of, *rows):
    rows = [r.clone().requires_grad_() for r in rows]
    loss_of(*rows).backward()
    return torch.cat([r.grad for r in rows], dim=-2)


def test_parts_of_a_batch_ask_for_what_the_batch_asks_for():  # L8
    student, teacher = logits(2, 6), F.softmax(logits(2, 6, seed=1) / 0.1, dim=-1)  # centring: teacher rows stand alone
    whole = gradient(lambda x: dino_loss(teacher, x, 0.1), student)
    parts = gradient(lambda a, b: (dino_loss(teacher[:, :3], a, 0.1) + dino_loss(teacher[:, 3:], b, 0.1)) / 2,
                     student[:, :3], student[:, 3:])
    torch.testing.assert_close(whole, parts)
    rows, t, w = logits(8), F.softmax(logits(8, seed=1), dim=-1), torch.tensor([1 / 2, 1 / 2, 1 / 2, 1 / 2] * 2)
    whole = gradient(lambda x: ibot_loss(t, x, w, 0.1), rows)
    parts = gradient(lambda a, b: (ibot_loss(t[:4], a, w[:4], 0.1) + ibot_loss(t[4:], b, w[4:], 0.1)) / 2,
                     rows[:4], rows[4:])
    torch.testing.assert_close(whole, parts)
    even = sinkhorn(logits(8), 0.1)  # control: what couples samples is another thing in parts
    assert not torch.allclose(even, torch.cat([sinkhorn(z, 0.1) for z in logits(8).split(4)]), atol=1e-2)


def test_gram_anchoring_compares_cosines():
    a, b = logits(3, 10).double().numpy(), logits(3, 10, seed=1).double().numpy()
    unit_a, unit_b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    want = np.mean([(u @ u.T - v @ v.T) ** 2 for u, v in zip(unit_a, unit_b, strict=True)])
    assert gram_loss(logits(3, 10), logits(3, 10, seed=1)).item() == pytest.approx(want, rel=1e-5)
    turn = torch.linalg.qr(logits(K))[0]
    assert gram_loss(3 * logits(3, 10) @ turn, logits(3, 10)).item() == pytest.approx(0, abs=1e-6)  # features may turn


def test_position_is_what_is_taken_out():
    grid = (2, 3, 4)
    place = np.stack(np.meshgrid(*((np.arange(n) + 0.5) * 2 / n - 1 for n in grid), indexing="ij"), -1).reshape(-1, 3)
    x = logits(5, 24).double().numpy()
    unit = (x / np.linalg.norm(x, axis=-1, keepdims=True)).reshape(-1, K)
    both = np.tile(place, (5, 1))
    want = np.square((unit - unit.mean(0)).T @ (both - both.mean(0)) / len(both)).sum() / K
    assert position_loss(logits(5, 24), grid).item() == pytest.approx(want, rel=1e-4)
    ramp = torch.from_numpy(place).float().expand(5, -1, -1)  # features that are their place
    assert position_loss(ramp, grid) > 10 * position_loss(logits(5, 24)[..., :3], grid)
    assert position_loss(torch.ones(5, 24, K), grid) == pytest.approx(0, abs=1e-12)


def test_redundancy_is_what_dimensions_say_twice():
    x = logits(3, 50).double()
    x = x @ logits(K, seed=1).double() + 5  # mixed, and not centred
    table = np.corrcoef(x.numpy().reshape(-1, K), rowvar=False)
    want = (np.square(table).sum() - K) / K
    assert redundancy_loss(x.float()).item() == pytest.approx(want, rel=1e-3)
    scaled = 100 * x * torch.arange(1, K + 1) - 7  # neither size nor offset is redundant
    assert redundancy_loss(scaled.float()).item() == pytest.approx(want, rel=1e-3)
    assert redundancy_loss(x[..., :1].float().expand(-1, -1, K)).item() == pytest.approx(K - 1, rel=1e-3)  # all one
    apart = torch.linalg.qr(logits(150) - logits(150).mean(0))[0].view(3, 50, K)
    assert redundancy_loss(100 * apart).item() == pytest.approx(0, abs=1e-5)


def test_less_redundancy_is_more_rank():
    x = (torch.randn(1, 200, 2, generator=torch_rng(0, "few")) @ logits(2) + 0.1 * logits(1, 200)).requires_grad_()
    before, optimiser = rankme(x[0]), torch.optim.Adam([x], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        redundancy_loss(x).backward()
        optimiser.step()
    assert before < 0.5 * K < 0.9 * K < rankme(x[0].detach())


def test_denoising_is_robust_to_one_bright_voxel():
    prediction, target = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)
    target[0, 0, 0] = 1000
    assert denoise_loss(prediction, target) < F.mse_loss(prediction, target) / 100
