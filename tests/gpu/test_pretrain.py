"""A few steps of training on a GPU: every option runs there, and the losses are near the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellfm_nb.encoder import EncoderConfig
from cellfm_nb.pretrain import PretrainSettings, pretrain
from cellfm_nb.seeds import rng

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
CONFIG = EncoderConfig(width=64, depth=2, heads=4, drop_path=0.1)
S = PretrainSettings(steps=6, batch=4, global_shape=(16, 32, 32), local_shape=(8, 16, 16))


def crops(k=1):
    return rng(0, "crops").normal(size=(8, k, 20, 40, 40)).astype(np.float16)


@pytest.mark.parametrize("changes", [{}, {"scale": (0.9, 1.1), "pairs": "noise"}, {"pairs": "next"},
                                     {"mask_foreground": 0.8, "gram": 1.0, "gram_every": 2, "decorrelate": 1.0,
                                      "merged_heads": True, "accumulate": 2}])
def test_every_option_trains(changes):
    _, log = pretrain(crops(2), CONFIG, replace(S, **changes), seed=1, device="cuda")
    assert np.isfinite(log["loss"]).all() and len(log) == 6


def test_the_first_losses_are_the_cpu_s_but_for_noise_and_bf16():
    quiet = replace(S, noise=(1e-3, 1e-3), steps=1, denoise=0.0)
    here, there = (pretrain(crops(), replace(CONFIG, drop_path=0.0), quiet, seed=1, device=d)[1] for d in
                   ("cpu", "cuda"))
    assert there["loss"][0] == pytest.approx(here["loss"][0], rel=0.05)
