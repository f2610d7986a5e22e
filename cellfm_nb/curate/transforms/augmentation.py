"""The augmentation stack as MONAI dictionary transforms: every class hands its image to one function of `augment`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from torch import Generator, Tensor

from cellfm_nb import augment
from cellfm_nb.augment.geometry import Placement, Triple
from cellfm_nb.augment.photometry import check_normalized
from cellfm_nb.curate.transforms.base import MAX_SEED, as_shape, as_volume, check_range, lay
from cellfm_nb.seeds import int_seed

Range = tuple[float, float]
Size = int | Triple


SMALL = 1e-6  # the least of what must not be 0


class Augmentd(Randomizable, MapTransform):
    """Augment every key with the same draws, with a probability; subclasses say how (`augment`).

    All of them take keys (one or several); prob, the probability that anything is done at all; allow_missing_keys.
    Images (C, Z, Y, X), float32 comes back; those that change grey values (photometric) refuse integers.
    """

    photometric = True

    def __init__(self, keys: KeysCollection, prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        check_range((prob, prob), "probabilities", type(self).__name__, most=1.0)
        self.prob = prob

    def randomize(self, data: Any = None) -> None:
        """Draw whether to augment, and the seed of what happens then."""
        self.chance, self.draw = float(self.R.rand()), int(self.R.randint(MAX_SEED, dtype="uint32"))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with its keys augmented; images (C, Z, Y, X), on any device."""
        self.randomize()
        d = dict(data)
        for key in self.key_iterator(dict(d)):
            d[key] = as_volume(d[key], type(self).__name__)
            if self.photometric:
                check_normalized(d[key].as_tensor(), type(self).__name__)
            if self.chance < self.prob:
                # cut alike, but noisy each on its own: shared noise would tell two views of one place at once
                seed = int_seed(self.draw, str(key)) if self.photometric else self.draw
                d |= self.augment(key, d[key], Generator().manual_seed(seed))
        return d

    @abstractmethod
    def augment(self, key: Hashable, image: MetaTensor, generator: Generator) -> dict[Hashable, MetaTensor]:
        """Return what goes into the dictionary for a key."""


