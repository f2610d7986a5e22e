"""Where views of a volume lie: origin, size, flips, turns, scale; and which voxel of one is which of another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.augment.draws import Source, draw
from cellfm_nb.errors import InputError

Triple = tuple[int, int, int]


@dataclass
class Placement:
    """Say where views were cut: V views of B samples.

    starts (V, B, 3) first corner (z, y, x) in the volume, voxels; shape, voxels of a view; flips (V, B, 3) axes
    reversed; swaps (V, B) y and x exchanged (square views only); scales (V, B, 3) voxels of the volume per voxel of
    the view, None for 1. A view shows the box [starts, starts + shape * scales).
    Swaps and flips make all 90-degree turns about z, and none that mixes z with y or x: those would turn the
    point-spread function, which is longer along z.
    """

    starts: Tensor
    shape: Triple
    flips: Tensor
    swaps: Tensor
    scales: Tensor | None = None

    def __post_init__(self) -> None:
        self.shape = tuple(int(n) for n in self.shape)
        if self.shape[1] != self.shape[2]:
            self.swaps = torch.zeros_like(self.swaps)

    @property
    def extents(self) -> Tensor:
        """The size of each box in the volume, voxels: (3,), or (V, B, 3) where views are scaled."""
        shape = torch.tensor(self.shape)
        return shape if self.scales is None else shape * self.scales

    @property
    def affine(self) -> Tensor:
        """(V, B, 4, 4) float64: volume = affine @ (z, y, x, 1) of the view, in voxel centres; exact without scales."""
        scale = torch.ones(*self.starts.shape, dtype=torch.float64) if self.scales is None else self.scales.double()
        size = torch.tensor(self.shape, dtype=torch.float64)
        # along each axis of the volume: start - 1/2 + scale * (place + 1/2), where a flip reads the place from the end
        sign = torch.where(self.flips, -scale, scale)
        first = self.starts - 0.5 + torch.where(self.flips, size - 0.5, 0.5) * scale
        turn = torch.eye(3, dtype=torch.float64).expand(*self.swaps.shape, 3, 3)
        turn = torch.where(self.swaps[..., None, None], turn[..., [0, 2, 1], :], turn)
        out = torch.eye(4, dtype=torch.float64).repeat(*self.swaps.shape, 1, 1)
        out[..., :3, :3] = sign[..., None] * turn
        out[..., :3, 3] = first
        return out

    def to_volume(self, points: Tensor) -> Tensor:
        """Map voxels of the views, (n, 3) or (V, B, n, 3), into the volume: (V, B, n, 3) float64."""
        a = self.affine
        return points.double() @ a[..., :3, :3].mT + a[..., None, :3, 3]

    def to_view(self, points: Tensor) -> Tensor:
        """Map voxels of the volume, (n, 3) or (V, B, n, 3), into the views: (V, B, n, 3) float64, inside or not."""
        a = self.affine
        turn = a[..., :3, :3]
        away = (points.double() - a[..., None, :3, 3]) / turn.square().sum(-1).unsqueeze(-2)  # a signed permutation's
        return away @ turn  # inverse is its transpose, over the squared scales

    def indices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the volume's voxel (z, y, x) shown at each voxel of each view, broadcasting to (V, B, *shape).

        Integers, or float64 where views are scaled: then the volume is read between its voxels.
        """
        along = []
        for axis, size in enumerate(self.shape):
            offset = torch.arange(size)
            offset = torch.where(self.flips[..., axis, None], size - 1 - offset, offset)  # (V, B, size)
            if self.scales is not None:
                offset = (offset + 0.5) * self.scales[..., axis, None].double() - 0.5
            along.append(self.starts[..., axis, None] + offset)
        z, y, x = along[0][..., :, None, None], along[1][..., None, :, None], along[2][..., None, None, :]
        if self.shape[1] == self.shape[2]:
            swap = self.swaps[..., None, None, None]
            y, x = (torch.where(swap, y.transpose(-1, -2), y.expand(*y.shape[:-1], self.shape[2])),
                    torch.where(swap, x.transpose(-1, -2), x.expand(*x.shape[:-2], self.shape[1], -1)))
        return z, y, x

    def cut(self, volumes: Tensor) -> Tensor:
        """Return the views (V, B, C, *shape) of volumes (B, C, Z, Y, X), or (V, B, C, Z, Y, X), one for each view.

        Unscaled views hold the volume's voxels unchanged. Scaled ones are read trilinearly, or, where volumes hold
        integers (labels), at the nearest voxel. Reading between voxels averages noise: add noise afterwards.
        """
        where = [index.to(volumes.device) for index in self.indices()]
        own, size = volumes.dim() == 6, volumes.shape[-3:]
        if self.scales is None or not volumes.is_floating_point():
            view, sample = (torch.arange(n, device=volumes.device) for n in self.starts.shape[:2])
            lead = [view.view(-1, 1, 1, 1, 1)] * own + [sample.view(1, -1, 1, 1, 1)]
            if self.scales is not None:
                where = [w.round().long().clamp(0, n - 1) for w, n in zip(where, size, strict=True)]
            shown = volumes.movedim(-4, -1)[(*lead, *where)]
            return shown.movedim(-1, 2)  # (V, B, z, y, x, C) -> (V, B, C, z, y, x)
        shape = (*self.starts.shape[:2], *self.shape)
        grid = torch.stack([((2 * w + 1) / n - 1).expand(shape)  # grid_sample's -1 to 1, and its order x, y, z
                            for w, n in zip(where[::-1], size[::-1], strict=True)], -1)
        fine = volumes if volumes.dtype == torch.float64 else volumes.float()
        each = fine if own else [fine] * len(grid)
        return torch.stack([F.grid_sample(one, view.to(fine.dtype), padding_mode="border", align_corners=False)
                            for one, view in zip(each, grid, strict=True)]).to(volumes.dtype)


