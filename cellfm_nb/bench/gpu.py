"""What only a GPU can show: the Triton kernel beside torch's fastest, a million tokens exactly and by representatives.

`cellfm bench gpu --json FILE` takes under eight minutes on an H200. Without a GPU the same code runs on a CPU at sizes
that mean nothing, without targets, so that it is known to work before a GPU is lent (Triton under TRITON_INTERPRET=1).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cellfm_nb.bench import Row, alternate
from cellfm_nb.encoder import Encoder, EncoderConfig, vits8
from cellfm_nb.seeds import rng, torch_rng
from cellfm_nb.stream import Features, StreamingEncoder, online_softmax_attention, pick_backend, token_cosines

BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
HOPPER = 403.0  # TFLOP/s: published Triton forward, H100, 64 channels, 16k tokens


@dataclass(frozen=True)
class Size:
    """Say how much is measured: keys of the kernel; voxels of the large volume, and of the one for the stores."""

    keys: int
    calls: int
    large: tuple[int, int, int]
    small: tuple[int, int, int]
    config: EncoderConfig


FULL = Size(16384, 10, (800, 800, 800), (512, 512, 256), vits8())  # 1,000,000 and 131,072 tokens
DRY = Size(256, 1, (64, 64, 72), (16, 32, 32), EncoderConfig(patch=(8, 8, 8), width=64, depth=2, heads=1, stem="patch"))


class Noise:
    """A volume (z, y, x) of noise with bright spots that takes no memory: one block, over and over."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, draw = shape, rng(0, "bench gpu")
        self.block = draw.normal(size=(61, 67, 71)).astype(np.float32)  # no multiple of a patch: tokens differ
        self.block[tuple(draw.integers(0, n, 400) for n in self.block.shape)] += 20

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        at = (np.arange(s.start, s.stop) % n for s, n in zip(box, self.block.shape, strict=True))
        return self.block[np.ix_(*at)]


def rows() -> Iterator[Row]:
    """Measure everything, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = FULL if device == "cuda" else DRY
    if device == "cpu":
        print("no CUDA device here: a dry run on the CPU, whose figures mean nothing", file=sys.stderr)
    else:
        print(torch.cuda.get_device_name(), file=sys.stderr)
    speed = None
    for row in attention_rows(device, size):
        speed = row.ours if row.metric == "TFLOP/s" and speed is None else speed
        yield row
    yield from stream_rows(device, size, speed)


def attention_rows(device: str = "cuda", size: Size = FULL) -> Iterator[Row]:
    """Our forward against each of torch's backends that runs here, bfloat16, 64 and 128 channels."""
    real, heads = device == "cuda", 6
    dtype = torch.bfloat16 if real else torch.float32
    for width in (64, 128):
        draw = torch_rng(0, "bench gpu", width)
        q, k, v = (torch.randn(heads, size.keys, width, generator=draw).to(device, dtype) for _ in range(3))
        own = pick_backend(device)
        calls = {"ours": lambda: online_softmax_attention(q, [(k, v)], None, own)[0]}  # noqa: B023  called in this turn
        for backend in BACKENDS if real else ():
            try:
                peer(backend, q, k, v)
                calls[backend.name.lower()] = lambda b=backend: peer(b, q, k, v)  # noqa: B023
            except RuntimeError as error:
                print(f"{backend.name}: {str(error).splitlines()[0]}", file=sys.stderr)
        took = alternate({name: repeated(call, size.calls, device) for name, call in calls.items()})
        speed = {name: size.calls * 4e-12 * size.keys**2 * heads * width / s for name, s in took.items()}
        exact = F.scaled_dot_product_attention(*(part[None].float() for part in (q, k, v)))[0]
        case = f"{own}, {size.keys} keys, d = {width}"
        yield Row(case, "max difference", "lower", float((calls["ours"]().float() - exact).abs().max()), target=2e-2)
        ours = speed.pop("ours")
        floor = [HOPPER] if real and width == 64 and torch.cuda.get_device_capability()[0] == 9 else []
        yield Row(case, "TFLOP/s", "higher", ours, speed, target=max([*speed.values(), *floor]) if speed else None)


def peer(backend: SDPBackend, *qkv: torch.Tensor) -> torch.Tensor:
    """Return what torch's SDPA makes of q, k, v (H, n, d), by one of its backends."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*(part[None] for part in qkv))[0]


def repeated(call: Callable[[], object], times: int, device: str) -> Callable[[], None]:
    """Return a function that calls so many times and waits for the device."""
    def run() -> None:
        for _ in range(times):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
    return run


def stream_rows(device: str = "cuda", size: Size = FULL, speed: float | None = None) -> Iterator[Row]:
    """A whole ViT-S on a large volume: time against the attention alone, memory, representatives, stores.

    speed: the kernel's TFLOP/s in this run, measured here when not given.
    """
    real = device == "cuda"
    speed = speed or next(r.ours for r in attention_rows(device, size) if r.metric == "TFLOP/s")
    encoder = Encoder(size.config).to(device)
    dtype = torch.bfloat16 if real else torch.float32
    small = Noise(size.small)

    def streamed(volume: Noise, **how: object) -> tuple[Features, float, float]:
        streamer = StreamingEncoder(encoder, dtype=dtype, tolerance=None, **how)
        streamer.plan(volume.shape)  # measures the speed
        if real:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        features = streamer.encode(volume, progress=False)
        seconds = time.perf_counter() - start  # the features are on the host: nothing is under way
        return features, seconds, torch.cuda.max_memory_allocated() / 2**30 if real else 0.0

    for mode in ("online", "clusters"):  # kernels are tuned and compiled here
        streamed(small, mode=mode, store="memory")
    kept = {store: streamed(small, mode="online", store=store)[1]
            for store in (("memory", "pinned", "disk") if real else ("memory", "disk"))}
    tokens = prod(-(-n // p) for n, p in zip(size.small, size.config.patch, strict=True))
    for store in kept.keys() - {"memory"}:
        yield Row(f"{tokens} tokens, store {store}", "seconds", "lower", kept[store], {"memory": kept["memory"]})

    exact, exact_s, gib = streamed(Noise(size.large), mode="online", store="memory")
    n, c = exact.plan.tokens, size.config
    floor = c.depth * 4e-12 * n**2 * c.width / speed
    case = f"ViT-S, {n} tokens"
    yield Row(f"{case}, every key", "seconds", "lower", exact_s, {"attention alone": floor},
              target=1.2 * floor if real else None)
    yield Row(f"{case}, every key", "GiB of GPU", "lower", gib, target=24.0 if real else None)
    close, close_s, gib = streamed(Noise(size.large), mode="clusters", store="memory")
    yield Row(f"{case}, representatives", "seconds", "lower", close_s, {"every key": exact_s},
              target=exact_s / 30 if real else None)
    yield Row(f"{case}, representatives", "GiB of GPU", "lower", gib, target=24.0 if real else None)
    cosine = np.concatenate([token_cosines(a, b).ravel() for a, b in zip(exact.patches, close.patches, strict=True)])
    yield Row(f"{case}, untrained", "1st percentile", "higher", np.quantile(cosine, 0.01), {"told": close.error.p01})
