"""The sliding-window fallback is MONAI's without overlap, and a halo makes it closer to the whole volume (A29)."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.seeds import rng, torch_rng
from cellfm_nb.stream.encode import StreamingEncoder


@pytest.fixture(scope="module")
def scene():
    encoder = Encoder(EncoderConfig(width=32, depth=2, heads=4, stem_channels=6), seed=1).eval()
    with torch.no_grad():
        for block in encoder.blocks:
            block.attention.qkv.weight.add_(0.3 * torch.randn(96, 32, generator=torch_rng(0, "sharpen")))
    return encoder, rng(0, "windows").normal(size=(16, 64, 96)).astype(np.float32)  # tokens (4, 8, 12)


def windows(scene, window, halo):
    return StreamingEncoder(scene[0], mode="windows", window=window, halo=halo).encode(scene[1], progress=False)


def test_without_a_halo_it_is_monai(scene):
    encoder, volume = scene

    def predict(x):
        tokens = encoder(x)
        return tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)

    with torch.no_grad():
        theirs = sliding_window_inference(torch.from_numpy(volume)[None, None], (8, 32, 32), 2, predict, overlap=0)
    ours = windows(scene, (2, 4, 4), halo=0)
    assert theirs.shape == (1, 32, 4, 8, 12)
    assert np.abs(ours.patches - theirs[0].permute(1, 2, 3, 0).numpy()).max() < 1e-5
    assert ours.plan.mode == "windows" and not ours.plan.exact and "halo of 0" in ours.said


def test_one_window_is_the_dense_encoder(scene):
    whole = StreamingEncoder(scene[0]).encode(scene[1], progress=False)
    one = windows(scene, (4, 8, 12), halo=3)
    assert np.abs(one.patches - whole.patches).max() < 1e-5 and np.abs(one.cls - whole.cls).max() < 1e-5
    assert np.abs(one.saliency - whole.saliency).max() < 1e-5


def test_a_halo_brings_it_closer_to_the_whole(scene):
    whole = StreamingEncoder(scene[0]).encode(scene[1], progress=False).patches
    errors = [np.abs(windows(scene, (4, 4, 4), halo).patches - whole).mean() for halo in (0, 2, 4)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_windows_that_do_not_divide_the_grid_and_a_disk_free_store(scene):
    assert np.isfinite(windows(scene, (3, 5, 5), halo=1).patches).all()