def shared_fraction(a: Placement, i: int, b: Placement, j: int) -> Tensor:
    """Return, per sample (B,), the volume that view i of a shares with view j of b over the smaller of the two."""
    sizes = [p.extents if p.scales is None else p.extents[k] for p, k in ((a, i), (b, j))]
    start = torch.maximum(a.starts[i], b.starts[j])
    stop = torch.minimum(a.starts[i] + sizes[0], b.starts[j] + sizes[1])
    return (stop - start).clamp(min=0).prod(dim=-1) / torch.minimum(sizes[0].prod(dim=-1), sizes[1].prod(dim=-1))


def place_views(batch: int, volume: Triple, global_shape: Triple, local_shape: Triple, n_local: int,
                min_overlap: float, generator: Source, *, n_global: int = 2,
                scale: tuple[float, float] | None = None) -> tuple[Placement, Placement]:
    """Choose where global and local views of B volumes lie, flipped and turned by chance.

    Parameters: batch, B; volume, global_shape, local_shape (z, y, x) voxels; n_local, n_global, how many of each;
    min_overlap, the least share of the smaller one's volume that a global view has in common with every other view of
    its sample; generator, CPU, one or one for each sample; scale, range of the voxels of the volume per voxel of a
    view, in y and x alike (z keeps its own sampling), drawn evenly in the logarithm; None for 1, whole voxels.
    Returns: Placement of the global views (n_global, B) and of the local ones (n_local, B).
    Raises InputError when a view does not fit into the volume.
    """
    shapes, counts = (global_shape, local_shape), (n_global, n_local)
    if n_global < 1 or not 0 < min_overlap <= 1 or scale and not 0 < scale[0] <= scale[1]:
        raise InputError("No views can be placed so.", where="place_views", got=f"n_global {n_global}, min_overlap "
                         f"{min_overlap}, scale {scale}", expected="n_global >= 1, 0 < min_overlap <= 1, scale None or "
                         "two rising numbers > 0", do="Correct them.")
    largest = scale[1] if scale else 1.0
    for shape in shapes if n_local else shapes[:1]:
        if any(n * (largest if axis else 1) > v for axis, (n, v) in enumerate(zip(shape, volume, strict=True))):
            raise InputError("A view is larger than the volume.", where="place_views", got=f"volume {tuple(volume)}",
                             expected=f"at least {tuple(shape)} times the scale, up to {largest:g} in y and x",
                             do="Use smaller views, or larger crops.")
    scales = [_scales(scale, n, batch, generator) for n in counts]
    extents = [torch.tensor(shape, dtype=torch.float64).expand(n, batch, 3) if s is None else torch.tensor(shape) * s
               for shape, n, s in zip(shapes, counts, scales, strict=True)]
    keep = min_overlap ** (1 / 3)  # the share kept along each axis
    along = [_starts(volume[axis], *(e[..., axis] for e in extents), keep, scale is None, generator)
             for axis in range(3)]
    starts = [torch.stack(group, -1) for group in zip(*along, strict=True)]  # global (n_global, B, 3), local
    return tuple(_oriented(at, shape, s, generator) for at, shape, s in zip(starts, shapes, scales, strict=True))


def place_crops(starts: Tensor, shape: Triple) -> Placement:
    """Make the placement of plain boxes: starts (V, B, 3) corners, shape voxels; nothing flipped, turned or scaled."""
    none = torch.zeros(starts.shape, dtype=torch.bool)
    return Placement(starts, shape, none, none[..., 0])


def _scales(limits: tuple[float, float] | None, n: int, batch: int, generator: Source) -> Tensor | None:
    if limits is None:
        return None
    u = draw(torch.rand, (n, batch), generator, torch.float64)
    in_plane = torch.exp(math.log(limits[0]) + (math.log(limits[1]) - math.log(limits[0])) * u)
    return torch.stack([torch.ones_like(in_plane), in_plane, in_plane], -1)


def _starts(room: int, big: Tensor, small: Tensor, keep: float, whole: bool,
            generator: Source) -> tuple[Tensor, Tensor]:
    """Draw starts along one axis: big (n_global, B) and small (n_local, B) are extents; whole, in whole voxels."""
    placed: list[tuple[Tensor, Tensor]] = []  # (start, extent) of the global views so far

    def place(extent: Tensor) -> Tensor:
        low, high = torch.zeros_like(extent), room - extent
        for at, size in placed:
            common = keep * torch.minimum(size, extent)
            low, high = torch.maximum(low, at + common - extent), torch.minimum(high, at + size - common)
        u = draw(torch.rand, low.shape, generator, torch.float64)
        if not whole:
            return low + u * (high - low).clamp(min=0)
        low, high = torch.ceil(low - 1e-9), torch.floor(high + 1e-9)
        return (low + torch.floor(u * (high - low + 1))).long()

    for extent in big.split(1):
        placed.append((place(extent), extent))
    return torch.cat([start for start, _ in placed]), place(small)


def _oriented(starts: Tensor, shape: Triple, scales: Tensor | None, generator: Source) -> Placement:
    coins = draw(torch.rand, (*starts.shape[:2], 4), generator) < 0.5
    return Placement(starts, shape, coins[..., :3], coins[..., 3], scales)
