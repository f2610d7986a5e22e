"""What all our MONAI transforms share: volumes that know where they lie, and draws that depend on a seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import Dataset

from cellfm_nb.augment.geometry import Triple
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import int_seed

MAX_SEED = 2**32  # of numpy's RandomState, which MONAI draws from


def as_volume(image: Any, who: str) -> MetaTensor:
    """Return an image (C, Z, Y, X) as a MetaTensor with three spatial axes, float32 or of its own integer type.

    MONAI 1.6.1: EnsureChannelFirst(channel_dim="no_channel") leaves spatial_ndim 2 on a volume, with which its own
    GaussianSmooth raises and its MedianSmooth silently filters another way. It is set right here.
    Raises InputError for anything that is not (C, Z, Y, X) or not finite.
    """
    if isinstance(image, np.ndarray):
        image = image.astype(image.dtype.newbyteorder("="), copy=False)  # torch knows no big-endian numbers
    image = image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))
    if image.ndim != 4 or 0 in image.shape:
        raise InputError("Not a volume with channels.", where=who, got=f"shape {tuple(image.shape)}",
                         expected="(C, Z, Y, X)", do="Add the channel axis: image[None], or EnsureChannelFirstd("
                         "channel_dim='no_channel') for (Z, Y, X).")
    if image.is_floating_point():
        image = image.float()
        if not torch.isfinite(image.as_tensor()).all():
            raise InputError("The image has voxels that are not finite.", where=who, got="NaN or infinite voxels",
                             expected="finite numbers", do="Replace them, or leave this image out.")
    image.spatial_ndim = 3
    return image


def as_shape(size: int | Sequence[int], who: str) -> Triple:
    """Return a size in voxels as (z, y, x); one number means a cube. Raises InputError for anything else."""
    shape = (size,) * 3 if np.ndim(size) == 0 else tuple(size)
    if len(shape) != 3 or not all(float(n).is_integer() and n >= 1 for n in shape):
        raise InputError("Not a size in voxels.", where=who, got=size, expected="one positive whole number, or three "
                         "(z, y, x)", do="Correct the size.")
    return tuple(int(n) for n in shape)


def check_range(limits: Sequence[float], what: str, who: str, least: float = 0.0, most: float = math.inf) -> None:
    """Raise InputError unless limits are two rising, finite numbers in [least, most]."""
    if np.shape(limits) != (2,) or not (least <= limits[0] <= limits[1] <= most and limits[1] < math.inf):
        raise InputError(f"Not a range of {what}.", where=who, got=limits,
                         expected=f"two rising numbers in [{least:g}, {most:g}]",
                         do="Correct the range; the same number twice for a fixed value.")


def lay(voxels: Tensor, source: MetaTensor, to_source: Tensor | None = None, **about: Any) -> MetaTensor:
    """Return voxels (C, z, y, x) as a MetaTensor that says where they lie.

    Parameters: source, the volume they come from; to_source (4, 4), a voxel of theirs to a voxel of the source (None:
    the same); about, what else goes into its meta.
    """
    affine = source.affine.double()
    affine = affine if to_source is None else affine @ to_source.to(affine)
    meta = {key: value for key, value in source.meta.items() if key != "affine"}
    return MetaTensor(voxels.contiguous(), affine=affine, meta=meta | about)


def map_voxels(points: Tensor | np.ndarray, view: MetaTensor, other: MetaTensor) -> Tensor:
    """Find the voxels of one view in another, or in the volume both were cut from.

    Parameters: points (n, 3) z, y, x in view, in voxel centres; view, other, MetaTensors (C, z, y, x).
    Returns: (n, 3) float64 in other, inside it or not. Holds for MONAI's own spatial transforms too.
    """
    matrix = torch.linalg.solve(other.affine.double().cpu(), view.affine.double().cpu())
    return torch.as_tensor(points).double() @ matrix[:3, :3].T + matrix[:3, 3]


def shared_fraction(view: MetaTensor, other: MetaTensor) -> float:
    """Return the volume two views have in common, over that of the smaller one."""
    size, limit = (torch.tensor(v.shape[1:], dtype=torch.float64) for v in (view, other))
    ends = map_voxels(torch.stack([torch.full((3,), -0.5, dtype=torch.float64), size - 0.5]), view, other)
    low, high = ends.min(0).values, ends.max(0).values  # of the first view's box, in voxels of the second
    common = (torch.minimum(high, limit - 0.5) - low.clamp(min=-0.5)).clamp(min=0).prod()
    return float(common / min((high - low).prod(), limit.prod()))


def seeded(transform: Callable[[Any], Any], sample: Any, seed: int, *key: str | int) -> Any:
    """Apply a MONAI transform with draws that depend on (seed, key) alone, however often it was used before."""
    if hasattr(transform, "set_random_state"):
        transform.set_random_state(seed=int_seed(seed, "transform", *key) % MAX_SEED)
    return transform(sample)


class SeededDataset(Dataset):
    """Hold items and a transform; item i of an epoch is a function of (seed, epoch, i), for any number of workers.

    MONAI's DataLoader gives every worker a seed of its own, so with its plain Dataset the same seed means other crops
    on another number of workers. Call `set_epoch` before each epoch.
    """

    def __init__(self, data: Sequence[Any], transform: Callable[[Any], Any], seed: int = 0) -> None:
        self.data, self.transform, self.seed, self.epoch = data, transform, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next (new workers see it; keep persistent_workers off)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        return seeded(self.transform, self.data[i], self.seed, self.epoch, i)
