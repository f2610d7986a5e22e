"""The crops and the augmentation stack as MONAI transforms; thin wrappers, needing monai.

Images are (C, Z, Y, X). Every output is a MetaTensor whose affine says where its voxels lie: `map_voxels` finds a voxel
of one view in another, or in the volume both were cut from.
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
