"""Registers at test time: the right neurons, moved as they should be, and nothing else."""

import pytest
import torch

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.repair import compare, outlier_tokens, plant_defect, register_neurons, test_time_registers, trace

CONFIGS = [{}, {"mlp": "swiglu", "registers": 2}]


@pytest.fixture(params=CONFIGS, ids=["gelu", "swiglu"])
def case(request, volume):
    encoder = Encoder(EncoderConfig(width=32, depth=3, heads=4, **request.param), seed=6).eval()  # others may hide it
    return encoder, plant_defect(encoder, volume, 1, strength=10, seed=1, where="neuron")[0]


def test_the_planted_neuron_is_the_loudest_at_outliers(case, volume):
    encoder, planted = case
    assert register_neurons(planted, [volume], count=1) == [(1, 0)]
    assert register_neurons(encoder, [volume]) == []  # no outliers, no neurons


def test_moving_its_activation_repairs_the_patches(case, volume):
    encoder, planted = case
    mended = test_time_registers(planted, [(1, 0)])
    before, after = (compare(encoder, planted, e, volume, 1) for e in (planted, mended))
    assert before["planted_cosine"] < 0.7 and after["planted_cosine"] > 0.97
    assert before["outlier_rate"] > 0 == after["outlier_rate"]


def test_the_register_gets_the_largest_activation_and_patches_get_none(case, volume):
    _, planted = case
    seen = {}
    for name, encoder in (("before", planted), ("after", test_time_registers(planted, [(1, 0)]))):
        fc2 = encoder.blocks[1].mlp.fc2
        fc2.register_forward_hook(lambda _, given, out, name=name: seen.__setitem__(name, given[0][0]))
        trace(encoder, volume)
    first = 1 + planted.config.registers  # the new register stands there, the patches follow
    patches = seen["before"][first:, 0]
    assert seen["after"][first, 0] == pytest.approx(float(patches[patches.abs().argmax()]), rel=1e-2)
    assert (seen["after"][first + 1:, 0] == 0).all()
    assert torch.allclose(seen["after"][first + 1:, 1:], seen["before"][first:, 1:], atol=0.05)  # the others: untouched


def test_no_neurons_is_a_zero_register(case, volume):
    encoder, _ = case
    a, b = (trace(e, volume)[0][-1] for e in (test_time_registers(encoder, []), encoder.with_registers(1)))
    assert torch.equal(a, b)


def test_outliers_are_robust_ones():
    tokens = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    assert not outlier_tokens(tokens).any()
    tokens[:160] *= 50  # forty in a hundred do not hide themselves
    assert outlier_tokens(tokens)[:160].all() and outlier_tokens(tokens).sum() == 160
