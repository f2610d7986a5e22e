"""Properties of the encoder: tokens, masks, permutation, backends (E1-E7 of the reference)."""

import numpy as np
import pytest
import torch

from cellfm_nb.encoder import Block, Encoder, EncoderConfig, vits8
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import torch_rng

SMALL = dict(width=32, depth=2, heads=2)


def encoder(**changes):
    return Encoder(EncoderConfig(**{**SMALL, **changes}), seed=3).eval()


def volume(*shape, batch=2):
    return torch.randn(batch, 1, *shape, generator=torch_rng(0, "volume", *shape))


@pytest.mark.parametrize("stem", ["dog", "patch"])
@pytest.mark.parametrize("shape", [(8, 16, 16), (9, 17, 30), (1, 1, 1)])
def test_any_size_gives_one_token_per_patch(stem, shape):  # E1
    tokens = encoder(stem=stem)(volume(*shape))
    grid = tuple(-(-s // p) for s, p in zip(shape, (4, 8, 8), strict=True))
    assert tokens.grid == grid
    assert tokens.cls.shape == (2, 32) and tokens.patches.shape == (2, np.prod(grid), 32)
    assert tokens.saliency.shape == (2, 2, np.prod(grid))


def test_patch_embedding_equals_unfold_and_matmul():  # E1
    e, x = encoder(stem="patch"), volume(8, 16, 24)
    patches = x.unfold(2, 4, 4).unfold(3, 8, 8).unfold(4, 8, 8).reshape(2, 2 * 2 * 3, 4 * 8 * 8)
    conv = e.stem.embed
    with torch.no_grad():
        e.stem.mix.weight.zero_()
        got, _ = e.embed(x)
    torch.testing.assert_close(got, patches @ conv.weight.flatten(1).T + conv.bias, atol=1e-5, rtol=1e-5)


def test_blocks_know_no_positions():  # E2
    e, x = encoder(), torch.randn(1, 20, 32, generator=torch_rng(0, "tokens"))
    order = torch.randperm(20, generator=torch_rng(0, "order"))
    run = torch.nn.Sequential(*e.blocks)
    torch.testing.assert_close(run(x[:, order]), run(x)[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"stem": "patch", "registers": 2}, {"position": "rope", "width": 48}])
def test_a_view_s_tokens_are_its_own_whatever_is_encoded_with_it(changes):  # E3
    """Views of several sizes go one size after the other, and views of one size together: nothing passes between them.

    A packed list with a block-diagonal mask (the original's xFormers path) has to give the same.
    """
    e = encoder(**changes)
    sizes = [(8, 32, 32), (8, 16, 16), (12, 24, 16)]
    for shape in sizes:
        together = e(volume(*shape, batch=3))
        for i, alone in enumerate(volume(*shape, batch=3).split(1)):
            for name in ("cls", "patches", "saliency"):
                torch.testing.assert_close(getattr(e(alone), name)[0], getattr(together, name)[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stem", ["dog", "patch"])
class TestMask:
    def test_nothing_hidden_changes_nothing(self, stem):  # E4
        e, x = encoder(stem=stem), volume(8, 32, 32)
        assert torch.equal(e(x, torch.zeros(2, 32, dtype=torch.bool)).patches, e(x).patches)

    def test_hidden_voxels_are_not_seen_by_anyone(self, stem):  # E4
        e, x = encoder(stem=stem), volume(8, 32, 32)
        mask = torch.zeros(2, 32, dtype=torch.bool)
        mask[:, [5, 6, 21, 22]] = True  # blocks z 0-1, y 1, x 1-2
        other = x.clone()
        other[:, :, :, 8:16, 8:24] += 7.0
        assert not torch.equal(e(x).patches, e(other).patches)
        assert torch.equal(e(x, mask).patches, e(other, mask).patches)

    def test_hidden_tokens_differ_from_one_another(self, stem):
        e, x = encoder(stem=stem), volume(16, 32, 32)
        mask = torch.zeros(2, 64, dtype=torch.bool)
        mask[:, [21, 22, 25, 26, 37, 38, 41, 42]] = True  # a 2^3 block in the middle
        hidden = e(x, mask).patches[mask].view(2, 8, 32)
        assert hidden.std(dim=1).mean() > 0.01


def test_negative_control_plain_mask_tokens_are_all_the_same():
    """The original: mask token, no positions, no overlap; then iBOT can only fit the average of a crop."""
    e, x = encoder(stem="patch"), volume(16, 32, 32)
    mask = torch.zeros(2, 64, dtype=torch.bool)
    mask[:, [21, 22, 25, 26, 37, 38, 41, 42]] = True
    with torch.no_grad():
        e.stem.mix.weight.zero_()  # take the local mixing away
        hidden = e(x, mask).patches[mask].view(2, 8, 32)
    assert hidden.std(dim=1).max() < 1e-5


def test_zero_layer_scale_or_full_drop_path_is_identity():  # E5
    x = torch.randn(2, 7, 32, generator=torch_rng(0, "x"))
    assert torch.equal(Block(32, 2, layer_scale=0.0)(x), x)
    assert torch.equal(Block(32, 2, drop_path=1.0).train()(x), x)
    assert not torch.equal(Block(32, 2, drop_path=1.0).eval()(x), x)


def test_registers_change_no_shape_and_their_order_does_not_matter():  # E6
    e, x = encoder(), volume(8, 16, 16)
    assert torch.equal(e.with_registers(0)(x).patches, e(x).patches)
    four = e.with_registers(4)
    assert four(x).patches.shape == e(x).patches.shape
    with torch.no_grad():
        four.register_tokens.normal_(generator=torch_rng(0, "registers"))
        before = four(x)
        four.register_tokens.copy_(four.register_tokens[:, [2, 0, 3, 1]])
    torch.testing.assert_close(four(x).patches, before.patches, atol=1e-5, rtol=1e-5)


def test_attention_by_hand_agrees_saliency_included():  # E7
    e, x = encoder(registers=2), volume(8, 16, 24)
    tokens, _ = e.embed(x)
    tokens = torch.cat([e.prefix(2), tokens], dim=1)
    for block in e.blocks:
        q, k, v = block.attention.qkv(block.norm1(tokens))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        tokens = block.finish(tokens, torch.cat((weights @ v).unbind(1), dim=-1))
    out = e(x)
    torch.testing.assert_close(out.patches, e.norm(tokens)[:, 3:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.cls, e.norm(tokens)[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.saliency, weights[:, :, 0, 3:], atol=1e-6, rtol=1e-5)
    assert (out.saliency >= 0).all() and (out.saliency.sum(-1) < 1).all()


@pytest.mark.parametrize("qk_norm", [False, True])
def test_queries_alone_and_keys_with_values_are_those_of_the_whole_map(qk_norm):
    qkv = encoder(qk_norm=qk_norm, position="rope").blocks[0].attention.qkv
    x, angles = torch.randn(2, 50, 32, generator=torch_rng(0, "tokens")), torch.linspace(0, 3, 400).view(50, 8)
    for part, whole in zip((qkv.query(x, angles), *qkv.key_value(x, angles)), qkv(x, angles), strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-6)


def test_attention_in_half_precision_agrees_too():  # E7
    block, x = encoder().blocks[0], torch.randn(2, 50, 32, generator=torch_rng(0, "tokens"))
    q, k, v = block.attention.qkv(x)
    by_hand = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
    half = block.attention.bfloat16()
    out = half.context(x.bfloat16()).float()
    torch.testing.assert_close(out, torch.cat(by_hand.unbind(1), dim=-1), atol=2e-2, rtol=2e-2)
    by_hand = (q[:, :, :1] @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)[:, :, 0]
    torch.testing.assert_close(half.saliency(x.bfloat16()), by_hand, atol=2e-2, rtol=0)


def test_saliency_is_attention_alone_and_the_originals_value_products_are_not():
    """The original's saliency is the CLS output times the value vectors: it changes when the values are scaled."""
    e, x = encoder(), volume(8, 16, 24)
    last = e.blocks[1]

    def products():
        q, k, v = last.attention.qkv(last.norm1(e.blocks[0](torch.cat([e.prefix(2), e.embed(x)[0]], dim=1))))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return torch.einsum("bhd,bhnd->bhn", (weights @ v)[:, :, 0], v)

    saliency, original = e(x).saliency, products()
    with torch.no_grad():
        last.attention.qkv.weight[64:] *= 3  # the values
    torch.testing.assert_close(e(x).saliency, saliency)
    assert not torch.allclose(products(), original, rtol=0.5)


@pytest.mark.parametrize("changes", [{}, {"stem": "patch"}, {"spacing_um": (0.1, 0.1, 0.1), "patch": (8, 8, 8)}])
def test_a_chunk_with_its_halo_has_the_tokens_of_the_whole(changes):
    e, x = encoder(**changes), volume(32, 48, 48, batch=1)
    patch, halo = e.config.patch, e.halo
    assert all(h % p == 0 for h, p in zip(halo, patch, strict=True))
    whole, grid = e.embed(x)
    whole = whole.view(*grid, -1)
    low, high = (8, 16, 16), (16, 32, 48)  # voxels of a chunk that touches one border
    start = [max(0, a - h) for a, h in zip(low, halo, strict=True)]
    stop = [min(s, b + h) for s, b, h in zip(x.shape[2:], high, halo, strict=True)]
    part, part_grid = e.embed(x[:, :, start[0]:stop[0], start[1]:stop[1], start[2]:stop[2]])
    cut = tuple(slice((a - s) // p, (b - s) // p) for a, b, s, p in zip(low, high, start, patch, strict=True))
    want = whole[tuple(slice(a // p, b // p) for a, b, p in zip(low, high, patch, strict=True))]
    torch.testing.assert_close(part.view(*part_grid, -1)[cut], want, atol=1e-5, rtol=1e-5)


def test_negative_control_without_halo_the_borders_of_chunks_are_wrong():
    e, x = encoder(), volume(8, 16, 32, batch=1)
    whole = e.embed(x)[0].view(2, 2, 4, -1)
    alone = e.embed(x[..., :16])[0].view(2, 2, 2, -1)
    assert (whole[:, :, :2] - alone).abs().max() > 0.01


def test_vits8_has_the_published_size():
    assert Encoder(vits8()).n_parameters == pytest.approx(21.5e6, rel=0.002)


def test_prior_and_random_filters_differ_in_the_filters_alone():
    dog, conv = encoder().state_dict(), encoder(stem="conv").state_dict()
    apart = {name for name in dog.keys() | conv.keys() if name not in dog or name not in conv
             or dog[name].shape != conv[name].shape}
    assert apart == {f"stem.filters.{name}" for name in ("z", "y", "x", "mix.weight", "mix.bias", "weight", "bias")}


@pytest.mark.parametrize("stem", ["dog", "conv"])
def test_training_and_looking_give_the_same_tokens(stem):
    """With gradients the filters run twice, without on a padded volume that is cut: the same responses."""
    e, x = encoder(stem=stem), volume(9, 17, 30)
    with torch.no_grad():
        looked = e.embed(x)[0]
    torch.testing.assert_close(e.embed(x)[0], looked, atol=1e-5, rtol=1e-5)


def test_equal_seeds_give_equal_weights():
    a, b = encoder().state_dict(), encoder().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(Encoder(EncoderConfig(**SMALL), seed=4).cls_token, encoder().cls_token)


@pytest.mark.parametrize("changes", [{"stem": "resnet"}, {"heads": 5}, {"patch": (0, 8, 8)},
                                     {"spacing_um": (0.1, -1, 1)}])
def test_bad_configurations_are_refused(changes):
    with pytest.raises(InputError):
        EncoderConfig(**changes)


def test_input_without_channel_axis_is_refused():
    with pytest.raises(InputError, match="one-channel"):
        encoder()(torch.zeros(2, 8, 16, 16))
