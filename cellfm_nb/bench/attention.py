"""Exact attention over N keys: our blockwise online softmax, torch's SDPA, and plain softmax where it fits."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from cellfm_nb.bench import Row, alternate, extra_mib
from cellfm_nb.seeds import torch_rng
from cellfm_nb.stream.attention import online_softmax_attention

HEADS, WIDTH = 4, 32
BLOCK = 1024
PLAIN_LIMIT = 4096  # plain softmax holds N x N logits per head


def tensors(n: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return q, k, v (H, n, d), float32."""
    draw = torch_rng(seed, "bench attention", n)
    return tuple(torch.randn(HEADS, n, WIDTH, generator=draw) for _ in range(3))


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend block of queries by block of queries, over blocks of keys."""
    parts = [online_softmax_attention(block, zip(k.split(BLOCK, 1), v.split(BLOCK, 1), strict=True))[0]
             for block in q.split(BLOCK, 1)]
    return torch.cat(parts, 1)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v


def rows() -> Iterator[Row]:
    """Measure agreement, time and memory at growing N."""
    for n in (2048, 4096, 8192):
        q, k, v = tensors(n)
        ways = {"ours": ours, "sdpa": sdpa} | ({"plain": plain} if n <= PLAIN_LIMIT else {})
        with torch.inference_mode():
            difference = float((ours(q, k, v) - sdpa(q, k, v)).abs().max())
            calls = {name: functools.partial(way, q, k, v) for name, way in ways.items()}
            spent, memory = alternate(calls, repeats=3), {name: extra_mib(call) for name, call in calls.items()}
        yield Row(f"{n} keys", "max difference", "lower", difference, {"sdpa": 0.0}, target=1e-5)
        yield Row(f"{n} keys", "seconds", "lower", spent.pop("ours"), spent)
        yield Row(f"{n} keys", "extra MiB", "lower", memory.pop("ours"), memory)
