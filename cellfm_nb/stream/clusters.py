"""Attention to a few representatives of all keys: cost linear in the number of tokens, nearly the same features.

A head's output depends only on the distribution of its (key, value) pairs. So M clusters of keys stand for all of
them: each key is replaced by the mean key and mean value of its cluster, and the cluster's logit gets the logarithm of
its count. One ingredient decides (streaming_repair_findings.md, 1): the clusters are fitted where attention looks.
Half of the sample is drawn in proportion to the mass that probe queries give each key, and the heaviest keys stay
themselves. Attention is exact when keys of a cluster are identical, and when there are as many representatives as keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Blocks = Callable[[], Iterable[tuple[Tensor, ...]]]  # gives (k, v), each (H, n, d), block after block


@dataclass(frozen=True)
class Fit:
    """Say how representatives are found: sizes of the sample and of the exact part, iterations of Lloyd."""

    probes: int = 64  # queries that say where attention looks
    heavy: int = 64  # keys kept as they are, those of the largest mass
    sample: int = 4096  # keys (at least 4 M) the clusters are fitted to: half uniform, half by their mass
    iterations: int = 2


DEFAULT = Fit()


@dataclass(frozen=True)
class Representatives:
    """Hold what stands for all keys of a block: k and v (H, R, d), bias (H, 1, R) = log count, -inf if empty."""

    k: Tensor
    v: Tensor
    bias: Tensor

    def __iter__(self) -> Iterable[Tensor]:
        return iter((self.k, self.v, self.bias))


def represent(blocks: Blocks, probes: Tensor, rows: int, first: int, clusters: int, scale: float,
              draw: torch.Generator, fit: Fit = DEFAULT) -> Representatives:
    """Find the representatives of the keys and values of one block, in four passes over them.

    Parameters: blocks, called for each pass; probes (H, P, d), queries; rows, their number N; first, leading rows
    (CLS, registers) that always stay themselves; clusters, M; scale of the logits; draw, of the sample; fit.
    Returns: `Representatives` with R = first + heavy + M. With R >= N they are the keys themselves.
    """
    if first + fit.heavy + clusters >= rows:
        k, v = (torch.cat(parts, 1) for parts in zip(*blocks(), strict=True))
        return Representatives(k, v, torch.zeros(len(k), 1, rows, device=k.device))
    mass = probe_mass(blocks, probes, rows, scale)  # H, N
    mass[:, :first] = torch.inf
    heavy = mass.topk(first + fit.heavy, dim=1).indices  # H, first + heavy
    mass.scatter_(1, heavy, 0.0)  # in place, as what grows with N counts: 4 + 8 bytes a head and key
    ends = mass.cpu().double().cumsum_(1)
    half = max(fit.sample, 4 * clusters) // 2
    by_mass = torch.searchsorted(ends, torch.rand(len(ends), half, generator=draw, dtype=torch.float64) * ends[:, -1:])
    uniform = torch.randint(first, rows, (len(ends), half), generator=draw)
    k, v = collect(blocks, torch.cat([heavy.cpu(), by_mass.clamp_(max=rows - 1), uniform], 1))
    kept = heavy.shape[1]
    centres = lloyd(k[:, kept:], clusters, fit.iterations, draw)
    count, mean_k, mean_v = cluster_means(blocks, centres, heavy)
    bias = torch.cat([count.new_zeros(len(k), kept), count.log()], 1)[:, None]
    return Representatives(torch.cat([k[:, :kept], mean_k.to(k.dtype)], 1),
                           torch.cat([v[:, :kept], mean_v.to(v.dtype)], 1), bias)


def probe_mass(blocks: Blocks, probes: Tensor, rows: int, scale: float) -> Tensor:
    """Return the softmax weight of each of N = rows keys, averaged over probe queries (H, P, d): (H, N), sums of 1."""
    probes = probes.float() * scale
    lse = probes.new_full(probes.shape[:2], -torch.inf)
    for k, *_ in blocks():
        lse = torch.logaddexp(lse, (probes @ k.float().transpose(1, 2)).logsumexp(-1))
    mass, start = probes.new_empty(len(probes), rows), 0
    for k, *_ in blocks():
        stop = start + k.shape[1]
        mass[:, start:stop] = (probes @ k.float().transpose(1, 2)).sub_(lse[..., None]).exp_().mean(1)
        start = stop
    return mass


def collect(blocks: Blocks, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values (H, S, d) of rows (H, S), any order, each head its own, in one pass."""
    ordered, order = rows.sort(1)
    found: tuple[Tensor, Tensor] | None = None
    start = 0
    for block in blocks():
        if found is None:
            found = tuple(part.new_empty(*rows.shape, part.shape[-1]) for part in block)
        stop = start + block[0].shape[1]
        cuts = torch.searchsorted(ordered, torch.tensor([[start, stop]]).repeat(len(rows), 1)).tolist()
        for head, (low, high) in enumerate(cuts):
            local = (ordered[head, low:high] - start).to(block[0].device)
            for part, into in zip(block, found, strict=True):
                into[head, order[head, low:high].to(into.device)] = part[head, local]
        start = stop
    return found


