"""Encode a volume of any size with the memory of a few blocks: every key counted, no seams.

Each token attends to every other, so nothing is tiled or blended. Where that would take too long, queries attend to
representatives of the keys, and the error is estimated and held to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import log, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cellfm_nb.encoder.host import keep_freed_memory
from cellfm_nb.errors import InputError
from cellfm_nb.progress import Progress
from cellfm_nb.stream.clusters import DEFAULT, Fit
from cellfm_nb.stream.embed import write_chunk
from cellfm_nb.stream.estimate import Estimate
from cellfm_nb.stream.machine import fused_speed
from cellfm_nb.stream.plan import Plan, plan
from cellfm_nb.stream.run import Run
from cellfm_nb.stream.store import TokenStore, spans
from cellfm_nb.stream.windows import window_tokens

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder

Slab = Callable[[int, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Features:
    """Hold the descriptors of one volume on its token grid.

    patches (gz, gy, gx, D) float32, after the final norm; saliency (gz, gy, gx, H) float32, softmax attention of the
    CLS token in the last block; cls (D,) float32. Token (z, y, x) describes the voxels [z, z + 1) * patch[0] and so on.
    patches and saliency are None where slabs were handed out instead. plan: the way taken; error: its estimate in mode
    "clusters", None where exact or unknown; said: what was done, in words.
    """

    patches: np.ndarray | None
    saliency: np.ndarray | None
    cls: np.ndarray
    plan: Plan
    error: Estimate | None = None
    said: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """What was done, to be kept beside the features: see `read_records`."""
        exact = self.error is None and self.plan.mode != "windows"
        believed = self.error.error if self.error else 0.0 if exact else None
        return {"mode": self.plan.mode, "store": self.plan.store, "backend": self.plan.backend, "exact": exact,
                "error": believed, "said": self.said}


class StreamingEncoder:
    """Run an encoder over whole volumes in bounded memory, exactly or with an estimated error.

    Parameters: encoder, on the device to use (it is put in eval mode); store "auto" | "memory" | "pinned" | "disk";
    mode "auto" | "sdpa" (fused attention, keys in memory) | "online" (blockwise online softmax) | "clusters"
    (representatives of the keys) | "windows"; q_block and kv_block, rows at a time; memory_bytes, what may be used;
    folder, for the temporary files of the disk store; dtype of queries, keys and values (default: the encoder's);
    backend of attention, see `pick_backend`; clusters, M to begin with; tolerance, the largest error (1 - cosine that
    99% of tokens stay below) an approximate run may have by its own estimate: past it M is grown fourfold, then all
    is done exactly (None: anything goes); patience_s, the longest exact run that "auto" takes; window and halo in
    tokens; native_tokens, tokens of a volume the encoder was trained on: logits are then multiplied by ln N / ln of
    it, which keeps the sharpness of attention as N grows (None: not; it did not help the encoders it was measured on,
    `cellfm bench stream`); seed, of the samples.
    What is left open is chosen by `plan`, which can be asked beforehand.
    Raises: InputError for an encoder with hooks in its blocks (test-time registers): they would see a block, not all.
    """

    def __init__(self, encoder: Encoder, store: str = "auto", mode: str = "auto", q_block: int | None = None,
                 kv_block: int | None = None, memory_bytes: int | None = None, folder: str | None = None,
                 dtype: torch.dtype | None = None, backend: str = "auto", clusters: int = 128,
                 tolerance: float | None = 0.01, patience_s: float = 3600.0,
                 window: tuple[int, int, int] = (14, 14, 14), halo: int = 4, native_tokens: int | None = None,
                 seed: int = 0, fit: Fit = DEFAULT) -> None:
        if any(b.mlp.fc2._forward_pre_hooks or b.mlp.fc2._forward_hooks for b in encoder.blocks):
            raise InputError("an encoder with test-time registers cannot be streamed",
                             got="a hook that looks at all tokens at once", expected="blocks as they were trained",
                             do="stream the encoder without them")
        keep_freed_memory()
        self.encoder, self.folder = encoder.eval(), folder
        self.device, self.first = encoder.cls_token.device, 1 + encoder.config.registers
        self.dtype = dtype or encoder.cls_token.dtype
        self.tolerance, self.native_tokens, self.seed, self.fit = tolerance, native_tokens, seed, fit
        self.window, self.halo = tuple(window), (halo,) * 3
        self._options = dict(store=store, mode=mode, q_block=q_block, kv_block=kv_block, memory_bytes=memory_bytes,
                             dtype=self.dtype, backend=backend, clusters=clusters, patience_s=patience_s,
                             window=self.window, halo=halo)
        self._speed: float | None = None

    def plan(self, shape: tuple[int, int, int], collect: bool = True) -> Plan:
        """Say how a volume of this shape (z, y, x) in voxels would be streamed, and at what cost."""
        config = self.encoder.config
        self._speed = self._speed or fused_speed(config.heads, config.width // config.heads, self.device, self.dtype)
        return plan(tuple(shape), config, self.device, flops_per_s=self._speed, collect=collect, **self._options)

    @torch.no_grad()
    def encode(self, volume: Any, progress: bool = True, slab: Slab | None = None,
               planes: int | None = None) -> Features:
        """Encode one volume.

        Parameters: volume, (z, y, x), normalised, at the encoder's spacing; an array or anything that has a shape and
        slices to one (a Zarr array is read chunk by chunk); progress, show how far it is; slab, called as
        slab(z, patches (n, gy, gx, D), saliency (n, gy, gx, H)) for `planes` planes of tokens at a time, so that the
        features of a large volume are never held together.
        Returns: `Features`. Exact ways equal the dense encoder to rounding whatever the blocks, chunks and store.
        Raises: InputError for a volume that is not 3D or has NaN or infinite voxels, or when the disk is full.
        """
        if len(volume.shape) != 3:
            raise InputError("only a volume can be streamed", got=f"shape {tuple(volume.shape)}", expected="(z, y, x)")
        how, width = self.plan(volume.shape, collect=slab is None), self.encoder.config.width
        said, error = [], None
        with ExitStack() as stack:
            make = lambda dtype: stack.enter_context(TokenStore(  # noqa: E731
                self.first + how.tokens, width, dtype, how.store, self.device, self.folder))
            x = make(self.encoder.cls_token.dtype)
            if how.mode == "windows":
                saliency, norm = self._windows(volume, how, x, progress), torch.nn.Identity()
                said.append(f"windows of {self.window} tokens with a halo of {self.halo[0]}")
            else:
                norm = self.encoder.norm
                k, v = make(self.dtype), make(self.dtype)
                run = Run(self.encoder, how, x, k, v, self._scale(how), self.fit, self.seed)
                for clusters in attempts(how):
                    saliency, error = run.stream(volume, clusters, progress)
                    said.append(f"{clusters} clusters, {error}" if clusters else "every key counted")
                    if error is None or self.tolerance is None or error.error <= self.tolerance:
                        break
                    said.append(f"over the tolerance of {self.tolerance:g}")
            cls = norm(x.read(0, 1))[0].float().cpu().numpy()
            patches, salient = self._hand_out(how, x, saliency, norm, slab, planes)
        return Features(patches, salient, cls, how, error, "; ".join(said))

    def _windows(self, volume: Any, how: Plan, x: TokenStore, progress: bool) -> Tensor:
        """Fill x with the normed tokens of each window and the mean CLS; return the saliency (N, H)."""
        saliency = torch.zeros(*how.grid, self.encoder.config.heads)
        classes, bar = [], Progress(how.tokens, "stream windows", every_s=5.0) if progress else None
        for where, tokens, salient, cls in window_tokens(self.encoder, volume, how.grid, self.window, self.halo):
            write_chunk(x, self.first, how.grid, where, tokens)
            saliency[where] = salient.cpu()
            classes.append(cls)
            if bar:
                bar.step(tokens.shape[:3].numel())
        x.write(0, torch.stack(classes).mean(0, keepdim=True))
        if bar:
            bar.close()
        return saliency.flatten(0, 2)

    def _hand_out(self, how: Plan, x: TokenStore, saliency: Tensor, norm: torch.nn.Module, slab: Slab | None,
                  planes: int | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Give the features to `slab`, plane by plane, or return them."""
        plane, whole = prod(how.grid[1:]), None
        planes = planes or max(1, how.blocks[0] // plane)
        if slab is None:
            whole = np.empty((*how.grid, x.columns), np.float32), np.empty((*how.grid, saliency.shape[1]), np.float32)

        def keep(z: int, patches: np.ndarray, salient: np.ndarray) -> None:
            whole[0][z:z + len(patches)], whole[1][z:z + len(patches)] = patches, salient

        for z, end in spans(how.grid[0], planes):
            patches = torch.cat([norm(x.read(self.first + a * plane + b, self.first + a * plane + c)).float().cpu()
                                 for a in range(z, end) for b, c in spans(plane, how.blocks[0])])
            shape = (end - z, *how.grid[1:], -1)
            (slab or keep)(z, patches.numpy().reshape(shape),
                           saliency[z * plane:end * plane].cpu().numpy().reshape(shape))
        return whole or (None, None)

    def _scale(self, how: Plan) -> float:
        """Return the factor on the logits: 1 / sqrt(d), and ln N / ln(native tokens) where that is known."""
        stretch = log(max(how.tokens, 2)) / log(self.native_tokens) if self.native_tokens else 1.0
        return stretch * (self.encoder.config.width // self.encoder.config.heads) ** -0.5


def attempts(how: Plan) -> Iterator[int | None]:
    """Yield the numbers of clusters to try, None = every key: M, then 4 M where that still saves, then all."""
    if how.mode == "clusters":
        yield how.clusters
        if how.clusters * 32 <= how.tokens:
            yield 4 * how.clusters
    yield None
