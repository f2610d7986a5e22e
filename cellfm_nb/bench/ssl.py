"""What a linear probe reads from the encoder's tokens, beside floors that nobody had to train, and a supervised rival.

Average precision on tokens that hold an object (`ssl_data.foreground`: any voxel of its mask), scenario `dense`. Each
figure is the mean over three encoders, each trained on movies of its own seed, and three unseen movies. The probe sees
truth of one further movie. All rivals see the same normalised frames. One encoder learns from both noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import torch
import torch.nn.functional as F

from cellfm_nb import profiles
from cellfm_nb.bench import Row
from cellfm_nb.bench.ssl_data import (
    LEARNED_ON,
    SNRS,
    SPACING_UM,
    crops,
    foreground,
    learned,
    probe,
    raw,
    statistics,
    statistics_and_log,
)
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.pretrain import PretrainSettings, pretrain
from cellfm_nb.seeds import rng, torch_rng

SIZE = profiles.settings("tiny", "pretrain")
TINY = EncoderConfig(spacing_um=SPACING_UM, patch=SIZE.patch, width=SIZE.width, depth=SIZE.depth, heads=SIZE.heads,
                     layer_scale=SIZE.layer_scale)
SETTINGS = PretrainSettings.of(SIZE)
SEED_S = replace(TINY, stem="patch", patch=(8, 8, 8))  # the seed's: nothing made by hand
# plain patches have every filter to learn: the denoising loss alone, hotter, longer, with noise shared out evenly
PLAIN = replace(SETTINGS, steps=4000, lr=3e-3, noise=(0.9, 1.1), dino=0.0, ibot=0.0, koleo=0.0, redundancy=0.0,
                denoise=1.0, n_local=0, mask_share=0.0)
TARGETS = {2.0: (0.83, 0.03, 0.70), 4.0: (0.935, 0.0, 0.89)}  # ours, above the floor, the seed's


FLOORS = {"raw voxels": raw, "four statistics": statistics, "with LoG": statistics_and_log}
MADE = {  # how an encoder comes about, from the seed of the movie it learns on
    "ours": lambda seed: train(TINY, seed), "untrained": lambda seed: Encoder(TINY, seed=seed).eval(),
    "supervised": lambda seed: taught(seed), "seed's patches": lambda seed: train(SEED_S, seed, PLAIN),
    "seed's, untrained": lambda seed: Encoder(SEED_S, seed=seed).eval()}


def rows() -> Iterator[Row]:
    """Score the floors, then train and score encoder after encoder, then compare."""
    scores: dict[tuple[str, float], list[float]] = {}
    for snr in SNRS:
        for patch, kind in ((TINY.patch, ""), (SEED_S.patch, ", 8x8x8")):
            for name, way in FLOORS.items():
                scores[name + kind, snr] = [probe(way(patch), patch, snr).tokens]
        yield Row(f"dense SNR {snr:g}, floors", "probe AP", "higher", scores["with LoG", snr][0],
                  {name: value[0] for (name, at), value in scores.items() if at == snr and name != "with LoG"})
    for seed in LEARNED_ON:
        for name, make in MADE.items():
            encoder = make(seed)
            for snr in SNRS:
                ap = probe(learned(encoder), encoder.config.patch, snr).tokens
                scores.setdefault((name, snr), []).append(ap)
                yield Row(f"dense SNR {snr:g}, {name}", "probe AP", "higher", ap, seeds=[seed])
    for snr, (least, lead, seeds_least) in TARGETS.items():
        mean = {name: fmean(values) for (name, at), values in scores.items() if at == snr}
        spread = {name: stdev(scores[name, snr]) for name in MADE}
        case, seeds = f"dense SNR {snr:g}, mean", list(LEARNED_ON)
        rivals = {name: mean[name] for name in (*FLOORS, "untrained", "supervised")}
        yield Row(case, "probe AP", "higher", mean["ours"], rivals | {"s.d.": spread["ours"]}, least, seeds)
        yield Row(case, "above the floor", "higher", mean["ours"] - mean["four statistics"],
                  {"above the one with LoG": mean["ours"] - mean["with LoG"]}, lead, seeds)
        yield Row(f"{case}, seed's patches", "probe AP", "higher", mean["seed's patches"],
                  {"s.d.": spread["seed's patches"], "untrained": mean["seed's, untrained"],
                   "four statistics": mean["four statistics, 8x8x8"],
                   "ours is ahead by": mean["ours"] - mean["seed's patches"]}, seeds_least, seeds)


def train(config: EncoderConfig, seed: int, settings: PretrainSettings = SETTINGS) -> Encoder:
    """Train an encoder, by default as the tiny profile does, on the crops of a seed."""
    return pretrain(crops(seed)[0], config, settings, seed=seed)[0]


def taught(seed: int) -> Encoder:
    """Train the same encoder with truth: which tokens of a view hold an object, as many steps and views.

    Cross-entropy, positives weighted by their rarity; AdamW with the settings' rate along the same cosine.
    """
    from cellfm_nb.pretrain.schedules import at

    images, masks, _ = crops(seed)
    encoder, head = Encoder(TINY, seed=seed).train(), torch.nn.Linear(TINY.width, 1)
    torch.nn.init.normal_(head.weight, std=0.02, generator=torch_rng(seed, "bench ssl", "head"))
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    for step in range(SETTINGS.steps):
        draw, views, truth = rng(seed, "bench ssl", "taught", step), [], []
        for k in draw.integers(0, len(images), 2 * SETTINGS.batch):
            corner = [draw.integers(0, n - v + 1) for n, v in zip(images.shape[1:], SETTINGS.global_shape, strict=True)]
            box = tuple(slice(a, a + v) for a, v in zip(corner, SETTINGS.global_shape, strict=True))
            turn = slice(None, None, 1 - 2 * int(draw.integers(2)))
            views.append(images[k][box][:, turn].astype(np.float32))
            truth.append(foreground(masks[k][box][:, turn], TINY.patch))
        positive = torch.from_numpy(np.stack(truth)).float()
        logits = head(encoder(torch.from_numpy(np.stack(views))[:, None]).patches)[..., 0]
        loss = F.binary_cross_entropy_with_logits(logits, positive, pos_weight=torch.tensor(10.0))
        optimiser.param_groups[0]["lr"] = at(step, SETTINGS).lr
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.clip)
        optimiser.step()
    return encoder.eval()
