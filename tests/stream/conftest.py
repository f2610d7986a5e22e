"""A small encoder with attention sharp enough that a missed key shows, and a volume no block size divides."""

import pytest
import torch

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.seeds import rng, torch_rng


@pytest.fixture(scope="session", params=["dog", "patch"])
def encoder(request):
    config = EncoderConfig(width=32, depth=2, heads=4, stem=request.param, stem_channels=6, registers=2)
    encoder = Encoder(config, seed=1).eval()
    with torch.no_grad():
        for block in encoder.blocks:  # initial weights attend nearly uniformly
            block.attention.qkv.weight.add_(0.3 * torch.randn(96, 32, generator=torch_rng(0, "sharpen")))
    return encoder


@pytest.fixture(scope="session")
def volume():
    return rng(0, "volume").normal(size=(14, 37, 50)).astype("float32")  # tokens (4, 5, 7), all with padding
