"""A small encoder whose tokens attend to different things, and a volume whose token grid is not cubic: (3, 6, 5)."""

import pytest
import torch

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.seeds import rng, torch_rng


@pytest.fixture(scope="session")
def encoder():
    encoder = Encoder(EncoderConfig(width=32, depth=3, heads=4, stem_channels=6, rivals=0), seed=1).eval()
    with torch.no_grad():  # initial weights attend nearly uniformly
        for block in encoder.blocks:
            block.attention.qkv.weight.add_(0.1 * torch.randn(96, 32, generator=torch_rng(0, "sharpen")))
    return encoder


@pytest.fixture(scope="session")
def volume():
    volume = rng(0, "volume").normal(size=(12, 48, 40)).astype("float32")
    volume[4:8, 20:28, 8:16] += 10  # one object
    return volume
