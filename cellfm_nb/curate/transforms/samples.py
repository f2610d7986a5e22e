"""Several crops of one volume, as MONAI transforms: the seed's k-means, and our own chooser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.transforms.traits import MultiSampleTrait

from cellfm_nb.augment import place_crops
from cellfm_nb.curate.background import check_volume
from cellfm_nb.curate.crops import choose_crops, kmeans_centres, random_origins
from cellfm_nb.curate.transforms.base import MAX_SEED, as_shape, as_volume, check_range, lay
from cellfm_nb.errors import InputError

Box = tuple[np.ndarray, np.ndarray, dict[str, Any]]  # corner (3,), shape (3,), what to note in the crop's meta


class CropSamples(Randomizable, Transform, MultiSampleTrait):
    """Cut several crops out of an image; subclasses say where (`boxes`). counts: whether raw integers will do."""

    def __init__(self, num_samples: int, channel: int = 0, counts: bool = False) -> None:
        if num_samples < 1:
            raise InputError("No crops asked for.", got=f"num_samples {num_samples}", expected="at least 1",
                             do="Ask for one.")
        self.num_samples, self.channel, self.counts = num_samples, channel, counts

    @abstractmethod
    def boxes(self, volume: np.ndarray, rng: np.random.Generator) -> list[Box]:
        """Return where to cut a volume (Z, Y, X)."""

    def randomize(self, data: np.ndarray) -> None:
        """Choose the boxes for a volume (Z, Y, X), from this transform's random state."""
        self.chosen = self.boxes(data, np.random.default_rng(int(self.R.randint(MAX_SEED, dtype="uint32"))))

    def choose(self, image: MetaTensor) -> None:
        """Choose the boxes on the channel of an image (C, Z, Y, X) that is looked at."""
        who = type(self).__name__
        if not 0 <= self.channel < len(image):
            raise InputError("No such channel.", where=who, got=f"channel {self.channel} of {len(image)}",
                             expected=f"0 to {len(image) - 1}", do="Name a channel that is there.")
        if not (self.counts or image.is_floating_point()):
            raise InputError("Crops are chosen on normalised images, not on raw counts.", where=who,
                             got=f"{image.dtype}", expected="floating point, background N(0, 1)",
                             do="Normalise first: cellfm_nb.curate.normalize (k-means takes raw counts, as the seed's "
                             "own does, with counts=True).")
        self.randomize(image[self.channel].cpu().numpy())

    def cut(self, image: MetaTensor) -> list[MetaTensor]:
        """Return the chosen crops of an image (C, Z, Y, X)."""
        crops = []
        for i, (start, shape, about) in enumerate(self.chosen):
            where = tuple(slice(int(s), int(s + n)) for s, n in zip(start, shape, strict=True))
            affine = place_crops(torch.from_numpy(start).view(1, 1, 3), tuple(shape)).affine[0, 0]
            crops.append(lay(image.as_tensor()[:, *where], image, affine, patch_index=i,
                             origin_px=[int(s) for s in start], **about))
        return crops

    def __call__(self, image: Any) -> list[MetaTensor]:
        """Return num_samples crops (C, z, y, x) of an image (C, Z, Y, X); meta: origin_px, patch_index, chosen_by."""
        image = as_volume(image, type(self).__name__)
        self.choose(image)
        return self.cut(image)


