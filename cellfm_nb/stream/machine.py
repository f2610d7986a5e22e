"""What a machine can do: its memory, and its speed at fused attention, measured here or stated for another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Device:
    """Say what a machine can do: kind "cpu" | "cuda", memory it may use, operations per second of fused attention,
    and the memory of the host beside a GPU, for pinned stores."""

    name: str
    kind: str
    memory_bytes: int
    flops_per_s: float
    host_bytes: int = 0


STATED = (  # figures stated, not measured here; of Hopper: Triton's published 403 TFLOP/s (bfloat16, 64 channels)
    Device("CPU, 2 cores, 16 GiB", "cpu", 16 * 2**30, 8e10),
    Device("GPU, 24 GiB, 125 TFLOP/s peak", "cuda", 22 * 2**30, 5.1e13, 48 * 2**30),
    Device("GPU, 141 GiB (H200)", "cuda", 136 * 2**30, 4.03e14, 96 * 2**30),
)


@cache  # once a process: two plans of one session can then be compared
def fused_speed(heads: int, head_dim: int, device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Measure the floating-point operations per second of fused attention on a device (best of three)."""
    n, m = (256, 4096) if device.type == "cpu" else (16384, 16384)
    q = torch.ones(1, heads, n, head_dim, device=device, dtype=dtype)
    k = torch.ones(1, heads, m, head_dim, device=device, dtype=dtype)
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
