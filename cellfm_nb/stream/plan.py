"""What streaming a volume will cost, per way of doing it, and which way is taken: said before anything runs.

Exact attention is quadratic in time and can be linear in memory: per block 4 N^2 D floating-point operations of
attention and 24 N D^2 of everything else. Attention to M representatives of the keys makes that 4 N D (1.5 M + ...).
Memory is three stores of N rows (tokens, keys, values) and a working set.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from cellfm_nb.errors import InputError
from cellfm_nb.stream.attention import pick_backend
from cellfm_nb.stream.clusters import DEFAULT, Fit
from cellfm_nb.stream.machine import Device, free_bytes, fused_speed

TILE = 2**18  # voxels: few enough to stay in the cache, so many that their margins cost little (measured)
CARRIED = 256  # sampled tokens with exact attention, which tell the error of an approximate run
MODES = {
    ("sdpa", "memory"): "exact; all keys in memory, torch's fused attention for each block of queries",
    ("online", "memory"): "exact; all keys in memory, read block by block through online softmax",
    ("online", "pinned"): "exact; tokens, keys and values in the host's pinned memory, block by block",
    ("online", "disk"): "exact; tokens, keys and values on disk, read block by block through online softmax",
    ("clusters", "memory"): "approximate, with an estimated error; attention to representatives of the keys",
    ("clusters", "pinned"): "approximate, with an estimated error; stores in the host's pinned memory",
    ("clusters", "disk"): "approximate, with an estimated error; stores on disk",
    ("windows", "memory"): "window by window with a halo: tokens see their own window only, the error is not known",
}


@dataclass(frozen=True)
class Choice:
    """One way to stream a volume: mode, store (see `MODES`), and what it costs.

    peak_bytes, on the device; stored_bytes, of its stores elsewhere; host_bytes, in the memory of a GPU's host.
    """

    mode: str
    store: str
    peak_bytes: int
    stored_bytes: int
    flops: float
    seconds_estimate: float
    host_bytes: int = 0

    def fits(self, memory_bytes: int, host_bytes: int) -> bool:
        """Whether there is room for it on the device and beside it."""
        return self.peak_bytes <= memory_bytes and self.host_bytes <= host_bytes


@dataclass(frozen=True)
class Plan:
    """How a volume will be streamed, and the ways that were not taken.

    shape (z, y, x) voxels; grid (gz, gy, gx) tokens; tokens, their number N; blocks (q_block, kv_block) rows;
    chunk (z, y, x) tokens embedded at a time; clusters M, in mode "clusters"; peak_bytes on the device, flops and
    seconds_estimate of the way taken; backend of attention, see `attention`; memory_bytes and host_bytes, what may be
    used on the device and, for pinned stores, of its host.
    """

    shape: tuple[int, int, int]
    grid: tuple[int, int, int]
    tokens: int
    mode: str
    store: str
    backend: str
    blocks: tuple[int, int]
    chunk: tuple[int, int, int]
    clusters: int
    peak_bytes: int
    flops: float
    seconds_estimate: float
    device: str
    memory_bytes: int
    host_bytes: int
    choices: tuple[Choice, ...]

    @property
    def exact(self) -> bool:
        """Whether every token attends to every key."""
        return self.mode in ("sdpa", "online")

    @property
    def reason(self) -> str:
        """Say the choice and why in one sentence."""
        fits = "fits in" if self.peak_bytes <= self.memory_bytes else "is the least that can be done with"
        kernel = {"sdpa": "torch SDPA", "windows": "torch SDPA"}.get(self.mode, f"backend {self.backend}")
        return (f"{self.tokens:,} tokens on {self.device}: {MODES[self.mode, self.store]} ({kernel}); "
                f"{self.peak_bytes / 2**20:,.0f} MiB {fits} the {self.memory_bytes / 2**20:,.0f} MiB allowed, "
                f"about {self.seconds_estimate:,.0f} s for {self.flops:.2g} FLOP.")

    @property
    def table(self) -> Any:
        """Return all ways as a DataFrame: mode, store, exact, peak MiB, stored MiB, PFLOP, seconds, fits, chosen."""
        import pandas as pd

        return pd.DataFrame([{
            "mode": c.mode, "store": c.store, "exact": c.mode in ("sdpa", "online"),
            "peak_MiB": round(c.peak_bytes / 2**20, 1), "stored_MiB": round(c.stored_bytes / 2**20, 1),
            "PFLOP": float(f"{c.flops / 1e15:.3g}"), "seconds": round(c.seconds_estimate, 1),
            "fits": c.fits(self.memory_bytes, self.host_bytes), "chosen": (c.mode, c.store) == (self.mode, self.store),
        } for c in self.choices])

    def __str__(self) -> str:
        return f"{self.reason}\n{self.table.to_string(index=False)}"


def plan(shape: tuple[int, int, int], config: Any, device: str | torch.device | Device = "cpu",
         memory_bytes: int | None = None, store: str = "auto", mode: str = "auto", q_block: int | None = None,
         kv_block: int | None = None, flops_per_s: float | None = None, dtype: torch.dtype = torch.float32,
         backend: str = "auto", clusters: int = 128, patience_s: float = 3600.0, collect: bool = True,
         window: tuple[int, int, int] = (14, 14, 14), halo: int = 4) -> Plan:
    """Plan the streaming of one volume.

    Parameters: shape (z, y, x) in voxels; config, an EncoderConfig (patch, width, depth, heads); device, or a
    `Device` of stated figures; memory_bytes, what may be used (default: half of what is free on a CPU, 80% on a GPU);
    store "auto" | "memory" | "pinned" | "disk"; mode "auto" | "sdpa" | "online" | "clusters" | "windows"; q_block and
    kv_block, rows at a time (default by device); flops_per_s, speed of fused attention here (default: measured in a
    few milliseconds); dtype of keys and values; backend, see `pick_backend`; clusters, M; patience_s, the longest
    exact run that "auto" takes; collect, whether all features are held in memory at the end; window and halo, tokens.
    Returns: `Plan`. The fastest exact way that fits is taken, and beyond patience_s the fastest with an estimated
    error; windows only when asked for. If none fits, the smallest.
    Raises: InputError for an impossible shape or a combination that does not exist (sdpa needs keys in memory).
    """
    if len(shape) != 3 or min(shape) < 1:
        raise InputError("this is not the shape of a volume", got=tuple(shape), expected="(z, y, x), each at least 1")
    if isinstance(device, Device):
        name, kind, speed, budget = device.name, device.kind, device.flops_per_s, memory_bytes or device.memory_bytes
        host = device.host_bytes
        backend = {"cpu": "fused", "cuda": "triton"}[kind] if backend == "auto" else backend
    else:
        device = torch.device(device)
        name, kind, backend = str(device), device.type, pick_backend(device, backend)
        speed = flops_per_s or fused_speed(config.heads, config.width // config.heads, device, dtype)
        budget = memory_bytes or int(free_bytes(device) * (0.5 if kind == "cpu" else 0.8))
        host = 0 if kind == "cpu" else int(0.5 * free_bytes(torch.device("cpu")))
    grid = tuple(-(-n // p) for n, p in zip(shape, config.patch, strict=True))
    n, d, heads, wide = prod(grid), config.width, config.heads, dtype.itemsize
    q_block = q_block or (2048 if kind == "cpu" else 16384)
    kv_block = kv_block or (4096 if kind == "cpu" else 65536)
    chunk = chunk_of(grid, config.patch)

    linear = 24.0 * n * d * d
    dense = config.depth * (4.0 * n * n * d + linear)
    few = config.depth * (4.0 * n * d * attended(clusters) + linear)
    tile = prod(min(w + 2 * halo, g) for w, g in zip(window, grid, strict=True))  # tokens of a window and its halo
    tiles = prod(-(-g // w) for w, g in zip(window, grid, strict=True))
    apart = tiles * config.depth * (4.0 * tile * tile * d + 24.0 * tile * d * d)

    # a voxel costs a stem of filters the time of so many operations of attention (measured on a CPU)
    stem = prod(shape) * (10_000 if config.stem != "patch" else 4 * d) / speed

    rows = n * d * (4 + 2 * wide)  # bytes of the three stores
    saliency = 2 * 4 * heads * n
    features = (4 * d * n if collect and kind == "cpu" else 0) + saliency  # on a GPU they are on the host
    # a stem of filters works on about 32 floats a voxel (on a CPU of one tile: see `stem`), one of patches on few
    # (measured); the widest tensors of a block of queries are the MLP's
    read = prod((c + 2) * p for c, p in zip(chunk, config.patch, strict=True))
    floats = (4 + 3 * d // prod(config.patch)) * read
    if config.stem != "patch":
        floats = 4 * read + 32 * min(read, 2 * TILE) if kind == "cpu" else 32 * read
    embed = 4 * floats
    work = max(4 * min(q_block, n) * 14 * d, embed) + 6 * min(kv_block, n) * d * wide  # block in hand and the next
    if backend == "torch":
        work += 3 * 4 * heads * min(q_block, n) * min(kv_block, n)
    fit = fit_bytes(n, heads, d, clusters)
    slow = {"torch": 1.8 if kind == "cpu" else 4.0}.get(backend, 1.1)  # against the fused kernel in one call, measured
    ways = [Choice("sdpa", "memory", rows + features + work, 0, dense, stem + dense / speed)]
    for where, copy in (("memory", 1.0), ("pinned", 1.1), ("disk", 1.15)):
        if where == "pinned" and kind == "cpu":
            continue
        here, away = (rows, 0) if where == "memory" else (0, rows)
        pinned = rows if where == "pinned" else 0
        ways += [Choice("online", where, here + features + work, away, dense,
                        stem + copy * slow * dense / speed, pinned),
                 Choice("clusters", where, here + features + work + fit, away, few,
                        stem + copy * 2 * few / speed, pinned)]
    ways.append(Choice("windows", "memory", n * d * 4 + features + 4 * 20 * tile * d, 0, apart,
                       stem + apart / speed))
    allowed = [w for w in ways if store in ("auto", w.store) and mode in ("auto", w.mode)]
    if not allowed:
        raise InputError("no such way to stream", got=f"mode {mode}, store {store}",
                         expected="; ".join(f"{m} with {s}" for m, s in MODES), do="let one of them be auto")
    best = choose(allowed, budget, host, patience_s, free=mode == "auto")
    return Plan(tuple(shape), grid, n, best.mode, best.store, backend, (q_block, kv_block), chunk, clusters,
                best.peak_bytes, best.flops, best.seconds_estimate, name, budget, host, tuple(ways))


def choose(ways: list[Choice], budget: int, host: int, patience_s: float, free: bool) -> Choice:
    """Return the way to take: exact if it fits and is not over patience_s, else approximate with an estimated error."""
    if not free:
        groups = [ways]
    else:
        exact = [w for w in ways if w.mode in ("sdpa", "online")]
        soon = [w for w in exact if w.seconds_estimate <= patience_s]
        groups = [soon, [w for w in ways if w.mode == "clusters"], exact]
    for group in groups:
        if fitting := [w for w in group if w.fits(budget, host)]:
            return min(fitting, key=lambda w: w.seconds_estimate)
    return min(groups[-1], key=lambda w: (w.host_bytes > host, w.peak_bytes))


def fit_bytes(tokens: int, heads: int, width: int, clusters: int, fit: Fit = DEFAULT) -> int:
    """Return the bytes the finding of representatives takes at its peak, beside the stores.

    The mass of every key, float32, and its running sum, float64; or the sample of keys and values and the distances of
    a thousand of them.
    """
    sample = max(fit.sample, 4 * clusters) + fit.heavy
    return heads * 12 * tokens + 4 * heads * 2048 * clusters + 4 * 4 * sample * width


def attended(clusters: int, fit: Fit = DEFAULT, carried: int = CARRIED) -> float:
    """Return how many keys' worth of attention a token costs with M clusters.

    To attend and (half of that) to assign; the heavy keys; the probes of the mass; the sampled exact queries.
    """
    return 1.5 * clusters + fit.heavy + fit.probes + carried


def chunk_of(grid: tuple[int, int, int], patch: tuple[int, int, int], voxels: int = 2**20) -> tuple[int, int, int]:
    """Return the tokens (z, y, x) to embed at a time: halve the longest side until at most `voxels` are in it."""
    chunk = list(grid)
    while prod(chunk) * prod(patch) > voxels and max(chunk) > 1:
        axis = max(range(3), key=lambda a: (chunk[a] > 1, chunk[a] * patch[a]))
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)