class KMeansSpatialCropSamples(CropSamples):
    """Cut crops around k-means centroids of bright voxels, k = num_samples, as the seed (SpatialDINO) does.

    Parameters: roi_size, (z, y, x) voxels or one number for a cube, or None: each side of each crop is drawn from
    size_range, as a share of the volume's; num_samples, how many crops; percentiles, voxels strictly between them are
    clustered; median, side in voxels of the filter that cleans them in the plane; n_points, at most so many are
    clustered; channel that is looked at; counts, True to take raw integer counts, as the seed does (the crops are raw
    too, and of their type).
    Where fewer bright voxels than crops are left the crops are random, and their meta says so in chosen_by.
    Nothing keeps two crops from being disjoint, or one from being empty: for that take ContentCropSamples.
    """

    def __init__(self, roi_size: int | Sequence[int] | None, num_samples: int = 4,
                 size_range: tuple[float, float] = (0.3, 0.6), percentiles: tuple[float, float] = (99.75, 99.9),
                 median: int = 3, n_points: int = 5000, channel: int = 0, counts: bool = False) -> None:
        super().__init__(num_samples, channel, counts)
        check_range(size_range, "shares", type(self).__name__, most=1.0)
        check_range(percentiles, "percentiles", type(self).__name__, most=100.0)
        self.roi_size, self.size_range = roi_size, size_range
        if roi_size is not None:
            self.roi_size = as_shape(roi_size, type(self).__name__)
        self.rule = {"percentiles": percentiles, "median": median, "n_points": n_points}

    def boxes(self, volume: np.ndarray, rng: np.random.Generator) -> list[Box]:
        shape = np.array(check_volume(volume, type(self).__name__, constant_ok=True).shape)
        if self.roi_size is None:
            sizes = np.maximum(1, rng.uniform(*self.size_range, (self.num_samples, 3)) * shape).astype(int)
        else:
            sizes = np.tile(np.array(self.roi_size), (self.num_samples, 1))
        if (sizes > shape).any():
            raise InputError("The volume is smaller than a crop.", where=type(self).__name__,
                             got=f"volume {tuple(map(int, shape))}", expected=f"at least {tuple(self.roi_size)} voxels",
                             do="Choose a smaller roi_size, or leave this volume out.")
        centres, told = kmeans_centres(volume, self.num_samples, rng, **self.rule), "kmeans"
        if centres is None:
            centres, told = random_origins(shape, np.ones(3, int), self.num_samples, rng), "random: no signal"
        return [(np.clip(c - s // 2, 0, shape - s), s, {"chosen_by": told})
                for c, s in zip(centres, sizes, strict=True)]


class ContentCropSamples(CropSamples):
    """Cut crops where the signal is: diverse, none of them empty, and pairs that overlap where asked for.

    Parameters: roi_size, (z, y, x) voxels or one number for a cube; num_samples, how many crops; views_per_place, crops
    around each place, every two of which share between min_overlap and max_overlap of their volume (and places share at
    most max_overlap while there are others); richness in [0, 1], low also looks at dim cells, high at the brightest
    places only; channel that is looked at, normalised (background N(0, 1)). As `cellfm_nb.curate.choose_crops`.
    meta of each crop also holds place and signal (share of signal voxels).
    """

    def __init__(self, roi_size: int | Sequence[int], num_samples: int = 4, views_per_place: int = 1,
                 min_overlap: float = 0.25, max_overlap: float = 0.75, richness: float = 0.5,
                 channel: int = 0) -> None:
        super().__init__(num_samples, channel)
        self.roi_size = as_shape(roi_size, type(self).__name__)
        self.rule = {"views_per_place": views_per_place, "min_overlap": min_overlap, "max_overlap": max_overlap,
                     "richness": richness}

    def boxes(self, volume: np.ndarray, rng: np.random.Generator) -> list[Box]:
        table = choose_crops(volume, self.roi_size, self.num_samples, "content", rng, **self.rule)
        return [(np.array([row.z0, row.y0, row.x0]), np.array(self.roi_size),
                 {"chosen_by": row.chosen_by, "place": int(row.place), "signal": float(row.signal)})
                for row in table.itertuples()]


class CropSamplesd(Randomizable, MapTransform, MultiSampleTrait):
    """Cut the same crops out of every key; they are chosen on the first key, or on source_key.

    Parameters: keys, images of one size; samples, the cropper; source_key, one of the dictionary's, cut or not;
    allow_missing_keys.
    """

    def __init__(self, keys: KeysCollection, samples: CropSamples, source_key: Hashable | None = None,
                 allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.samples, self.source_key = samples, self.keys[0] if source_key is None else source_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> CropSamplesd:
        super().set_random_state(seed, state)
        self.samples.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Return num_samples dictionaries, the keys cropped, all else copied."""
        d, cropper = dict(data), self.samples
        source = as_volume(d[self.source_key], type(self).__name__)
        cropper.choose(source)
        cut = {}
        for key in self.key_iterator(d):
            image = as_volume(d[key], type(self).__name__)
            if image.shape[1:] != source.shape[1:]:
                raise InputError("Images to be cropped alike differ in size.", where=f"{type(self).__name__}, {key!r}",
                                 got=tuple(image.shape[1:]), expected=tuple(source.shape[1:]), do="Resample first.")
            cut[key] = cropper.cut(image)
        rest = {key: value for key, value in d.items() if key not in cut}
        return [deepcopy(rest) | {key: crops[i] for key, crops in cut.items()} for i in range(cropper.num_samples)]


class KMeansSpatialCropSamplesd(CropSamplesd):
    """Dictionary twin of KMeansSpatialCropSamples: its parameters by name after keys, roi_size and num_samples.

    Crops are chosen on source_key (None: the first of keys); a list of num_samples dictionaries comes back.
    """

    def __init__(self, keys: KeysCollection, roi_size: int | Sequence[int] | None, num_samples: int = 4, *,
                 source_key: Hashable | None = None, allow_missing_keys: bool = False, **rule: Any) -> None:
        super().__init__(keys, KMeansSpatialCropSamples(roi_size, num_samples, **rule), source_key, allow_missing_keys)


class ContentCropSamplesd(CropSamplesd):
    """Dictionary twin of ContentCropSamples: its parameters by name after keys, roi_size and num_samples.

    Crops are chosen on source_key (None: the first of keys); a list of num_samples dictionaries comes back.
    """

    def __init__(self, keys: KeysCollection, roi_size: int | Sequence[int], num_samples: int = 4, *,
                 source_key: Hashable | None = None, allow_missing_keys: bool = False, **rule: Any) -> None:
        super().__init__(keys, ContentCropSamples(roi_size, num_samples, **rule), source_key, allow_missing_keys)
