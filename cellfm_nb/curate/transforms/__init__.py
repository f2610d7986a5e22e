"""The crops and the augmentation stack as MONAI transforms; thin wrappers, needing monai.

Images are (C, Z, Y, X), normalised (`cellfm_nb.curate.normalize`), so that 1 is the noise of the background. Every
output is a MetaTensor whose affine says where its voxels lie: `map_voxels` finds a voxel of one view in another, or in
the volume both were cut from. Numbers: floating point comes back as float32; integers (labels) keep their type and
their values, and what changes grey values refuses them.
Order: crops, then views (each adds keys of its own), then what changes grey values, on the views' keys: blur,
contrast, noise last, since reading between voxels and blurring average noise away. From movies to batches:

    from monai.data import DataLoader
    from monai.transforms import Compose
    from cellfm_nb.curate import normalized_frame, transforms as T
    from cellfm_nb.movie import Movie

    items = [{"image": normalized_frame(Movie.open(path), 0)[0][None]} for path in paths]
    views = ["image_global_0", "image_global_1", "image_local_0", "image_local_1"]
    steps = Compose([T.ContentCropSamplesd("image", (12, 32, 32), num_samples=2),
                     T.OverlappingViewsd("image", (8, 16, 16), (4, 8, 8), n_local=2, scale=(0.8, 1.25)),
                     T.RandPsfBlurd(views, spacing_um=(0.25, 0.1, 0.1), prob=0.5), T.RandCameraNoised(views)])
    data = T.SeededDataset(items, steps, seed=0)
    data.set_epoch(0)  # before every epoch
    for batch in DataLoader(data, batch_size=2):  # two movies, two crops of each
        print(batch["image_global_0"].shape)  # torch.Size([4, 1, 8, 16, 16])
"""

from cellfm_nb.curate.transforms.augmentation import (
    OverlappingViewsd,
    RandCameraNoised,
    RandContrastd,
    RandPsfBlurd,
    RandRecorruptd,
    RandViewd,
)
from cellfm_nb.curate.transforms.base import SeededDataset, map_voxels, seeded, shared_fraction
from cellfm_nb.curate.transforms.samples import (
    ContentCropSamples,
    ContentCropSamplesd,
    KMeansSpatialCropSamples,
    KMeansSpatialCropSamplesd,
)

__all__ = ["ContentCropSamples", "ContentCropSamplesd", "KMeansSpatialCropSamples", "KMeansSpatialCropSamplesd",
           "OverlappingViewsd", "RandCameraNoised", "RandContrastd", "RandPsfBlurd", "RandRecorruptd", "RandViewd",
           "SeededDataset", "map_voxels", "seeded", "shared_fraction"]
