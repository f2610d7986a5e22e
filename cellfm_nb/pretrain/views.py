"""Global and local views of a crop: they overlap by a set amount, and say which voxels they show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cellfm_nb import augment
from cellfm_nb.augment import Placement, change_contrast, recorrupt, shared_fraction, split_noise
from cellfm_nb.augment.draws import Source
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


def make_views(crops: Tensor, settings: PretrainSettings, generator: Source) -> Views:
    """Cut and augment the views of a batch, on the crops' device.

    Parameters: crops (B, k, Z, Y, X), k pictures of each place (`Crops`), normalised (noise of standard deviation 1);
    settings: `pairs` says which pictures the views show, `scale` whether they are stretched; generator, CPU: one of
    this step, or one for each sample, whose views are then the same whatever batch it stands in.
    Raises: InputError when a crop is smaller than a global view, or "next" has but one picture to show.
    """
    s = settings
    reach = [g * (s.scale[1] if s.scale and axis else 1) for axis, g in enumerate(s.global_shape)]
    if any(c < r for c, r in zip(crops.shape[2:], reach, strict=True)):
        raise InputError("the crops are smaller than a global view", where="pretrain.make_views",
                         got=tuple(crops.shape[2:]), expected=f"at least {tuple(reach)}",
                         do="cut larger crops in notebook 02, or lower global_shape")
    if s.pairs == "next" and crops.shape[1] < 2:
        raise InputError("each place has one picture only", where="pretrain.make_views", got=tuple(crops.shape),
                         expected="(B, k, Z, Y, X), k >= 2", do='cut pairs (`neighbours`), or set pairs to "same"')
    at_global, at_local = place_views(len(crops), tuple(crops.shape[2:]), s, generator)
    pictures = crops if s.pairs == "next" else crops[:, :1]
    if s.pairs == "noise":
        pictures = torch.cat(split_noise(pictures[None].float(), generator), dim=2)[0]
    globals_, targets = noisy(at_global, pictures, s, generator)
    locals_, _ = noisy(at_local, pictures, s, generator)
    globals_, locals_ = (change_contrast(v, s.brightness, s.gamma, generator) for v in (globals_, locals_))
    return Views(globals_, locals_, targets, at_global, at_local)


def noisy(at: Placement, pictures: Tensor, s: PretrainSettings, generator: Source) -> tuple[Tensor, Tensor]:
    """Cut view i from picture i mod k, with a noise of its own: two copies (V, B, 1, z, y, x), see `recorrupt`.

    Reading a stretched view between voxels averages noise. Its copies are made before the cut: averaged alike, their
    noises stay independent.
    """
    shown = torch.arange(len(at.starts)) % pictures.shape[1]  # (V,)
    if s.scale is None:
        views = at.cut(pictures)[torch.arange(len(shown)), :, shown]  # (V, B, k, z, y, x) -> (V, B, z, y, x)
        return recorrupt(views.unsqueeze(2).float(), s.noise, generator)
    copies = recorrupt(pictures[:, shown].transpose(0, 1).unsqueeze(2).float(), s.noise, generator)
    return tuple(at.cut(copy) for copy in copies)


def place_views(batch: int, crop: tuple[int, int, int], settings: PretrainSettings,
                generator: Source) -> tuple[Placement, Placement]:
    """Choose where 2 global and n local views lie, so that each global view shares at least `min_overlap` of the
    smaller view's volume with every other view of its sample (`augment.place_views` with the settings' sizes).
    """
    return augment.place_views(batch, crop, settings.global_shape, settings.local_shape, settings.n_local,
                               settings.min_overlap, generator, scale=settings.scale)
