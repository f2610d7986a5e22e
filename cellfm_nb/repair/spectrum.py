"""The singular values of a block's four weights: which of them stand alone, and how to cut those.

A rank-one defect, wherever it was written, leaves one singular value far above the rest of its weight. Weights are
looked at together with the gains before and after them (LayerNorm, layer scale), as tokens meet them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from cellfm_nb.errors import InputError
from cellfm_nb.repair.linearise import gated

if TYPE_CHECKING:
    from cellfm_nb.encoder import Block, Encoder

GAP = 5.0  # a singular value this many times the next one stands alone; in 35 healthy encoders: at most 2.9
ACCOMPLICE = 3.0  # the same for the other weights of a block in which one stands alone
ADAPTED = 6.0  # a bias this many times its root mean square along one direction has adapted to a defect


class Weight(NamedTuple):
    """Hold one weight of a block: name; layer; first_row that counts (of QKV: V's); the gains after and before it."""

    name: str
    layer: nn.Linear
    first_row: int
    after: Tensor | float
    before: Tensor | float

    def matrix(self) -> Tensor:
        """Return the rows that count, (O, I) float64, gains included."""
        rows = self.layer.weight.detach()[self.first_row:].double()
        return column(self.after) * rows * self.before

    def bias(self) -> Tensor:
        """Return the bias of the rows that count, (O,) float64, with the gain after it."""
        return self.after * self.layer.bias.detach()[self.first_row:].double()

    @torch.no_grad()
    def add(self, weight: Tensor | float, bias: Tensor | float) -> None:
        """Add to `matrix` and `bias`, in place; nothing is added where a gain is zero, for nothing passes there."""
        weight = torch.nan_to_num(weight / column(self.after) / self.before, 0.0, 0.0, 0.0)
        self.layer.weight[self.first_row:] += weight.to(self.layer.weight)
        self.layer.bias[self.first_row:] += torch.nan_to_num(bias / self.after, 0.0, 0.0, 0.0).to(self.layer.bias)


def column(gain: Tensor | float) -> Tensor | float:
    return gain[:, None] if isinstance(gain, Tensor) else gain


def weights_of(block: Block) -> Iterator[Weight]:
    """Yield a block's value, output, fc1 and fc2 weights."""
    reads, writes, reads_mlp, writes_mlp = (g.detach().double() for g in (block.norm1.weight, block.gamma1,
                                                                          block.norm2.weight, block.gamma2))
    yield Weight("value", block.attention.qkv, 2 * len(writes), 1.0, reads)
    yield Weight("output", block.attention.proj, 0, writes, 1.0)
    yield Weight("fc1", block.mlp.fc1, 0, 1.0, reads_mlp)
    yield Weight("fc2", block.mlp.fc2, 0, writes_mlp, 1.0)


def standing_out(values: Tensor, gap: float = GAP) -> tuple[float, int]:
    """Return the largest s_i / s_(i+1) in the upper quarter of singular values, and how many stand above such a gap.

    The lower ones are left out: a weight of low rank, which is none of our business, falls to zero somewhere.
    """
    upper = max(1, len(values) // 4)
    jumps = values[:upper] / values[1:upper + 1].clamp_min(1e-30)
    wide = (jumps > gap).nonzero().flatten()
    return float(jumps.max()), int(wide[-1]) + 1 if len(wide) else 0


def gaps(block: Block) -> dict[str, float]:
    """Return the largest gap in the spectrum of each of a block's weights: near 1 when healthy."""
    return {w.name: standing_out(singular_values(w.matrix()))[0] for w in weights_of(block)}


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values of (O, I), largest first, by way of the smaller Gram matrix: right for large ones."""
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)


@torch.no_grad()
def clip_spectrum(block: Block, gap: float = GAP) -> int:
    """Cut the singular values that stand alone in any weight of a block, in place, and return how many.

    Every value above the last gap becomes the one below it; where one weight has such a gap, a gap of 3 is enough in
    the others, for a defect may be written by two together. A bias that has adapted to what was cut (its component
    along that direction is over 6 times the root mean square of its rest) is cut along with it: in the weight itself by
    the same factor, so that a neuron keeps its threshold, and behind it altogether.
    """
    weights, written, count = list(weights_of(block)), [], 0
    if max(gaps(block).values()) <= gap:
        return 0
    output, fc2 = weights[1].matrix(), weights[3].matrix()  # as they were: a direction goes on through them
    for weight in weights:
        u, s, vt = torch.linalg.svd(weight.matrix(), full_matrices=False)
        above = standing_out(s, min(gap, ACCOMPLICE))[1]
        if above == 0:
            continue
        u, count = u[:, :above], count + above
        weight.add((u * (s[above] - s[:above])) @ vt[:above], -adapted(weight.bias(), u, 1 - s[above] / s[:above]))
        if weight.name == "value":
            written.append(output @ u)
        elif weight.name == "fc1":
            written += [fc2 @ half for half in halves(u, gated(block))]
        else:
            written.append(u)
    if written:
        basis, size, _ = torch.linalg.svd(torch.cat(written, dim=1), full_matrices=False)
        for weight in (weights[1], weights[3]):
            weight.add(0.0, -adapted(weight.bias(), basis[:, size > 1e-6 * size.max()]))
    return count


def halves(u: Tensor, gated: bool) -> list[Tensor]:
    """Return what a hidden direction u (hidden, k) becomes behind the activation, for tokens on either side of it."""
    if gated:
        gate, value = u.chunk(2)
        return [gate.relu() * value, (-gate).relu() * value, value]
    return [u.relu(), (-u).relu()]


def adapted(bias: Tensor, basis: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """Return a share (k,) of a bias (O,) along orthonormal directions (O, k) where it is too large for chance."""
    along = basis.T @ bias
    usual = (bias - basis @ along).square().mean().sqrt()
    return basis @ torch.where(along.abs() > ADAPTED * usual, share * along, 0.0)


def check_encoder(encoder: Encoder) -> None:
    """Raise InputError for an encoder whose blocks are not of the expected shape or whose weights are not finite."""
    if not len(getattr(encoder, "blocks", ())):
        raise InputError("an encoder without blocks has nothing to repair", where="repair", got=type(encoder).__name__,
                         expected="an Encoder of cellfm_nb.encoder")
    for i, block in enumerate(encoder.blocks):
        try:
            for weight in weights_of(block):
                weight.matrix() + column(weight.bias())
        except (AttributeError, RuntimeError, TypeError) as error:
            raise InputError("a block is not of the expected shape", where=f"blocks.{i}", got=str(error)[:200],
                             expected="norm1, attention.qkv and .proj, gamma1, norm2, mlp.fc1 and .fc2, gamma2",
                             do="repair encoders of cellfm_nb.encoder") from error
    for name, tensor in encoder.state_dict().items():
        if tensor.dtype in (torch.bfloat16, torch.float16):
            raise InputError("spectra can't be taken in half precision", where=name, got=str(tensor.dtype),
                             expected="float32 weights", do="convert it: encoder.float()")
        if not torch.isfinite(tensor).all():
            raise InputError("the encoder has weights that are not finite", where=name, do="train it again")
