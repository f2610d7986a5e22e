"""Exact attention over N keys: ours, block by block, beside torch's SDPA, plain softmax, and the whole dense encoder.

One block of ViT-S is timed and weighed in child processes, in turn, one thread each, in CPU seconds: other work on
the machine then counts for neither. Memory is the peak above what the process held before; freed memory goes back to
the system at once (MALLOC_MMAP_THRESHOLD_), so that what is measured is what is held. GPU rows come where there is one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from math import prod
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from cellfm_nb.bench import Row, alternate, extra_mib, gpu
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.seeds import torch_rng
from cellfm_nb.stream import StreamingEncoder
from cellfm_nb.stream.attention import online_softmax_attention
from cellfm_nb.stream.kernels import missing
from cellfm_nb.stream.run import Run

HEADS, WIDTH = 4, 32
BLOCK = 1024
PLAIN_LIMIT = 4096  # plain softmax holds N x N logits per head
REPEATS = 2
VITS_BLOCK = EncoderConfig(patch=(8, 8, 8), width=384, depth=1, heads=6, stem="patch")
FEW_BLOCKS = 4  # of queries, where the whole would take a quarter of an hour and only memory is asked for


def tensors(n: int, heads: int = HEADS, width: int = WIDTH) -> tuple[torch.Tensor, ...]:
    """Return q, k, v (H, n, d), float32."""
    draw = torch_rng(0, "bench attention", n)
    return tuple(torch.randn(heads, n, width, generator=draw) for _ in range(3))


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, backend: str = "fused") -> torch.Tensor:
    """Attend block of queries by block of queries, over blocks of keys."""
    parts = [online_softmax_attention(block, zip(k.split(BLOCK, 1), v.split(BLOCK, 1), strict=True), None, backend)[0]
             for block in q.split(BLOCK, 1)]
    return torch.cat(parts, 1)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v


def rows() -> Iterator[Row]:
    """Measure agreement, time and memory at growing N; one ViT-S block; a GPU's kernels."""
    for n in (2048, 4096, 8192):
        q, k, v = tensors(n)
        ways = {"ours": ours, "sdpa": sdpa, "torch twin": functools.partial(ours, backend="torch")}
        ways |= {"plain": plain} if n <= PLAIN_LIMIT else {}
        with torch.inference_mode():
            difference = float((ours(q, k, v) - sdpa(q, k, v)).abs().max())
            calls = {name: functools.partial(way, q, k, v) for name, way in ways.items()}
            spent, memory = alternate(calls, repeats=3), {name: extra_mib(call) for name, call in calls.items()}
        yield Row(f"{n} keys", "max difference", "lower", difference, {"sdpa": 0.0}, target=1e-5)
        yield Row(f"{n} keys", "seconds", "lower", spent.pop("ours"), spent)
        yield Row(f"{n} keys", "extra MiB", "lower", memory.pop("ours"), memory)
    yield from vits_rows()
    yield from gpu.attention_rows() if torch.cuda.is_available() else skipped("attention")


def vits_rows() -> Iterator[Row]:
    """One ViT-S block: time and memory against the whole at once; the peak from 16k to 128k tokens, stores on disk."""
    grid, found = (32, 32, 32), {way: [] for way in ("disk", "memory", "whole")}
    for _ in range(REPEATS):
        for way, runs in found.items():
            runs.append(in_child(way, grid))
    cpu, peak = ({way: median(run[i] for run in runs) for way, runs in found.items()} for i in range(2))
    case = f"ViT-S block, {prod(grid)} tokens"
    for way in ("memory", "disk"):
        yield Row(f"{case}, {way}", "CPU seconds", "lower", cpu[way], {"whole": cpu["whole"]},
                  target=1.1 * cpu["whole"])
        yield Row(f"{case}, {way}", "extra MiB", "lower", peak[way], {"whole": peak["whole"]},
                  target=0.25 * peak["whole"] if way == "disk" else None)
    small, large = (in_child("disk", grid, FEW_BLOCKS)[1] for grid in ((16, 32, 32), (128, 32, 32)))
    yield Row("ViT-S block, 131072 tokens, disk", "extra MiB", "lower", large, {"16384 tokens": small},
              target=1.1 * small)


def in_child(way: str, grid: tuple[int, int, int], blocks: int | None = None) -> tuple[float, float]:
    """Return (CPU seconds, extra MiB) of one encoder of one ViT-S block, in a process of its own."""
    code = f"from cellfm_nb.bench.attention import child; child({way!r}, {grid!r}, {blocks!r})"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def child(way: str, grid: tuple[int, int, int], blocks: int | None) -> None:
    """Encode a volume of 8 x grid voxels whole or streamed, and print what `in_child` returns."""
    from time import process_time

    encoder = Encoder(VITS_BLOCK).eval()
    volume = np.random.default_rng(0).standard_normal([8 * n for n in grid], dtype=np.float32)
    streamer = StreamingEncoder(encoder, mode="online", store="memory" if way == "whole" else way)
    streamer.encode(volume[:16, :64, :64], progress=False)  # what torch itself takes, and the measure of speed
    streamer.plan(volume.shape)
    if blocks:
        attend, left = Run._context, iter(range(blocks))

        def few(*args: object) -> torch.Tensor:
            next(left)  # StopIteration after so many
            return attend(*args)

        Run._context = few
    def run() -> None:
        with contextlib.suppress(StopIteration), torch.no_grad():
            if way == "whole":
                encoder(torch.from_numpy(volume)[None, None])
            else:
                streamer.encode(volume, progress=False, slab=lambda *planes: None)

    start = process_time()
    extra = extra_mib(run)
    print(json.dumps([process_time() - start, extra]))


def skipped(what: str) -> Iterator[Row]:
    """Say why there are no GPU rows."""
    print(f"{what}: GPU rows skipped: no CUDA device here ({missing('cpu')})", file=sys.stderr)
    return iter(())
