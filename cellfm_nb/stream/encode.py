"""Encode a volume of any size with the memory of a few blocks: the same features as the dense encoder, no seams.

Voxels are embedded chunk by chunk with the stem's halo. Then, block by block, keys and values of all tokens are
written to stores and queries stream over them; each token attends to every other, so nothing is tiled or blended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.errors import InputError
from cellfm_nb.progress import Progress
from cellfm_nb.stream.attention import online_softmax_attention
from cellfm_nb.stream.plan import Plan, fused_speed, plan
from cellfm_nb.stream.store import TokenStore

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder


@dataclass(frozen=True)
class Features:
    """Hold the descriptors of one volume on its token grid.

    patches (gz, gy, gx, D) float32, after the final norm; saliency (gz, gy, gx, H) float32, softmax attention of the
    CLS token in the last block; cls (D,) float32. Token (z, y, x) describes the voxels [z, z + 1) * patch[0] and so on.
    """

    patches: np.ndarray
    saliency: np.ndarray
    cls: np.ndarray
    plan: Plan


class StreamingEncoder:
    """Run an encoder over whole volumes, exactly, in bounded memory.

    Parameters: encoder, on the device to use (it is put in eval mode); store "auto" | "memory" | "disk"; mode "auto" |
    "sdpa" (fused attention, keys in memory) | "online" (blockwise online softmax); q_block and kv_block, rows at a
    time; memory_bytes, what may be used (default: half of what is free); folder, for the temporary files of the disk
    store. What is left open is chosen by `plan`, which can be asked beforehand.
    """

    def __init__(self, encoder: Encoder, store: str = "auto", mode: str = "auto", q_block: int | None = None,
                 kv_block: int | None = None, memory_bytes: int | None = None, folder: str | None = None) -> None:
        self.encoder, self.folder = encoder.eval(), folder
        self.device = next(encoder.parameters()).device
        self.dtype = next(encoder.parameters()).dtype
        self._options = dict(store=store, mode=mode, q_block=q_block, kv_block=kv_block, memory_bytes=memory_bytes)
        self._speed: float | None = None

    def plan(self, shape: tuple[int, int, int]) -> Plan:
        """Say how a volume of this shape (z, y, x) in voxels would be streamed, and at what cost."""
        config = self.encoder.config
        self._speed = self._speed or fused_speed(config.heads, config.width // config.heads, self.device)
        return plan(tuple(shape), config, self.device, flops_per_s=self._speed, **self._options)

    @torch.no_grad()
    def encode(self, volume: Any, progress: bool = True) -> Features:
        """Encode one volume.

        Parameters: volume, (z, y, x), normalised, at the encoder's spacing; an array or anything that has a shape and
        slices to one (a Zarr array is read chunk by chunk); progress, show how far it is.
        Returns: `Features`, equal to the dense encoder's to float32 rounding whatever the blocks, chunks and store.
        Raises: InputError for a volume that is not 3D or has NaN or infinite voxels, or when the disk is full.
        """
        if len(volume.shape) != 3:
            raise InputError("only a volume can be streamed", got=f"shape {tuple(volume.shape)}", expected="(z, y, x)")
        how, blocks = self.plan(volume.shape), self.encoder.blocks
        first, width = 1 + self.encoder.config.registers, self.encoder.config.width
        bar = Progress(how.tokens * (1 + len(blocks)), "stream volume", every_s=5.0) if progress else None
        with ExitStack() as stack:
            x, k, v = (stack.enter_context(TokenStore(first + how.tokens, width, self.dtype, how.store, self.device,
                                                      self.folder)) for _ in range(3))
            x.write(0, self.encoder.prefix(1)[0])
            for where, tokens in self._embed(volume, how):
                _write_chunk(x, first, how.grid, where, tokens)
                if bar:
                    bar.step(tokens.shape[:3].numel())
            for block in blocks:
                for start, stop in _spans(x.rows, how.blocks[0]):
                    _, keys, values = self._qkv(block, x, start, stop, how)
                    k.write(start, _rows(keys))
                    v.write(start, _rows(values))
                if block is blocks[-1]:
                    saliency = self._saliency(block, x, k, how)[first:]  # N, H
                for start, stop in _spans(x.rows, how.blocks[0]):
                    rows = x.read(start, stop)[None]  # 1, n, D
                    q, _, _ = self._qkv(block, x, start, stop, how)
                    # keys and values of this block are all stored, so the tokens can be replaced in place
                    x.write(start, block.finish(rows, _rows(self._attend(q, k, v, how))[None])[0])
                    if bar:
                        bar.step(max(0, stop - max(start, first)))
            patches = torch.empty(how.tokens, width, dtype=torch.float32)
            for start, stop in _spans(how.tokens, how.blocks[0]):
                patches[start:stop] = self.encoder.norm(x.read(first + start, first + stop)).float().cpu()
            cls = self.encoder.norm(x.read(0, 1))[0].float().cpu()
        if bar:
            bar.close()
        return Features(patches.numpy().reshape(*how.grid, width), saliency.cpu().numpy().reshape(*how.grid, -1),
                        cls.numpy(), how)

    def _embed(self, volume: Any, how: Plan) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """Yield (token slices, tokens (cz, cy, cx, D)) of each chunk, embedded with its halo and cut to itself."""
        patch, halo = self.encoder.config.patch, self.encoder.halo
        for corner in product(*(range(0, g, c) for g, c in zip(how.grid, how.chunk, strict=True))):
            stop = [min(a + c, g) for a, c, g in zip(corner, how.chunk, how.grid, strict=True)]
            low = [max(a * p - h, 0) for a, p, h in zip(corner, patch, halo, strict=True)]  # voxels, whole patches
            high = [min(b * p + h, n) for b, p, h, n in zip(stop, patch, halo, volume.shape, strict=True)]
            voxels = np.asarray(volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], np.float32)
            if not np.isfinite(voxels).all():
                raise InputError("the volume has NaN or infinite voxels", where=f"voxels {low} to {high}",
                                 expected="finite, normalised intensities", do="normalise it with notebook 02 first")
            tokens, grid = self.encoder.embed(torch.from_numpy(voxels).to(self.device, self.dtype)[None, None])
            inner = tuple(slice(a - m // p, b - m // p) for a, b, m, p in zip(corner, stop, low, patch, strict=True))
            where = tuple(slice(a, b) for a, b in zip(corner, stop, strict=True))
            tokens = tokens[0].reshape(*grid, -1)[inner]
            code = self.encoder.position.added(where, how.grid)
            yield where, tokens if code is None else tokens + code.to(tokens.dtype)

    def _qkv(self, block: Any, x: TokenStore, start: int, stop: int, how: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v of rows start to stop, each (H, n, d), at their place in the volume."""
        angles = self.encoder.position.angles(start, stop, how.grid, 1 + self.encoder.config.registers)
        return tuple(part[0] for part in block.attention.qkv(block.norm1(x.read(start, stop)[None]), angles))

    def _attend(self, q: Tensor, k: TokenStore, v: TokenStore, how: Plan) -> Tensor:
        """Return the context (H, n, d) of queries (H, n, d) over all stored keys and values."""
        heads = q.shape[0]
        if how.mode == "sdpa":
            keys, values = (_heads(store.read(0, store.rows), heads)[None] for store in (k, v))
            return F.scaled_dot_product_attention(q[None], keys, values)[0]
        blocks = ((_heads(k.read(a, b), heads), _heads(v.read(a, b), heads)) for a, b in _spans(k.rows, how.blocks[1]))
        return online_softmax_attention(q, blocks)[0]

    def _saliency(self, block: Any, x: TokenStore, k: TokenStore, how: Plan) -> Tensor:
        """Return the softmax attention of the CLS token over all rows, (rows, H) float32."""
        q = self._qkv(block, x, 0, 1, how)[0].float()  # H, 1, d
        logits = [(q @ _heads(k.read(a, b), q.shape[0]).float().transpose(1, 2))[:, 0] * q.shape[-1] ** -0.5
                  for a, b in _spans(k.rows, how.blocks[1])]
        return torch.cat(logits, dim=1).softmax(dim=1).T.contiguous()


def _spans(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of blocks of at most `size` rows."""
    return ((start, min(start + size, rows)) for start in range(0, rows, size))


def _rows(heads: Tensor) -> Tensor:
    """(H, n, d) -> (n, H d)"""
    return heads.transpose(0, 1).flatten(1)


def _heads(rows: Tensor, heads: int) -> Tensor:
    """(n, H d) -> (H, n, d)"""
    return rows.unflatten(1, (heads, -1)).transpose(0, 1)


def _write_chunk(store: TokenStore, first: int, grid: tuple[int, int, int], where: tuple[slice, ...],
                 tokens: Tensor) -> None:
    """Write tokens (cz, cy, cx, D) of a chunk at their rows: z, y, x with x running fastest, after `first` rows."""
    zs, ys, xs = where
    if (ys.stop - ys.start, xs.stop - xs.start) == grid[1:]:  # whole planes are one run of rows
        store.write(first + zs.start * prod(grid[1:]), tokens.flatten(0, 2))
        return
    for i, z in enumerate(range(zs.start, zs.stop)):
        for j, y in enumerate(range(ys.start, ys.stop)):
            store.write(first + (z * grid[1] + y) * grid[2] + xs.start, tokens[i, j])
