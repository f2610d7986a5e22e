"""Blockwise attention is exact: any blocks, any order, every key counted (I1, I3, I4 of the reference)."""

import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.seeds import torch_rng
from cellfm_nb.stream.attention import online_softmax_attention


def draw(*shape, key="qkv"):
    return torch.randn(*shape, generator=torch_rng(0, "test", key))


def blocks_of(k, v, size, order=None):
    starts = list(range(0, k.shape[-2], size))
    for i in order if order is not None else range(len(starts)):
        yield k[..., starts[i]:starts[i] + size, :], v[..., starts[i]:starts[i] + size, :]


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 3), (64, 64), (65, 64), (200, 1), (200, 199), (200, 500)])
def test_equals_dense_attention_for_any_block_size(n, size):
    q, k, v = draw(2, 3, 11, 8), draw(2, 3, n, 8, key="k"), draw(2, 3, n, 5, key="v")
    out, lse = online_softmax_attention(q, blocks_of(k, v, size))
    logits = q @ k.transpose(-1, -2) / 8**0.5
    assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v), atol=1e-5)
    assert torch.allclose(lse, logits.logsumexp(-1), atol=1e-5)


def test_does_not_depend_on_the_order_of_blocks():
    q, k, v = draw(4, 9, 8), draw(4, 100, 8, key="k"), draw(4, 100, 8, key="v")
    forth, _ = online_softmax_attention(q, blocks_of(k, v, 7))
    back, _ = online_softmax_attention(q, blocks_of(k, v, 7, order=torch.randperm(15, generator=torch_rng(1)).tolist()))
    assert torch.allclose(forth, back, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "fused"])
@pytest.mark.parametrize("n", [63, 64, 65, 127, 128, 129])
def test_sizes_around_the_edges_of_blocks(n, backend):
    """I1, with a bias per key that hides some; the queries' number is at an edge too."""
    q, k, v = draw(3, n - 62, 8), draw(3, n, 8, key="k"), draw(3, n, 8, key="v")
    bias = draw(3, 1, n, key="bias").masked_fill(draw(3, 1, n, key="hide") > 1.5, -torch.inf)
    blocks = ((k[:, i:i + 64], v[:, i:i + 64], bias[..., i:i + 64]) for i in range(0, n, 64))
    out, lse = online_softmax_attention(q, blocks, backend=backend)
    assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(3, n - 62, n)), atol=1e-5)
    assert torch.allclose(lse, (q @ k.transpose(-1, -2) / 8**0.5 + bias).logsumexp(-1), atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_permuted_tokens_permute_the_output(backend):
    q, k, v = (draw(2, 90, 8, key=name) for name in "qkv")
    order = torch.randperm(90, generator=torch_rng(3))
    straight, _ = online_softmax_attention(q, blocks_of(k, v, 40), backend=backend)
    turned, _ = online_softmax_attention(q[:, order], blocks_of(k[:, order], v[:, order], 40), backend=backend)
    assert torch.allclose(turned, straight[:, order], atol=1e-6)


def test_the_fused_backend_keeps_what_the_twin_keeps():
    """I4: large logits, and blocks or queries of which everything is hidden."""
    q, k, v = torch.ones(1, 3, 4), draw(1, 50, 4, key="k") * 1e4, draw(1, 50, 4, key="v")
    bias = torch.zeros(1, 3, 50)
    bias[..., :8] = -torch.inf
    bias[:, 1] = -torch.inf
    cut = [(k[:, i:i + 8], v[:, i:i + 8], bias[..., i:i + 8]) for i in range(0, 50, 8)]
    (out, lse), (twin, twin_lse) = (online_softmax_attention(q, cut, 1.0, backend) for backend in ("fused", "torch"))
    assert torch.allclose(out, twin, atol=1e-5) and torch.allclose(lse, twin_lse)
    assert (out[:, 1] == 0).all() and lse[0, 1] == -torch.inf


def counts_every_key(attend, n=150, size=64):
    """With uniform scores and one-hot values every output is 1 / n exactly when every key is counted once."""
    q, k, v = torch.zeros(1, 4, 8), draw(1, n, 8, key="k"), torch.eye(n)[None]
    return torch.allclose(attend(q, blocks_of(k, v, size)), torch.full((1, 4, n), 1 / n), atol=1e-7)


def first_rows_only(q, blocks, block_n=16):
    """The original's kernel, as read: of every block of keys only the first BLOCK_N are used."""
    return online_softmax_attention(q, ((k[..., :block_n, :], v[..., :block_n, :]) for k, v in blocks))[0]


def test_every_key_is_counted():
    assert counts_every_key(lambda q, blocks: online_softmax_attention(q, blocks)[0])


def test_control_a_kernel_that_skips_keys_is_caught():
    assert not counts_every_key(first_rows_only)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_give_no_nan(size):
    q, k, v = torch.ones(1, 3, 4), draw(1, 50, 4, key="k") * size, draw(1, 50, 4, key="v")
    out, lse = online_softmax_attention(q, blocks_of(k, v, 8), scale=1.0)
    assert torch.isfinite(out).all() and torch.isfinite(lse).all()
    assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v, scale=1.0), atol=1e-5)


def test_hidden_keys_weigh_nothing_and_a_query_without_keys_gets_zero():
    q, k, v = draw(1, 2, 4), draw(1, 10, 4, key="k"), draw(1, 10, 4, key="v")
    bias = torch.zeros(1, 2, 10)
    bias[..., :5] = -torch.inf  # the whole first block is hidden
    bias[:, 1] = -torch.inf  # the second query sees nothing at all
    halves = [(k[:, :5], v[:, :5], bias[..., :5]), (k[:, 5:], v[:, 5:], bias[..., 5:])]
    out, lse = online_softmax_attention(q, halves)
    assert torch.allclose(out[:, 0], F.scaled_dot_product_attention(q[:, :1], k[:, 5:], v[:, 5:])[:, 0], atol=1e-6)
    assert (out[:, 1] == 0).all() and lse[0, 1] == -torch.inf


def test_equal_keys_average_the_values():
    v = draw(1, 33, 4, key="v")
    out, _ = online_softmax_attention(draw(1, 3, 4), blocks_of(torch.ones(1, 33, 4), v, 10))
    assert torch.allclose(out, v.mean(1, keepdim=True).expand(1, 3, 4), atol=1e-6)


def test_bfloat16_accumulates_in_float32():
    q, k, v = (draw(2, 300, 16, key=name).bfloat16() for name in "qkv")
    out, lse = online_softmax_attention(q, blocks_of(k, v, 32))
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    assert (out.float() - exact).abs().max() < 2e-2


def test_needs_a_block():
    with pytest.raises(ValueError, match="at least one block"):
        online_softmax_attention(draw(1, 2, 4), [])
