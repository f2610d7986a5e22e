"""Losses and attention beside others' of the same formula: numpy by hand, lightly's, torch's own, frozen figures."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torch import nn

from cellfm_nb.encoder import Attention, cls_saliency
from cellfm_nb.pretrain.losses import centred, dino_loss, ibot_loss, koleo_loss, sinkhorn
from cellfm_nb.pretrain.masks import mask_weights
from cellfm_nb.seeds import torch_rng

V, LOCAL, B, K, D, N = 2, 4, 6, 24, 16, 20
TEACHER, STUDENT = 0.04, 0.1  # temperatures
FROZEN = {"dino": 2.8812942505, "ibot": 5.8178906441, "koleo": 2.5078551769}  # what lightly 1.6.0 says of `figures`


def waves(*shape, phase):
    """Numbers that need no generator, so that they are the same for ever."""
    return torch.sin(torch.arange(float(np.prod(shape)), dtype=torch.float64) * 1.7 + phase).view(shape).float()


def figures():
    """Return teacher and student logits of CLS, the same of hidden tokens, the mask, a centre, and embeddings."""
    mask = waves(V * B, N, phase=5) > 0.4  # every view hides some
    hidden = int(mask.sum())
    return {"teacher": waves(V, B, K, phase=0), "student": waves(V + LOCAL, B, K, phase=1),
            "patch_teacher": waves(hidden, K, phase=2), "patch_student": waves(hidden, K, phase=3), "mask": mask,
            "centre": 0.1 * waves(K, phase=4), "cls": waves(V, B, D, phase=6)}


def ours(f):
    return {"dino": dino_loss(centred(f["teacher"], f["centre"], TEACHER), f["student"], STUDENT),
            "ibot": ibot_loss(centred(f["patch_teacher"], f["centre"], TEACHER), f["patch_student"],
                              mask_weights(f["mask"]), STUDENT),
            "koleo": koleo_loss(f["cls"])}


def by_hand(f):
    f = {name: value.double().numpy() if name != "mask" else value.numpy() for name, value in f.items()}
    told, said = softmax((f["teacher"] - f["centre"]) / TEACHER, -1), log_softmax(f["student"] / STUDENT, -1)
    pairs = [-(told[i] * said[j]).sum(-1).mean() for i in range(V) for j in range(V + LOCAL) if i != j]
    told = softmax((f["patch_teacher"] - f["centre"]) / TEACHER, -1)
    said = log_softmax(f["patch_student"] / STUDENT, -1)
    each, start = -(told * said).sum(-1), np.r_[0, f["mask"].sum(1).cumsum()]
    views = [each[a:b].mean() for a, b in zip(start[:-1], start[1:], strict=True)]
    unit = f["cls"] / np.linalg.norm(f["cls"], axis=-1, keepdims=True)
    apart = np.linalg.norm(unit[:, :, None] - unit[:, None], axis=-1)
    apart[:, range(B), range(B)] = np.inf
    return {"dino": np.mean(pairs), "ibot": np.mean(views), "koleo": -np.log(apart.min(-1)).mean()}


@pytest.mark.parametrize("name", ["dino", "ibot", "koleo"])
def test_losses_are_their_formulas_and_lightly_s_frozen_figures(name):
    f = figures()
    assert float(ours(f)[name]) == pytest.approx(by_hand(f)[name], abs=1e-5)
    assert float(ours(f)[name]) == pytest.approx(FROZEN[name], abs=1e-5)


def lightly_s(f):
    from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss

    dino, ibot = DINOLoss(K, teacher_temp=TEACHER, student_temp=STUDENT), IBOTPatchLoss(K, TEACHER, STUDENT)
    dino.center.data = f["centre"].view(1, 1, -1)
    ibot.center.center.data = f["centre"].view(1, -1)
    return {"dino": dino(list(f["teacher"]), list(f["student"]), teacher_temp=TEACHER),
            "ibot": ibot(f["patch_teacher"], f["patch_student"], f["mask"][..., None]),
            "koleo": torch.stack([KoLeoLoss()(view) for view in f["cls"]]).mean()}


def test_losses_and_gradients_are_lightly_s():
    try:
        import lightly.loss  # noqa: F401
    except Exception as error:  # not installed, or installed beside a torchvision that does not fit
        pytest.skip(f"lightly can't be imported: {error}")
    asked = ("student", "patch_student", "cls")
    found = []
    for way in (ours, lightly_s):
        f = figures()
        for name in asked:
            f[name].requires_grad_()
        told = way(f)
        sum(told.values()).backward()
        found.append((told, [f[name].grad for name in asked]))
    (own, own_slope), (theirs, their_slope) = found
    for name in own:
        assert float(own[name].detach()) == pytest.approx(float(theirs[name].detach()), abs=1e-5)
    for a, b in zip(own_slope, their_slope, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_sinkhorn_is_alternate_scaling_of_rows_and_columns():
    z = waves(30, K, phase=7).double().numpy() / 0.1
    q = np.exp(z - z.max())
    for _ in range(3):
        q /= q.sum(0)
        q /= q.sum(1, keepdims=True)
    np.testing.assert_allclose(sinkhorn(waves(30, K, phase=7), 0.1).numpy(), q, atol=1e-5)
    assert np.abs(logsumexp(z, 0) - logsumexp(z, 0).mean()).max() > 0.1  # columns were not even before


@pytest.mark.parametrize("n", [1, 7, 300])
def test_attention_is_torch_s_and_a_plain_softmax_in_float64(n):  # E7
    attention, x = Attention(32, 4), torch.randn(2, n, 32, generator=torch_rng(0, "x"))
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = attention.qkv.weight.data, attention.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = attention.proj.weight.data, attention.proj.bias.data
    with torch.no_grad():
        told, weights = theirs(x, x, x, need_weights=True, average_attn_weights=False)
        torch.testing.assert_close(attention(x), told, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(attention.saliency(x), weights[:, :, 0], atol=1e-5, rtol=1e-5)
        q, k, v = (part.double().numpy() for part in attention.qkv(x))
        plain = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(8), -1)
        gathered = (plain @ v).swapaxes(1, 2).reshape(2, n, 32)
        np.testing.assert_allclose(attention.context(x).numpy(), gathered, atol=1e-5)
        np.testing.assert_allclose(cls_saliency(*map(torch.from_numpy, (q[:, :, 0], k))).numpy(), plain[:, :, 0],
                                   atol=1e-5)