def lloyd(points: Tensor, clusters: int, iterations: int, draw: torch.Generator) -> Tensor:
    """Fit cluster centres (H, M, d) to points (H, S, d) by Lloyd's algorithm (1957), from points drawn at random."""
    heads, n, d = points.shape
    points = points.float()
    start = torch.stack([torch.randperm(n, generator=draw)[:clusters] for _ in range(heads)]).to(points.device)
    centres = points.gather(1, start[..., None].expand(-1, -1, d))
    for _ in range(iterations):
        label = nearest(points, centres)
        count, total = sums(label, clusters, points.new_ones(heads, n, 1)), sums(label, clusters, points)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
    return centres


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index (H, n) of the nearest centre (H, M, d) to each point (H, n, d); a few at a time."""
    size, few = centres.square().sum(-1)[:, None] / 2, 256 if points.device.type == "cpu" else 8192  # in the cache
    logits = ((some.float() @ centres.transpose(1, 2)).sub_(size) for some in points.split(few, 1))
    return torch.cat([some.max(-1).indices for some in logits], 1)  # half the time of argmax


def sums(label: Tensor, clusters: int, points: Tensor) -> Tensor:
    """Add up the points (H, n, e) of each label (H, n): (H, clusters, e)."""
    heads, _, e = points.shape
    flat = (label + torch.arange(heads, device=label.device)[:, None] * clusters).flatten()
    total = torch.zeros(heads * clusters, e, dtype=points.dtype, device=points.device)
    return total.index_add_(0, flat, points.reshape(-1, e)).view(heads, clusters, e)


def cluster_means(blocks: Blocks, centres: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Assign every key to its nearest centre, in one pass.

    Parameters: blocks; centres (H, M, d); left_out (H, r), rows that belong to no cluster.
    Returns: count (H, M), mean key and mean value (H, M, d), all float32; summed in float64.
    """
    heads, m, _ = centres.shape
    total: Tensor | float = 0.0
    start = 0
    for k, v in blocks():
        label = nearest(k, centres)
        here = (left_out >= start) & (left_out < start + k.shape[1])
        for head in range(heads):
            label[head, left_out[head, here[head]] - start] = m  # a bin that is thrown away
        ones = k.new_ones(heads, k.shape[1], 1, dtype=torch.float32)
        total = total + sums(label, m + 1, torch.cat([k.float(), v.float(), ones], -1)).double()
        start += k.shape[1]
    count = total[:, :m, -1:]
    mean = (total[:, :m, :-1] / count.clamp(min=1)).float()
    return count[..., 0].float(), mean[..., :centres.shape[-1]], mean[..., centres.shape[-1]:]
