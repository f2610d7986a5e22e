"""What streaming a volume will cost, per way of doing it, and which way is taken: said before anything runs.

Exact attention is quadratic in time and can be linear in memory. Per block: 4 N^2 D floating-point operations of
attention and 24 N D^2 of everything else. Memory is three stores of N rows (tokens, keys, values) and a working set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from cellfm_nb.errors import InputError

MODES = {
    ("sdpa", "memory"): "all keys in memory, torch's fused attention for each block of queries",
    ("online", "memory"): "all keys in memory, read block by block through online softmax",
    ("online", "disk"): "tokens, keys and values on disk, read block by block through online softmax",
}


@dataclass(frozen=True)
class Choice:
    """One way to stream a volume: mode "sdpa" | "online", store "memory" | "disk", and what it costs."""

    mode: str
    store: str
    peak_bytes: int
    disk_bytes: int
    seconds_estimate: float


@dataclass(frozen=True)
class Plan:
    """How a volume will be streamed, and the ways that were not taken.

    shape (z, y, x) voxels; grid (gz, gy, gx) tokens; tokens, their number N; blocks (q_block, kv_block) rows;
    chunk (z, y, x) tokens embedded at a time; peak_bytes and seconds_estimate of the way taken; flops of the encoder.
    """

    shape: tuple[int, int, int]
    grid: tuple[int, int, int]
    tokens: int
    mode: str
    store: str
    blocks: tuple[int, int]
    chunk: tuple[int, int, int]
    peak_bytes: int
    flops: float
    seconds_estimate: float
    device: str
    memory_bytes: int
    choices: tuple[Choice, ...]

    @property
    def reason(self) -> str:
        """Say the choice and why in one sentence."""
        fits = "fits in" if self.peak_bytes <= self.memory_bytes else "is the least that can be done with"
        return (f"{self.tokens:,} tokens on {self.device}: {MODES[self.mode, self.store]}; "
                f"{self.peak_bytes / 2**20:,.0f} MiB {fits} the {self.memory_bytes / 2**20:,.0f} MiB allowed, "
                f"about {self.seconds_estimate:,.0f} s for {self.flops:.2g} FLOP.")

    @property
    def table(self) -> Any:
        """Return all ways as a DataFrame: mode, store, peak MiB, disk MiB, seconds, fits, chosen."""
        import pandas as pd

        return pd.DataFrame([{
            "mode": c.mode, "store": c.store, "peak_MiB": round(c.peak_bytes / 2**20, 1),
            "disk_MiB": round(c.disk_bytes / 2**20, 1), "seconds": round(c.seconds_estimate, 1),
            "fits": c.peak_bytes <= self.memory_bytes, "chosen": (c.mode, c.store) == (self.mode, self.store),
        } for c in self.choices])

    def __str__(self) -> str:
        return f"{self.reason}\n{self.table.to_string(index=False)}"


def plan(shape: tuple[int, int, int], config: Any, device: str | torch.device = "cpu",
         memory_bytes: int | None = None, store: str = "auto", mode: str = "auto", q_block: int | None = None,
         kv_block: int | None = None, flops_per_s: float | None = None) -> Plan:
    """Plan the streaming of one volume.

    Parameters: shape (z, y, x) in voxels; config, an EncoderConfig (patch, width, depth, heads); device;
    memory_bytes, what may be used (default: half of what is free on the device); store "auto" | "memory" | "disk";
    mode "auto" | "sdpa" | "online"; q_block and kv_block, rows at a time (default by device); flops_per_s, speed of
    fused attention here (default: measured in a few milliseconds).
    Returns: `Plan`. The fastest way that fits is taken; if none does, the smallest.
    Raises: InputError for an impossible shape or a combination that does not exist (sdpa needs keys in memory).
    """
    if len(shape) != 3 or min(shape) < 1:
        raise InputError("this is not the shape of a volume", got=tuple(shape), expected="(z, y, x), each at least 1")
    device = torch.device(device)
    grid = tuple(-(-n // p) for n, p in zip(shape, config.patch, strict=True))
    n, d, heads = prod(grid), config.width, config.heads
    q_block = q_block or (1024 if device.type == "cpu" else 4096)
    kv_block = kv_block or (512 if device.type == "cpu" else 8192)
    chunk = chunk_of(grid, config.patch)
    flops = config.depth * (4.0 * n * n * d + 24.0 * n * d * d)
    speed = flops_per_s or fused_speed(heads, d // heads, device)
    budget = memory_bytes or free_bytes(device) // 2

    rows = 4 * d * n  # bytes of one float32 store
    features = 4 * (d + heads) * n  # what is returned
    # the stem works on about 32 floats a voxel (measured); the widest tensors of a block of queries are the MLP's
    embed = 4 * 32 * prod((c + 2) * p for c, p in zip(chunk, config.patch, strict=True))
    block = max(4 * min(q_block, n) * 12 * d, embed)
    scores = 3 * 4 * heads * min(q_block, n) * min(kv_block, n)
    slow = 1.8 if device.type == "cpu" else 4.0  # online softmax in plain torch against the fused kernel, measured
    ways = (
        Choice("sdpa", "memory", 3 * rows + features + block, 0, flops / speed),
        Choice("online", "memory", 3 * rows + features + block + scores, 0, slow * flops / speed),
        Choice("online", "disk", features + block + scores, 3 * rows, 1.15 * slow * flops / speed),
    )
    allowed = [w for w in ways if store in ("auto", w.store) and mode in ("auto", w.mode)]
    if not allowed:
        raise InputError("no such way to stream", got=f"mode {mode}, store {store}",
                         expected="; ".join(f"{m} with {s}" for m, s in MODES), do="let one of them be auto")
    fitting = [w for w in allowed if w.peak_bytes <= budget]
    best = min(fitting, key=lambda w: w.seconds_estimate) if fitting else min(allowed, key=lambda w: w.peak_bytes)
    return Plan(tuple(shape), grid, n, best.mode, best.store, (q_block, kv_block), chunk, best.peak_bytes, flops,
                best.seconds_estimate, str(device), budget, ways)


def chunk_of(grid: tuple[int, int, int], patch: tuple[int, int, int], voxels: int = 2**20) -> tuple[int, int, int]:
    """Return the tokens (z, y, x) to embed at a time: halve the longest side until at most `voxels` are in it."""
    chunk = list(grid)
    while prod(chunk) * prod(patch) > voxels and max(chunk) > 1:
        axis = max(range(3), key=lambda a: (chunk[a] > 1, chunk[a] * patch[a]))
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)


def fused_speed(heads: int, head_dim: int, device: torch.device) -> float:
    """Measure the floating-point operations per second of fused attention on a device (best of three)."""
    n, m = (256, 4096) if device.type == "cpu" else (16384, 16384)
    q = torch.ones(1, heads, n, head_dim, device=device)
    k = torch.ones(1, heads, m, head_dim, device=device)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        F.scaled_dot_product_attention(q, k, k)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 4.0 * n * m * heads * head_dim / best


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes (of the machine for "cpu")."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        import psutil

        return psutil.virtual_memory().available
    except ImportError:
        import os

        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
