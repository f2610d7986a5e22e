"""Global and local views of a crop: they overlap by a set amount, and say which voxels they show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cellfm_nb.errors import InputError
from cellfm_nb.pretrain.settings import PretrainSettings

Triple = tuple[int, int, int]


@dataclass
class Placement:
    """Say where views were cut: V views of B samples.

    starts (V, B, 3) first voxel (z, y, x) in the crop; shape, voxels of a view; flips (V, B, 3) axes reversed;
    swaps (V, B) y and x exchanged. Swaps and flips make all 90-degree turns about z, and none that mixes z with y or x:
    those would turn the point-spread function.
    """

    starts: Tensor
    shape: Triple
    flips: Tensor
    swaps: Tensor

    def indices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the crop's voxel index (z, y, x) shown at each voxel of each view, broadcasting to (V, B, *shape)."""
        along = []
        for axis, size in enumerate(self.shape):
            offset = torch.arange(size)
            offset = torch.where(self.flips[..., axis, None], size - 1 - offset, offset)  # (V, B, size)
            along.append(self.starts[..., axis, None] + offset)
        z, y, x = along[0][..., :, None, None], along[1][..., None, :, None], along[2][..., None, None, :]
        if self.shape[1] == self.shape[2]:  # only a square can be turned
            swap = self.swaps[..., None, None, None]
            y, x = (torch.where(swap, y.transpose(-1, -2), y.expand(*y.shape[:-1], self.shape[2])),
                    torch.where(swap, x.transpose(-1, -2), x.expand(*x.shape[:-2], self.shape[1], -1)))
        return z, y, x

    def cut(self, crops: Tensor) -> Tensor:
        """Return the views (V, B, 1, *shape) of crops (B, 1, Z, Y, X), voxels unchanged."""
        sample = torch.arange(len(crops), device=crops.device).view(1, -1, 1, 1, 1)
        z, y, x = (index.to(crops.device) for index in self.indices())
        return crops[sample, 0, z, y, x].unsqueeze(2)


@dataclass
class Views:
    """Hold the views of a batch, view axis first, so that view i and view j of sample b are [i, b] and [j, b].

    globals (2, B, 1, z, y, x) and locals (n, B, 1, z, y, x), augmented; targets (2, B, 1, z, y, x), what the denoising
    loss compares the global views with; at_global, at_local, their placements.
    """

    globals: Tensor
    locals: Tensor
    targets: Tensor
    at_global: Placement
    at_local: Placement


def make_views(crops: Tensor, settings: PretrainSettings, generator: torch.Generator) -> Views:
    """Cut and augment the views of a batch.

    Parameters: crops (B, 1, Z, Y, X), normalised (noise of standard deviation 1); settings; generator, of this step.
    Raises: InputError when a crop is smaller than a global view.
    """
    if any(c < g for c, g in zip(crops.shape[2:], settings.global_shape, strict=True)):
        raise InputError("the crops are smaller than a global view", where="pretrain.make_views",
                         got=tuple(crops.shape[2:]), expected=f"at least {settings.global_shape}",
                         do="cut larger crops in notebook 02, or lower global_shape")
    at_global, at_local = place_views(len(crops), tuple(crops.shape[2:]), settings, generator)
    globals_, targets = recorrupt(at_global.cut(crops).float(), settings.noise, generator)
    locals_, _ = recorrupt(at_local.cut(crops).float(), settings.noise, generator)
    return Views(change_contrast(globals_, settings, generator), change_contrast(locals_, settings, generator), targets,
                 at_global, at_local)


def place_views(batch: int, crop: Triple, settings: PretrainSettings,
                generator: torch.Generator) -> tuple[Placement, Placement]:
    """Choose where 2 global and n local views lie, so that each global view shares at least `min_overlap` of the
    smaller view's volume with every other view of its sample.
    """
    big, small, n = settings.global_shape, settings.local_shape, settings.n_local
    keep = settings.min_overlap ** (1 / 3)  # share kept along each axis
    first, second, local = (torch.empty(k, batch, 3, dtype=torch.long) for k in (1, 1, n))
    for axis in range(3):
        room, play = crop[axis] - big[axis], math.floor((1 - keep) * big[axis] + 1e-9)
        a = first[..., axis] = _between(torch.zeros(1, batch), torch.full((1, batch), room), generator)
        b = second[..., axis] = _between((a - play).clamp(min=0), (a + play).clamp(max=room), generator)
        play = math.floor((1 - keep) * small[axis] + 1e-9)
        low = (torch.maximum(a, b) - play).clamp(min=0)
        high = (torch.minimum(a, b) + big[axis] - small[axis] + play).clamp(max=crop[axis] - small[axis])
        local[..., axis] = _between(low.expand(n, -1), high.expand(n, -1), generator)
    return (_oriented(torch.cat([first, second]), big, generator), _oriented(local, small, generator))


def _between(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(low.shape, generator=generator, dtype=torch.float64)
    return (low + torch.floor(u * (high - low + 1))).long()


def _oriented(starts: Tensor, shape: Triple, generator: torch.Generator) -> Placement:
    coins = torch.rand(*starts.shape[:2], 4, generator=generator) < 0.5
    return Placement(starts, shape, coins[..., :3], coins[..., 3])


def shared_fraction(a: Placement, i: int, b: Placement, j: int) -> Tensor:
    """Return, per sample (B,), the volume that view i of a shares with view j of b over the smaller of the two."""
    start = torch.maximum(a.starts[i], b.starts[j])
    stop = torch.minimum(a.starts[i] + torch.tensor(a.shape), b.starts[j] + torch.tensor(b.shape))
    return (stop - start).clamp(min=0).prod(dim=-1) / min(math.prod(a.shape), math.prod(b.shape))


def recorrupt(views: Tensor, noise: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make two copies of a noisy image whose noises are independent (recorrupted-to-recorrupted, Pang et al. 2021).

    Parameters: views (V, B, 1, z, y, x) with noise of standard deviation 1; noise, range of the factor a.
    Returns: y + a n and y - n / a with n ~ N(0, 1): their noises are uncorrelated, so predicting the second from the
    first is predicting the signal.
    """
    a = _uniform(noise, views.shape[:2], generator).to(views.device)
    n = torch.randn(views.shape, generator=generator).to(views.device)
    return views + a * n, views - n / a


def change_contrast(views: Tensor, settings: PretrainSettings, generator: torch.Generator) -> Tensor:
    """Scale the brightness and bend the grey values of each view; 3 noise units stay where they are in the bending."""
    gain = _uniform(settings.brightness, views.shape[:2], generator).to(views.device)
    gamma = _uniform(settings.gamma, views.shape[:2], generator).to(views.device)
    return gain * views.sign() * 3 * (views.abs() / 3) ** gamma


def _uniform(limits: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    u = torch.rand(shape, generator=generator)
    return (limits[0] + (limits[1] - limits[0]) * u)[..., None, None, None, None]
