"""Only singular values are trained, and none changed is nothing changed (S1, S2)."""

import copy

import pytest
import torch

from cellfm_nb.encoder import Encoder, vits8
from cellfm_nb.repair.reparametrise import fold_back, linear_layers, reparametrise, trainable_share


def weights(encoder):
    return [value for name, value in sorted(encoder.state_dict().items()) if "parametrizations" not in name]


@pytest.mark.parametrize("relative", [True, False])
def test_no_change_is_the_identity_to_the_bit(encoder, volume, relative):
    changed, x = copy.deepcopy(encoder), torch.from_numpy(volume)[None, None]
    reparametrise(changed.blocks, relative)
    assert torch.equal(changed(x).patches, encoder(x).patches)
    fold_back(changed.blocks)
    assert list(changed.state_dict()) == list(encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights(changed), weights(encoder), strict=True))
    assert all(p.requires_grad for p in changed.parameters())


@pytest.mark.parametrize("relative", [True, False])
def test_eps_changes_singular_values_as_it_says(encoder, relative):
    block = copy.deepcopy(encoder.blocks[0])
    s = torch.linalg.svdvals(block.attention.proj.weight)
    eps = reparametrise([block], relative)[1]  # of the output projection
    with torch.no_grad():
        eps[0] = 0.5
    fold_back([block])
    expected = s.clone()
    expected[0] += 0.5 * (s[0] if relative else 1)
    assert torch.allclose(torch.linalg.svdvals(block.attention.proj.weight), expected, atol=1e-5)


def test_only_eps_is_trained_and_of_qkv_only_v(encoder, volume):
    changed = copy.deepcopy(encoder)
    before = changed.blocks[0].attention.qkv.weight.detach().clone()
    parameters = reparametrise(changed.blocks)
    changed(torch.from_numpy(volume)[None, None]).patches.square().sum().backward()
    in_blocks = {name: p for name, p in changed.blocks.named_parameters() if p.grad is not None}
    assert all(name.endswith(".eps") for name in in_blocks) and len(in_blocks) == len(parameters) == 12
    with torch.no_grad():
        for eps in parameters:
            eps += 0.1
    after = changed.blocks[0].attention.qkv.weight
    assert torch.equal(after[:64], before[:64]) and not torch.allclose(after[64:], before[64:])


def test_folded_weights_compute_what_the_changed_layers_did(encoder, volume):
    changed, x = copy.deepcopy(encoder), torch.from_numpy(volume)[None, None]
    with torch.no_grad():
        for eps in reparametrise(changed.blocks):
            eps += 0.2
        before = changed(x).patches
        fold_back(changed.blocks)
        assert torch.equal(changed(x).patches, before)


def test_exact_count_for_the_published_encoder():
    """ViT-S: (384 + 384 + 384 + 384) singular values in each of 12 blocks = 18,432 of 21.5 M: under 0.1 %."""
    encoder = Encoder(vits8())
    count, share = trainable_share(encoder)
    assert count == 18_432 and 0.0008 < share < 0.001
    one = sum(p.numel() for p in reparametrise([encoder.blocks[0]]))
    assert one == 1536 and [first for _, first in linear_layers(encoder.blocks[1])] == [768, 0, 0, 0]
