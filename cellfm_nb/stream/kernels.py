"""The same online softmax as Triton kernels: one streams keys past a tile of queries, one divides at the end.

The running maximum, sum and accumulator of every query stay in float32 in global memory between two blocks of keys, so
keys may come from anywhere, in any number of calls. Logits are kept in units of ln 2 (1.4427 is 1 / ln 2), because
exp2 is the fast instruction. FlashAttention-2 loop order (Dao 2023): a program owns BLOCK_M queries of one head and
visits all keys. On a machine without a GPU the kernels run under TRITON_INTERPRET=1, for tests only.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # an option: pip install cellfm_nb[gpu]
    triton = None


def interpreted() -> bool:
    """Say whether kernels are run by Triton's interpreter (set before the first import, on a CPU)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(kind: str) -> str | None:
    """Return why the kernels cannot run on a kind of device ("cpu" | "cuda"), None when they can."""
    if triton is None:
        return "triton is not installed"
    if kind == "cuda" or interpreted():
        return None
    return "Triton needs a GPU (or TRITON_INTERPRET=1, for tests)"


if triton is not None:
    # tiles (queries, keys) of the published fast forward kernels for 32 to 128 channels; the tuner picks by measuring
    TILES = [(64, 32, 4, 2), (64, 64, 4, 3), (128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 3), (128, 128, 4, 2),
             (128, 256, 8, 2)]
    CONFIGS = [triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
               for m, n, warps, stages in (TILES[:1] if interpreted() else TILES)]

    @triton.jit
    def _tile(q, top, total, acc, K, V, BIAS, start, m, cols, lanes, scale, skn, svn, d: tl.constexpr,
              EVEN: tl.constexpr, HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
              UPCAST: tl.constexpr):
        """Count the keys start .. start + BLOCK_N for one tile of queries."""
        rows = start + cols
        inside = rows < m
        if MASKED or not EVEN:
            keep = inside[:, None] & (lanes[None, :] < d)
            k = tl.load(K + rows[:, None] * skn + lanes[None, :], mask=keep, other=0.0)
            v = tl.load(V + rows[:, None] * svn + lanes[None, :], mask=keep, other=0.0)
        else:
            k = tl.load(K + rows[:, None] * skn + lanes[None, :])
            v = tl.load(V + rows[:, None] * svn + lanes[None, :])
        if UPCAST:  # the interpreter's dot is wrong in bfloat16
            k, v = k.to(tl.float32), v.to(tl.float32)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # BLOCK_M, BLOCK_N
        if HAS_BIAS:
            logits += (tl.load(BIAS + rows, mask=inside, other=0.0) * 1.4426950408889634)[None, :]
        if MASKED:
            logits = tl.where(inside[None, :], logits, -float("inf"))
        new = tl.maximum(top, tl.max(logits, 1))
        shift = tl.where(new == -float("inf"), 0.0, new)  # only hidden keys so far
        weights = tl.exp2(logits - shift[:, None])
        decay = tl.exp2(top - shift)
        total = total * decay + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
        return new, total, acc

    @triton.autotune(configs=CONFIGS, key=["d", "tuned_n", "tuned_m", "HAS_BIAS", "UPCAST"],
                     restore_value=["TOP", "TOTAL", "SUM"])  # tuning runs it often: the state must not be counted twice
    @triton.jit
    def _forward(Q, K, V, BIAS, TOP, TOTAL, SUM, n, m, scale, sqh, sqn, skh, skn, svh, svn, tuned_n, tuned_m,
                 d: tl.constexpr, BLOCK_D: tl.constexpr, EVEN: tl.constexpr, HAS_BIAS: tl.constexpr,
                 FIRST: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_N: tl.constexpr):
        """Read the state of BLOCK_M queries (-inf, 0, 0 at FIRST), count m keys, write the state back."""
        head = tl.program_id(1).to(tl.int64)
        rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
        cols, lanes = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
        there, wide = rows < n, lanes < d
        q = tl.load(Q + head * sqh + rows[:, None].to(tl.int64) * sqn + lanes[None, :],
                    mask=there[:, None] & wide[None, :], other=0.0)
        if UPCAST:
            q = q.to(tl.float32)
        scale *= 1.4426950408889634
        at = head * n + rows
        places = at[:, None] * d + lanes[None, :]
        if FIRST:
            top = tl.full([BLOCK_M], -float("inf"), tl.float32)
            total = tl.zeros([BLOCK_M], tl.float32)
            acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        else:
            top = tl.load(TOP + at, mask=there, other=-float("inf"))
            total = tl.load(TOTAL + at, mask=there, other=0.0)
            acc = tl.load(SUM + places, mask=there[:, None] & wide[None, :], other=0.0)
        K += head * skh
        V += head * svh
        if HAS_BIAS:
            BIAS += head * m
        full = m // BLOCK_N * BLOCK_N
        for start in range(0, full, BLOCK_N):  # whole tiles need no mask
            top, total, acc = _tile(q, top, total, acc, K, V, BIAS, start, m, cols, lanes, scale, skn, svn, d, EVEN,
                                    HAS_BIAS, False, PRECISION, UPCAST)
        if full < m:
            top, total, acc = _tile(q, top, total, acc, K, V, BIAS, full, m, cols, lanes, scale, skn, svn, d, EVEN,
                                    HAS_BIAS, True, PRECISION, UPCAST)
        tl.store(TOP + at, top, mask=there)
        tl.store(TOTAL + at, total, mask=there)
        tl.store(SUM + places, acc, mask=there[:, None] & wide[None, :])

    @triton.jit
    def _finalise(TOP, TOTAL, SUM, OUT, LSE, n, d: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr):
        """Divide by the sum; 0, and -inf as log-sum-exp, where nothing was seen."""
        rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        lanes = tl.arange(0, BLOCK_D)
        there = rows < n
        keep = there[:, None] & (lanes < d)[None, :]
        top, total = tl.load(TOP + rows, mask=there, other=0.0), tl.load(TOTAL + rows, mask=there, other=0.0)
        places = rows[:, None] * d + lanes[None, :]
        seen = total > 0
        divisor = tl.where(seen, total, 1.0)
        out = tl.where(seen[:, None], tl.load(SUM + places, mask=keep, other=0.0) / divisor[:, None], 0.0)
        tl.store(OUT + places, out.to(OUT.dtype.element_ty), mask=keep)
        tl.store(LSE + rows, tl.where(seen, (top + tl.log2(divisor)) / 1.4426950408889634, -float("inf")), mask=there)


