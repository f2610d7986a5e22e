"""Global and local views of a crop: they overlap by a set amount, and say which voxels they show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cellfm_nb import augment
from cellfm_nb.augment import Placement, change_contrast, recorrupt, shared_fraction
from cellfm_nb.errors import InputError
from cellfm_nb.pretrain.settings import PretrainSettings

__all__ = ["Placement", "Views", "change_contrast", "make_views", "place_views", "recorrupt", "shared_fraction"]


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
    globals_, locals_ = (change_contrast(v, settings.brightness, settings.gamma, generator)
                         for v in (globals_, locals_))
    return Views(globals_, locals_, targets, at_global, at_local)


def place_views(batch: int, crop: tuple[int, int, int], settings: PretrainSettings,
                generator: torch.Generator) -> tuple[Placement, Placement]:
    """Choose where 2 global and n local views lie, so that each global view shares at least `min_overlap` of the
    smaller view's volume with every other view of its sample (`augment.place_views` with the settings' sizes).
    """
    return augment.place_views(batch, crop, settings.global_shape, settings.local_shape, settings.n_local,
                               settings.min_overlap, generator)
