"""Many workers that equal one: whatever spans the whole batch is summed over all ranks, forward and backward.

Every rank holds the same weights and its own share of each global batch. A statistic of the batch (the heads' means,
Sinkhorn's columns, KoLeo's neighbours, the number of hidden tokens) is that of the global batch, and gradients are
averaged after the backward pass and before clipping. Without a process group, or with one rank, nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun has started, if it has; yield the device of this one.

    Reads RANK, WORLD_SIZE and LOCAL_RANK from the environment; NCCL on GPUs, gloo on CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield device
        return
    if device == "cuda":
        device = f"cuda:{int(os.environ['LOCAL_RANK'])}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def together() -> bool:
    """Say whether there is more than one rank."""
    return rank_and_world()[1] > 1


class _Sum(torch.autograd.Function):
    """Sum over ranks; the gradient of a rank's input is the sum of what all ranks ask of it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def total(x: Tensor) -> Tensor:
    """Return the sum of x over all ranks; gradients flow."""
    return _Sum.apply(x) if together() else x


def gathered(x: Tensor, dim: int = 0) -> Tensor:
    """Return x of all ranks, joined along a dimension in their order; gradients flow."""
    rank, world = rank_and_world()
    if world == 1:
        return x
    parts = [torch.zeros_like(x) for _ in range(world)]
    parts[rank] = x
    return total(torch.cat(parts, dim))  # a sum with zeros: one collective, the same backward


def standardise(rows: Tensor) -> Tensor:
    """Shift and scale each column of (n, D) to mean 0 and standard deviation 1 over the rows of all ranks.

    A single row becomes zeros.
    """
    n = len(rows) * rank_and_world()[1]
    mean = total(rows.sum(dim=0)) / n
    variance = total((rows - mean).square().sum(dim=0)) / n
    return (rows - mean) * (variance + 1e-5).rsqrt()


def column_logsumexp(logits: Tensor) -> Tensor:
    """Return logsumexp over the rows (n, K) of all ranks: (1, K). No gradient."""
    if not together():
        return torch.logsumexp(logits, dim=0, keepdim=True)
    top = logits.amax(dim=0, keepdim=True)
    dist.all_reduce(top, op=dist.ReduceOp.MAX)
    mass = (logits - top).exp().sum(dim=0, keepdim=True)
    dist.all_reduce(mass)
    return top + mass.log()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over ranks, in one collective; a missing one counts as zero everywhere."""
    _, world = rank_and_world()
    if world == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, part in zip(parameters, (flat / world).split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


def mean_over_ranks(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Return the means over ranks of some numbers."""
    _, world = rank_and_world()
    if world == 1:
        return values
    sums = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return dict(zip(values, (sums / world).tolist(), strict=True))


def barrier() -> None:
    """Wait for all ranks."""
    if together():
        dist.barrier()
