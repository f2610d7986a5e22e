"""One run of a volume through the blocks: keys and values of all tokens to their stores, queries over them.

A block needs two passes: the first writes what every token has to say, the second lets every token listen and replaces
it in place. With clusters, a few representatives of the keys are found in between, and sampled tokens are carried
through with exact attention to tell how wrong that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.progress import Progress
from cellfm_nb.seeds import torch_rng
from cellfm_nb.stream.attention import online_softmax_attention
from cellfm_nb.stream.clusters import Fit, Representatives, represent
from cellfm_nb.stream.embed import embed_chunks, write_chunk
from cellfm_nb.stream.estimate import Estimate, estimate
from cellfm_nb.stream.plan import CARRIED, Plan
from cellfm_nb.stream.store import TokenStore, spans, stream_blocks

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder


@dataclass(frozen=True)
class Run:
    """Hold what a run needs: encoder, plan, stores of tokens, keys and values, scale of the logits, fit and seed."""

    encoder: Encoder
    how: Plan
    x: TokenStore
    k: TokenStore
    v: TokenStore
    scale: float
    fit: Fit
    seed: int

    @property
    def first(self) -> int:
        """Rows before the patches: CLS and registers."""
        return 1 + self.encoder.config.registers

    def stream(self, volume: Any, clusters: int | None, progress: bool) -> tuple[Tensor, Estimate | None]:
        """Fill the store of tokens with those after the last block (before the final norm).

        Parameters: volume (z, y, x); clusters M, None for every key; progress.
        Returns: the saliency (N, H), and the estimated error, None where every key was counted.
        """
        x, blocks, first = self.x, self.encoder.blocks, self.first
        bar = Progress(self.how.tokens * (1 + len(blocks)), "stream volume", every_s=5.0) if progress else None
        x.write(0, self.encoder.prefix(1)[0])
        for where, tokens in embed_chunks(self.encoder, volume, self.how.grid, self.how.chunk):
            write_chunk(x, first, self.how.grid, where, tokens)
            if bar:
                bar.step(tokens.shape[:3].numel())
        draw = torch_rng(self.seed, "stream", clusters or 0)
        sampled = first + torch.randperm(self.how.tokens, generator=draw)[:CARRIED].sort().values
        carried = torch.cat([torch.arange(first), sampled])  # CLS and registers attend exactly, always
        exact = x.gather(carried) if clusters else None
        for block in blocks:
            self._say(block)
            if block is blocks[-1]:
                saliency = self._saliency(block)[first:]  # N, H
            few = None
            if clusters:
                few = self._represent(block, clusters, draw)
                exact = block.finish(exact[None], self._context(self._query(block, exact, carried)))[0]
            for start, stop in spans(x.rows, self.how.blocks[0]):
                rows = x.read(start, stop)
                q = self._query(block, rows, torch.arange(start, stop))
                # keys and values of this block are all stored, so the tokens can be replaced in place
                x.write(start, block.finish(rows[None], self._context(q, few))[0])
                if bar:
                    bar.step(max(0, stop - max(start, first)))
            if clusters:
                x.write(0, exact[:first])
        if bar:
            bar.close()
        norm = self.encoder.norm
        return saliency, estimate(norm(exact[first:]), norm(x.gather(sampled))) if clusters else None

    def _say(self, block: Any) -> None:
        """Write the keys and values of all tokens."""
        for start, stop in spans(self.x.rows, self.how.blocks[0]):
            rows = block.norm1(self.x.read(start, stop)[None])
            keys, values = block.attention.qkv.key_value(rows, self._angles(torch.arange(start, stop)))
            self.k.write(start, _rows(keys[0]))
            self.v.write(start, _rows(values[0]))

    def _represent(self, block: Any, clusters: int, draw: torch.Generator) -> Representatives:
        probes = torch.randint(self.first, self.x.rows, (self.fit.probes,), generator=draw).sort().values
        q = self._query(block, self.x.gather(probes), probes)
        return represent(lambda: self._blocks((self.k, self.v), 1024), q, self.x.rows, self.first, clusters, self.scale,
                         draw, self.fit)

    def _query(self, block: Any, rows: Tensor, places: Tensor) -> Tensor:
        """Return the queries (H, n, d) of rows (n, D) at places (n,) of the sequence."""
        q = block.attention.qkv.query(block.norm1(rows[None]), self._angles(places))
        return q[0].to(self.k.dtype)

    def _angles(self, places: Tensor) -> Tensor | None:
        """Return the angles (n, d / 2) of rotary positions at places (n,) of the sequence, ascending."""
        position = self.encoder.position
        if position.kind != "rope":
            return None
        low, high = int(places[0]), int(places[-1]) + 1
        runs = [(low, high)] if high - low == len(places) else [(int(place), int(place) + 1) for place in places]
        return torch.cat([position.angles(a, b, self.how.grid, self.first) for a, b in runs])

    def _blocks(self, stores: tuple[TokenStore, ...], size: int | None = None) -> Iterator[tuple[Tensor, ...]]:
        """Yield keys (and values) block by block, each (H, n, d)."""
        heads, size = self.encoder.config.heads, size or self.how.blocks[1]
        return (tuple(_heads(part, heads) for part in parts) for parts in stream_blocks(stores, size))

    def _context(self, q: Tensor, few: Representatives | None = None) -> Tensor:
        """Return the context (1, n, D) of queries (H, n, d) over representatives, or over all stored keys."""
        if few is None and self.how.mode == "sdpa":
            k, v = (_heads(store.read(0, store.rows), q.shape[0])[None] for store in (self.k, self.v))
            out = F.scaled_dot_product_attention(q[None], k, v, scale=self.scale)[0]
        else:
            blocks = self._blocks((self.k, self.v)) if few is None else [tuple(few)]
            out = online_softmax_attention(q, blocks, self.scale, self.how.backend)[0]
        return _rows(out)[None].to(self.x.dtype)

    def _saliency(self, block: Any) -> Tensor:
        """Return the softmax attention of the CLS token over all rows, (rows, H) float32."""
        q = self._query(block, self.x.read(0, 1), torch.arange(1)).float() * self.scale  # H, 1, d
        weights, start = torch.empty(self.x.rows, q.shape[0], device=q.device), 0  # what grows with N here
        for keys, in self._blocks((self.k,)):
            stop = start + keys.shape[1]
            weights[start:stop] = (q @ keys.float().transpose(1, 2))[:, 0].T
            start = stop
        return weights.sub_(weights.logsumexp(0)).exp_()


def _rows(heads: Tensor) -> Tensor:
    """(H, n, d) -> (n, H d)"""
    return heads.transpose(0, 1).flatten(1)


def _heads(rows: Tensor, heads: int) -> Tensor:
    """(n, H d) -> (H, n, d)"""
    return rows.unflatten(1, (heads, -1)).transpose(0, 1)
