"""Linearised blocks, defect directions and the alarm's parts (S8 and the parts of S3)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.encoder import Block
from cellfm_nb.repair.directions import aligned, cumulative_directions, leading_direction, own_direction, published_flag
from cellfm_nb.repair.linearise import activation_slope, cumulative, gated, linearise, mlp_path, usual_slopes
from cellfm_nb.seeds import torch_rng


def draw(*shape, key="m"):
    return torch.randn(*shape, generator=torch_rng(0, "test", key), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 5), (40, 40), (30, 7)])
def test_power_iteration_equals_full_svd(shape):
    matrix = draw(*shape)
    u, s, _ = torch.linalg.svd(matrix)
    direction, value = leading_direction(matrix)
    assert (direction @ u[:, 0]).abs() > 1 - 1e-6 and value == pytest.approx(float(s[0]), rel=1e-6)
    assert direction[direction.abs().argmax()] > 0
    assert torch.allclose(direction, leading_direction(matrix, method="svd")[0], atol=1e-5)


def test_slope_of_gelu_and_of_a_line():
    assert activation_slope(F.gelu) == pytest.approx(0.5, abs=0.01)  # E[x gelu(x)] is 1/2 exactly
    assert activation_slope(lambda x: 3 * x + 1) == pytest.approx(3)


def test_a_linearised_block_is_the_block_where_it_is_linear(encoder):
    """Oracle: a block of one token, without biases, whose LayerNorms and GELU are made linear, is that matrix."""
    block = encoder.blocks[1]
    x = draw(32, key="x")
    centre = x - x.mean()
    w_v, w_o = block.attention.qkv.weight[64:].double(), block.attention.proj.weight.double()
    x1 = x + block.gamma1.double() * (w_o @ (w_v @ (block.norm1.weight.double() * centre)))
    hidden = 0.7 * (block.mlp.fc1.weight.double() @ (block.norm2.weight.double() * (x1 - x1.mean())))
    expected = x1 + block.gamma2.double() * (block.mlp.fc2.weight.double() @ hidden)
    assert torch.allclose(linearise(block, slopes=(0.7,)) @ x, expected, atol=1e-12)


def test_slopes_of_swiglu_against_its_expectation():
    """E[silu(g) v v] = E[silu(g)], by quadrature; the gate's slope is E[silu'(g)] E[v] = 0."""
    g = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    expected = float(torch.trapezoid(F.silu(g) * (-g * g / 2).exp() / (2 * torch.pi) ** 0.5, g))
    gate, value = usual_slopes(True)
    assert gate == pytest.approx(0, abs=0.01) and value == pytest.approx(expected, abs=0.01)


def test_a_linearised_swiglu_is_the_least_squares_fit_of_the_real_one():
    """Oracle: numpy's least squares of the real MLP's answers to samples of N(0, 1), one output of one hidden unit."""
    block = Block(8, 2, mlp="swiglu")
    hidden = block.mlp.fc2.in_features
    with torch.no_grad():
        for parameter in block.mlp.parameters():
            parameter.zero_()
        block.mlp.fc1.weight[3, 0] = block.mlp.fc1.weight[hidden + 3, 5] = block.mlp.fc2.weight[2, 3] = 1.0
        x = torch.randn(100_000, 8, generator=torch_rng(0, "samples"))
        fit = np.linalg.lstsq(x.numpy(), block.mlp(x).numpy(), rcond=None)[0].T  # 8 outputs, 8 inputs
    assert gated(block) and np.allclose(mlp_path(block).numpy(), fit, atol=0.01)
    assert mlp_path(block)[2, 5] > 0.19  # control: halves swapped, or the gate taken for GELU, would miss this


def test_cumulative_product_runs_from_the_first_block_on(encoder):
    products = cumulative(encoder.blocks)
    assert torch.allclose(products[2], linearise(encoder.blocks[2]) @ products[1])
    assert len(cumulative_directions(encoder)) == 3


def test_direction_of_a_block_that_writes_one_direction(encoder):
    import copy

    block, d = copy.deepcopy(encoder.blocks[0]), F.normalize(draw(32, key="d"), dim=0)
    with torch.no_grad():
        block.attention.proj.weight.copy_(torch.outer(d, draw(32, key="a")))
    assert (own_direction(block) @ d).abs() > 1 - 1e-6


def test_flag_ignores_sign_and_length_of_the_direction():
    tokens, d = draw(2, 50, 8, key="t"), draw(8, key="d")
    assert torch.equal(aligned(tokens, d), aligned(tokens, -3 * d))
    assert aligned(d[None], d).all()


def test_control_the_published_flag_cannot_fire_where_many_tokens_are_hit():
    tokens, d = draw(200, 32, key="t"), F.normalize(draw(32, key="d"), dim=0)
    tokens[:60] += 50 * d  # a third of the tokens: |cos| near 1, mean + 4 s.d. beyond 1
    assert aligned(tokens, d)[:60].all() and not published_flag(tokens, d).any()
    few = draw(200, 32, key="t")
    few[:2] += 50 * d
    assert published_flag(few, d)[:2].all()  # it can where there are few
