"""Whole volumes through trained encoders: streamed against dense, representatives of the keys against every key.

Three encoders of different depth, width, recipe and seed are trained in a few minutes on the real stack (a simulated
frame where it was not fetched), or read from the folders in CELLFM_BENCH_ENCODERS (joined like PATH). The judge is the
worst percent of all tokens, not the mean. The peer "one mean" takes all keys as one: it says how much there is to get
wrong at all. Short-trained heads look rather evenly, so one encoder is judged again with its logits tripled. Times are
CPU seconds of one thread, stem included. A GPU's rows are those of `cellfm bench gpu`.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tifffile
import torch
import torch.nn.functional as F

from cellfm_nb.bench import Row, gpu
from cellfm_nb.bench.attention import skipped
from cellfm_nb.curate import LEVEL, choose_crops, fit_noise, normalize, resample
from cellfm_nb.curate.deskew import deskew
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.manifest import locate
from cellfm_nb.pretrain import PretrainSettings, pretrain
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import Scene, scenario, scenario_optics
from cellfm_nb.stream import Features, Fit, StreamingEncoder
from cellfm_nb.stream.embed import embed_chunks
from cellfm_nb.stream.plan import Plan, plan

SPACING_UM, PATCH = (0.25, 0.1, 0.1), (4, 8, 8)
RECIPES = {1: ({}, {}), 2: ({"depth": 6}, {}), 3: ({"width": 192, "heads": 3},
                                                   {"denoise": 0.0, "dino": 0.3, "ibot": 1.0})}
CROP = (24, 64, 64)


def rows() -> Iterator[Row]:
    """Agreement with the dense encoder; accuracy, estimate, tolerance and cost of representatives; length."""
    torch.set_num_threads(1)
    raw, spacing_um = stack()
    volume = fitted(raw, spacing_um, SPACING_UM)
    yield from dense_rows(volume)
    trained = encoders(volume)
    part = volume[:, :, :36 * PATCH[2]]  # 20,160 tokens of the real stack
    for name, encoder in trained.items():
        yield from judged(name, encoder, part, peers=True)
    name, sharp = next((n, copy.deepcopy(e)) for n, e in trained.items())
    sharpen(sharp, 3.0)
    yield from judged(f"{name}, logits x3", sharp, part, peers=True)
    yield from tolerance_rows(sharp, volume[:32, :160, :160])
    yield from flops_rows()
    yield from length_rows(*next(iter(trained.items())), volume)
    fine = fitted(raw, spacing_um, (raw.shape[0] * spacing_um[0] / (26 * PATCH[0]), 0.1, 0.1))  # 62,400 tokens
    for name, encoder in trained.items():
        yield from judged(name, encoder, fine, peers=False)
    yield from gpu.stream_rows() if torch.cuda.is_available() else skipped("stream")


def stack() -> tuple[np.ndarray, tuple[float, float, float]]:
    """Return the real stack, deskewed, and its spacing; a simulated volume of its size where it was not fetched."""
    if files := locate("llsm_pycudadecon"):
        return deskew(tifffile.imread(files["im_raw.tif"]), 0.1, 0.3, 31.5)
    frame, _ = Scene(scenario("sparse", 4.0), *scenario_optics(), 0).render(0)
    return np.resize(frame, (88, 320, 479)), (0.157, 0.1, 0.1)


def fitted(raw: np.ndarray, spacing_um: tuple[float, ...], wanted: tuple[float, float, float]) -> np.ndarray:
    """Resample and normalise a stack, as notebook 06 does."""
    volume, spacing = resample(raw.astype(np.float32), spacing_um, wanted)
    return normalize(volume, fit_noise(volume), spacing, level=LEVEL)


def encoders(volume: np.ndarray) -> dict[str, Encoder]:
    """Read the encoders of CELLFM_BENCH_ENCODERS, or train those of `RECIPES`."""
    if given := os.environ.get("CELLFM_BENCH_ENCODERS"):
        return {f"encoder {i}": Encoder.from_pretrained(path) for i, path in enumerate(given.split(os.pathsep), 1)}
    boxes = choose_crops(volume, CROP, 96, rng=rng(0, "bench stream"))
    crops = np.stack([volume[b.z0:b.z1, b.y0:b.y1, b.x0:b.x1] for b in boxes.itertuples()]).astype(np.float16)
    return {f"encoder {seed}": pretrain(crops, EncoderConfig(spacing_um=SPACING_UM, patch=PATCH, **shape),
                                        PretrainSettings(steps=260, **recipe), seed=seed)[0]
            for seed, (shape, recipe) in RECIPES.items()}


def sharpen(encoder: Encoder, factor: float) -> None:
    """Multiply all logits by a factor: heads of a longer training look at fewer keys."""
    with torch.no_grad():
        for block in encoder.blocks:
            block.attention.qkv.weight[:encoder.config.width] *= factor
            block.attention.qkv.bias[:encoder.config.width] *= factor


def dense_rows(volume: np.ndarray) -> Iterator[Row]:
    """The largest difference between streamed and dense features: every store, odd blocks, bfloat16 keys."""
    encoder = Encoder(EncoderConfig(depth=2), seed=1).eval()
    sharpen(encoder, 20.0)
    piece = np.ascontiguousarray(volume[:27, :90, :75])
    with torch.no_grad():
        dense = encoder(torch.from_numpy(piece)[None, None]).patches[0].numpy()
    for case, way, target in (("memory, one call", {"mode": "sdpa"}, 1e-5), ("disk", {"store": "disk"}, 1e-5),
                              ("blocks of 7 and 3", {"mode": "online", "q_block": 7, "kv_block": 3}, 1e-5),
                              ("bfloat16 keys", {"mode": "online", "dtype": torch.bfloat16}, 2e-2)):
        streamed = StreamingEncoder(encoder, **way).encode(piece, progress=False).patches.reshape(dense.shape)
        yield Row(f"streamed - dense, {case}", "max difference", "lower", np.abs(streamed - dense).max(), target=target)


def judged(name: str, encoder: Encoder, volume: np.ndarray, peers: bool) -> Iterator[Row]:
    """Representatives against every key: share of all tokens above .99, the estimate, CPU seconds."""
    exact, exact_s = timed(encoder, volume, mode="online")
    close, close_s = timed(encoder, volume, mode="clusters", tolerance=None)
    case, true = f"{name}, {exact.plan.tokens} tokens", cosines(exact, close)
    others = {}
    if peers:
        one, _ = timed(encoder, volume, mode="clusters", tolerance=None, clusters=1, fit=Fit(heavy=0))
        others["one mean"] = cosines(exact, one)
    yield Row(case, "share above .99", "higher", share(true), {n: share(c) for n, c in others.items()}, target=0.99)
    yield Row(case, "1st percentile", "higher", worst(true), {n: worst(c) for n, c in others.items()})
    for what, told, found in (("mean", close.error.mean, true.mean()),
                              ("1st percentile", close.error.p01, worst(true))):
        ratio = (1 - told) / max(1 - float(found), 1e-12)
        yield Row(case, f"estimate of {what}, off by", "lower", max(ratio, 1 / ratio), target=2.5)
    yield Row(case, "CPU seconds", "lower", close_s, {"every key": exact_s}, target=exact_s / 5)
    stem_s = stem_seconds(encoder, volume, exact.plan)
    yield Row(case, "CPU seconds of blocks", "lower", close_s - stem_s, {"every key": exact_s - stem_s, "stem": stem_s},
              target=(exact_s - stem_s) / 5)


def timed(encoder: Encoder, volume: np.ndarray, **how: object) -> tuple[Features, float]:
    """Return features and the CPU seconds they took."""
    streamer = StreamingEncoder(encoder, **how)
    streamer.plan(volume.shape)  # measures the speed
    start = time.process_time()
    return streamer.encode(volume, progress=False), time.process_time() - start


@torch.no_grad()
def stem_seconds(encoder: Encoder, volume: np.ndarray, how: Plan) -> float:
    """Return the CPU seconds of the stem, which both ways pay."""
    start = time.process_time()
    for _ in embed_chunks(encoder, volume, how.grid, how.chunk):
        pass
    return time.process_time() - start


def cosines(a: Features, b: Features) -> torch.Tensor:
    return F.cosine_similarity(*(torch.from_numpy(f.patches).double().flatten(0, 2) for f in (a, b)), dim=1)


def share(cosine: torch.Tensor) -> float:
    return float((cosine > 0.99).double().mean())


def worst(cosine: torch.Tensor) -> float:
    return float(cosine.quantile(0.01))


def tolerance_rows(encoder: Encoder, volume: np.ndarray) -> Iterator[Row]:
    """A tolerance nothing can meet ends in every key; one that is met is met by all but a hundredth of the tokens."""
    exact, _ = timed(encoder, volume, mode="online")
    strict, _ = timed(encoder, volume, mode="clusters", tolerance=1e-12)
    yield Row(f"tolerance 1e-12: {len(strict.said.split('; '))} steps", "max difference", "lower",
              np.abs(strict.patches - exact.patches).max(), target=1e-5)
    held, _ = timed(encoder, volume, mode="clusters", clusters=16, tolerance=1e-3)
    yield Row("tolerance 1e-3, from M = 16", "error of worst 1%", "lower", 1 - worst(cosines(exact, held)), target=1e-3)


def flops_rows() -> Iterator[Row]:
    """How many times fewer operations at a million tokens, by the formula of the plan."""
    for width in (128, 384):
        ways = plan((400, 800, 800), EncoderConfig(width=width), flops_per_s=1e11, memory_bytes=2**40).choices
        fewest = {way.mode: way.flops for way in ways}
        yield Row(f"1,000,000 tokens, D = {width}", "times fewer FLOP", "higher", fewest["sdpa"] / fewest["clusters"],
                  target=300)


def length_rows(name: str, encoder: Encoder, volume: np.ndarray) -> Iterator[Row]:
    """The same 14^3 tokens alone, in the whole stack, and in 60^3 tokens (the stack, mirrored), I8.

    Ours: the cosine with the logits scaled by ln N / ln 14^3; peer: without.
    """
    z, y, x = (slice(0, 14 * p) for p in PATCH)
    alone, _ = timed(encoder, volume[z, y, x], mode="online")
    around = [(0, 60 * p - n) for p, n in zip(PATCH, volume.shape, strict=True)]
    for where, context in (("the stack", volume), ("60^3", np.pad(volume, [(0, max(0, b)) for _, b in around],
                                                                  mode="symmetric"))):
        found = {}
        for native in (None, 14**3):
            whole, _ = timed(encoder, context, mode="clusters", tolerance=None, native_tokens=native)
            inside = whole.patches[:alone.patches.shape[0] - 1, :13, :13]  # a token at the cut sees another halo
            found[native] = cosines(Inside(alone.patches[:len(inside), :13, :13]), Inside(inside))
        yield Row(f"{name}: 14^3 in {where}", "mean cosine", "higher", float(found[14**3].mean()),
                  {"no temperature": float(found[None].mean())})
        yield Row(f"{name}: 14^3 in {where}", "1st percentile", "higher", worst(found[14**3]),
                  {"no temperature": worst(found[None])})


@dataclass(frozen=True)
class Inside:
    """Part of some features."""

    patches: np.ndarray