class TritonSoftmax:
    """Hold the running state of softmax attention for one block of queries, on the device.

    Parameters: q (H, n, d), d at most 256; scale, factor on the logits (default 1 / sqrt(d)). Products are taken in
    the queries' dtype (float32 exactly, no TF32), sums are float32.
    """

    def __init__(self, q: Tensor, scale: float | None = None) -> None:
        self.q = q if q.stride(-1) == 1 else q.contiguous()
        self.scale = q.shape[-1] ** -0.5 if scale is None else scale
        heads, n, d = q.shape
        self.top, self.total = (torch.empty(heads, n, dtype=torch.float32, device=q.device) for _ in range(2))
        self.sum = torch.empty(heads, n, d, dtype=torch.float32, device=q.device)
        self.first = True

    def update(self, k: Tensor, v: Tensor, bias: Tensor | None = None) -> None:
        """Count a block of keys: k and v (H, m, d), bias (H, 1, m) float32, -inf hides a key."""
        heads, n, d = self.q.shape
        m = k.shape[1]
        k, v = (t.to(self.q.dtype) if t.stride(-1) == 1 else t.to(self.q.dtype).contiguous() for t in (k, v))
        has_bias = bias is not None
        bias = bias.to(torch.float32).expand(heads, 1, m).contiguous() if has_bias else self.top
        width = max(16, triton.next_power_of_2(d))
        _forward[lambda tile: (triton.cdiv(n, tile["BLOCK_M"]), heads)](
            self.q, k, v, bias, self.top, self.total, self.sum, n, m, self.scale, self.q.stride(0), self.q.stride(1),
            k.stride(0), k.stride(1), v.stride(0), v.stride(1), n.bit_length(), m.bit_length(), d=d, BLOCK_D=width,
            EVEN=width == d, HAS_BIAS=has_bias, FIRST=self.first,
            PRECISION="ieee" if self.q.dtype == torch.float32 else "tf32",
            UPCAST=interpreted() and self.q.dtype == torch.bfloat16)
        self.first = False

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the output (H, n, d) in the queries' dtype and the log-sum-exp of the logits (H, n), float32."""
        heads, n, d = self.q.shape
        out, lse = torch.empty_like(self.sum, dtype=self.q.dtype), torch.empty_like(self.top)
        _finalise[(triton.cdiv(heads * n, 64),)](self.top, self.total, self.sum, out, lse, heads * n, d=d,
                                                 BLOCK_D=max(16, triton.next_power_of_2(d)), ROWS=64)
        return out, lse
