"""Trials of what goes into an encoder and what it can know of it: resampling, crops, slabs, patches, hidden voxels."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from cellfm_nb.curate import crops
from cellfm_nb.curate.resample import resample
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.pretrain.masks import block_mask
from cellfm_nb.seeds import rng

KMEANS_K, KMEANS_PERCENTILES = 4, (99.75, 99.9)  # the seed's


def slice_by_slice(encoder: Encoder, volume: np.ndarray) -> dict[str, float]:
    """Compare features of a volume with those of its slabs, each encoded alone (A03: slices break across planes).

    volume (z, y, x), normalised. Returns: "3D" and "slabs", the mean cosine of a token to the one beneath it after the
    mean token is taken away; a slab is one token thick, so it knows nothing of its neighbours. Empty for a
    volume of one slab.
    """
    thick = encoder.config.patch[0]
    if len(volume) < 2 * thick:
        return {}
    volume = np.ascontiguousarray(volume[: len(volume) // thick * thick], np.float32)
    slabs = volume.reshape(-1, thick, *volume.shape[1:])
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        whole = encoder(torch.from_numpy(volume)[None, None].to(device), saliency=False)
        parts = encoder(torch.from_numpy(slabs)[:, None].to(device), saliency=False)
    found = {"3D": whole.patches.reshape(*whole.grid, -1), "slabs": parts.patches.reshape(*whole.grid, -1)}
    out = {}
    for name, tokens in found.items():
        tokens = tokens - tokens.mean(dim=(0, 1, 2))
        out[name] = float(torch.cosine_similarity(tokens[1:], tokens[:-1], dim=-1).mean())
    return out


def resampling_memory(shape: Sequence[int] = (24, 160, 160), factor: float = 2.404) -> dict[str, float]:
    """Measure the memory that our resampling needs above its output, in output sizes (A08)."""
    volume = np.ones(shape, np.float32)
    tracemalloc.start()
    try:
        out, _ = resample(volume, (factor, 1, 1), (1, 1, 1))
        return {"above the output": (tracemalloc.get_traced_memory()[1] - out.nbytes) / out.nbytes}
    finally:
        tracemalloc.stop()


def crop_settings(normalized: np.ndarray, box: Sequence[int], seed: int) -> dict[str, float]:
    """Sweep k-means crops over k and the percentiles of what counts as bright (A06).

    Parameters: normalized (z, y, x); box, a crop (z, y, x); seed. Returns: share of signal in the crops at the
    seed's settings and at the worst of the sweep, both over that at the best; empty without signal.
    """
    mask, crop, room = crops.signal_mask(normalized), np.array(box), np.array(normalized.shape) - box
    held = {}
    for k in (2, 4, 8):
        for band in ((99.0, 99.5), (99.5, 99.75), KMEANS_PERCENTILES, (99.9, 99.99)):
            centres = [crops.kmeans_centres(normalized, k, rng(seed, "sweep", i), band) for i in range(5)]
            corners = [np.clip(c - crop // 2, 0, room) for c in centres if c is not None]
            held[k, band] = float(crops.box_means(mask, np.concatenate(corners), crop).mean()) if corners else 0.0
    ours, best = held[KMEANS_K, KMEANS_PERCENTILES], max(held.values())
    return {"stated": ours / best, "worst": min(held.values()) / best, "signal at best": best} if best else {}


def shuffled_patches(seed: int) -> dict[str, float]:
    """Shuffle the patches of a volume and see whether features notice (A11: a Conv3d embedding knows the place).

    Returns: the largest difference between the tokens of the shuffled volume and the shuffled tokens of the volume,
    over their size: 0 means that the encoder can't tell where a patch is. Untrained, without positions, with plain
    Conv3d patches, and with the overlapping filters of this project.
    """
    draw = rng(seed, "shuffle")
    side, grid = (4, 8, 8), (3, 3, 3)
    patches = draw.normal(size=(27, *side)).astype(np.float32)
    order = draw.permutation(27)

    def volume(patches: np.ndarray) -> torch.Tensor:
        whole = patches.reshape(*grid, *side).transpose(0, 3, 1, 4, 2, 5).reshape([g * s for g, s in zip(grid, side,
                                                                                                        strict=True)])
        return torch.from_numpy(np.ascontiguousarray(whole))[None, None]

    out = {}
    for name, stem in (("Conv3d patches", "patch"), ("overlapping filters", "dog")):
        encoder = Encoder(EncoderConfig(patch=side, width=48, depth=2, heads=4, stem=stem), seed=seed).eval()
        with torch.inference_mode():
            if stem == "patch":  # ours lets plain patches see their neighbours; the claim's do not
                encoder.stem.mix.weight.zero_()
            here, there = (encoder(volume(p)).patches[0] for p in (patches, patches[order]))
        out[name] = float((there - here[order]).abs().max() / here.abs().mean())
    return out


def hidden_voxels(normalized: np.ndarray, seed: int, share: float = 0.4) -> dict[str, float]:
    """Guess hidden voxels from their neighbours (A17: scattered voxels are trivial to guess, blocks are not).

    Parameters: normalized (z, y, x); seed; share hidden. The guess is the Gaussian mean of what is seen nearby, of the
    width that does best. Returns: share of the variance explained, for scattered voxels and for blocks; the image is
    smoothed by one voxel first, so that the noise, which nobody can guess, does not decide. Empty for a volume too
    thin to hide blocks in.
    """
    if min(normalized.shape) < 8:
        return {}
    image = crops.binomial(normalized)
    grid, cell = tuple(n // 4 for n in image.shape), (4, 4, 4)
    image = image[tuple(slice(0, 4 * g) for g in grid)]
    draw = rng(seed, "hide")
    blocks = np.kron(block_mask(grid, round(share * np.prod(grid)), draw), np.ones(cell)) > 0
    out = {}
    for name, hidden in {"scattered": draw.random(image.shape) < share, "blocks": blocks}.items():
        left = []
        for sd in (0.7, 1.0, 1.5, 2.5, 4.0):
            seen = ndimage.gaussian_filter((~hidden).astype(np.float32), sd)
            guess = ndimage.gaussian_filter(np.where(hidden, 0, image), sd) / np.maximum(seen, 1e-6)
            left.append(np.mean((guess - image)[hidden] ** 2) / image[hidden].var())
        out[name] = float(1 - min(left))
    return out