class RandViewd(Augmentd):
    """Cut one view at a random place, flipped, turned about z and scaled in the plane by chance.

    Parameters: keys, all cut alike; shape of the view, (z, y, x) voxels or one number for a cube, None for the whole
    image (then nothing is scaled); scale, range of voxels of the image per voxel of the view in y and x, None for 1;
    prob; allow_missing_keys. Integer images (labels) keep their type and values. As `cellfm_nb.augment.place_views`.
    """

    photometric = False

    def __init__(self, keys: KeysCollection, shape: Size | None = None, scale: Range | None = None,
                 prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        check_range(scale or (1, 1), "scales", type(self).__name__, least=SMALL)
        self.shape, self.scale = shape if shape is None else as_shape(shape, type(self).__name__), scale

    def augment(self, key: Hashable, image: MetaTensor, generator: Generator) -> dict[Hashable, MetaTensor]:
        shape = self.shape or tuple(image.shape[1:])
        at, _ = augment.place_views(1, tuple(image.shape[1:]), shape, shape, 0, 1.0, generator, n_global=1,
                                    scale=self.scale if self.shape else None)
        return {key: cut_views(image, at)[0]}


class OverlappingViewsd(Augmentd):
    """Cut global and local views that overlap by a set share, each flipped and turned about z by chance.

    Adds key_global_0, key_global_1, ..., key_local_0, ... to the dictionary; the key itself stays.
    Parameters: keys, all cut alike; global_shape, local_shape of the views, (z, y, x) voxels or one number for a cube;
    n_local, n_global, how many of each; min_overlap, the least share of the smaller one's volume that a global view has
    in common with every other view; scale, range of voxels of the image per voxel of a view in y and x, None for 1;
    allow_missing_keys. As `cellfm_nb.augment.place_views`, which raises InputError when a view does not fit.
    """

    photometric = False

    def __init__(self, keys: KeysCollection, global_shape: Size, local_shape: Size, n_local: int = 8,
                 min_overlap: float = 0.25, n_global: int = 2, scale: Range | None = None,
                 allow_missing_keys: bool = False) -> None:
        super().__init__(keys, 1.0, allow_missing_keys)
        who = type(self).__name__
        check_range(scale or (1, 1), "scales", who, least=SMALL)
        self.rule = (as_shape(global_shape, who), as_shape(local_shape, who), n_local, min_overlap)
        self.more = {"n_global": n_global, "scale": scale}

    def augment(self, key: Hashable, image: MetaTensor, generator: Generator) -> dict[Hashable, MetaTensor]:
        placed = augment.place_views(1, tuple(image.shape[1:]), *self.rule, generator, **self.more)
        return {f"{key}_{name}_{i}": view for name, at in zip(("global", "local"), placed, strict=True)
                for i, view in enumerate(cut_views(image, at))}


class Photometricd(Augmentd):
    """Augment grey values alone, by a function change(voxels (C, Z, Y, X) float32, generator=) -> voxels."""

    def __init__(self, keys: KeysCollection, change: Callable[..., Tensor], prob: float = 1.0,
                 allow_missing_keys: bool = False) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.change = change

    def augment(self, key: Hashable, image: MetaTensor, generator: Generator) -> dict[Hashable, MetaTensor]:
        return {key: lay(self.change(image.as_tensor(), generator=generator), image)}


class RandContrastd(Photometricd):
    """Scale the brightness and bend the grey values (`cellfm_nb.augment.change_contrast`) of normalised images.

    Parameters: keys; brightness, range of factors; gamma, range of powers, of value / pivot; pivot, the value that
    bending leaves where it is, in units of the image (1 = noise of the background); prob; allow_missing_keys.
    """

    def __init__(self, keys: KeysCollection, brightness: Range = (0.8, 1.25), gamma: Range = (0.9, 1.1),
                 pivot: float = 3.0, prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        check_range(brightness, "brightness factors", type(self).__name__)
        check_range(gamma, "powers", type(self).__name__, least=SMALL)
        check_range((pivot, pivot), "pivots", type(self).__name__, least=SMALL)
        change = partial(augment.change_contrast, brightness=brightness, gamma=gamma, pivot=pivot)
        super().__init__(keys, change, prob, allow_missing_keys)


class RandCameraNoised(Photometricd):
    """Add Poisson-Gaussian noise (`cellfm_nb.augment.add_camera_noise`) to normalised images.

    Parameters, in units of the image (1 = noise of the background): keys; gain, range of what one photoelectron adds
    (0: no shot noise, as after variance stabilisation); read_noise, range of the s.d. that is added; prob;
    allow_missing_keys.
    """

    def __init__(self, keys: KeysCollection, gain: Range = (0.0, 0.0), read_noise: Range = (0.5, 0.6),
                 prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        check_range(gain, "gains", type(self).__name__)
        check_range(read_noise, "read noise", type(self).__name__)
        change = partial(augment.add_camera_noise, gain=gain, read_noise=read_noise)
        super().__init__(keys, change, prob, allow_missing_keys)


class RandPsfBlurd(Augmentd):
    """Blur by a Gaussian shaped like a point-spread function (`cellfm_nb.augment.blur`); noise is averaged too.

    Parameters: keys; sigma_um, range of its s.d. in y and x, micrometres; spacing_um (z, y, x), micrometres, None for
    that of the image's affine (of an array without one: 1); elongation, how many times wider it is along z; prob;
    allow_missing_keys.
    """

    def __init__(self, keys: KeysCollection, sigma_um: Range = (0.0, 0.15), spacing_um: tuple | None = None,
                 elongation: float = 2.5, prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        check_range(sigma_um, "widths", type(self).__name__)
        for value in (*(spacing_um or ()), elongation):
            check_range((value, value), "lengths", type(self).__name__, least=SMALL)
        self.sigma_um, self.spacing_um, self.elongation = sigma_um, spacing_um, elongation

    def augment(self, key: Hashable, image: MetaTensor, generator: Generator) -> dict[Hashable, MetaTensor]:
        spacing = self.spacing_um or tuple(image.affine[:3, :3].double().norm(dim=0).tolist())
        return {key: lay(augment.blur(image.as_tensor(), self.sigma_um, spacing, generator, self.elongation), image)}


class RandRecorruptd(Augmentd):
    """Make two copies of independent noise (`cellfm_nb.augment.recorrupt`): the key holds one, key_target the other.

    Parameters: keys, normalised images (noise of s.d. 1); noise, range of the factor a: y + a n, and y - n / a with
    n ~ N(0, 1); allow_missing_keys. Always done.
    """

    def __init__(self, keys: KeysCollection, noise: Range = (0.5, 0.6), allow_missing_keys: bool = False) -> None:
        super().__init__(keys, 1.0, allow_missing_keys)
        check_range(noise, "factors", type(self).__name__, least=SMALL)
        self.noise = noise

    def augment(self, key: Hashable, image: MetaTensor, generator: Generator) -> dict[Hashable, MetaTensor]:
        pair = augment.recorrupt(image.as_tensor(), self.noise, generator)
        return {name: lay(voxels, image) for name, voxels in zip((key, f"{key}_target"), pair, strict=True)}


def cut_views(image: MetaTensor, at: Placement) -> list[MetaTensor]:
    """Return the views (C, z, y, x) of one image at a placement (V, 1)."""
    views = at.cut(image.as_tensor()[None])[:, 0]  # (V, C, z, y, x)
    return [lay(view, image, affine, origin_px=start.tolist())
            for view, affine, start in zip(views, at.affine[:, 0], at.starts[:, 0], strict=True)]
