"""Nuclei with instance labels: bodies by our one setting, beside scikit-image's Otsu with a distance watershed.

The peer stands twice: as its documentation has it (Gaussian of one voxel, peaks five voxels apart), and with the
smoothing and the distance of peaks that score best by truth on the very volume. So does pyclesperanto's Voronoi-Otsu,
where it is installed and runs.
The data are `cells3d_bio_sample_data` and `stardist3d` (`cellfm data fetch`); where they are not here, nothing is
measured. The spacing of `stardist3d` is not stated: its nuclei are half as many voxels deep as they are wide (median
8, 17, 16), so its voxels count as 2 x 1 x 1 um.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from cellfm_nb.bench import Row
from cellfm_nb.errors import InputError
from cellfm_nb.manifest import locate
from cellfm_nb.movie import Movie
from cellfm_nb.score.instances import InstanceScore, score_instances
from cellfm_nb.segment import segment_bodies
from cellfm_nb.segment.baselines import clesperanto_labels

DATA = {"cells3d_bio_sample_data": ("nuclei.tif", "nuclei_label.tif", (0.29, 0.26, 0.26)),
        "stardist3d": ("img3d.tif", "mask3d.tif", (2.0, 1.0, 1.0))}
TUNED = [(1, 5), (2, 5), (2, 10), (4, 10), (4, 20)]  # smoothing and distance of peaks, voxels
SPOTS = [2, 4, 7, 12]  # standard deviation of pyclesperanto's spots, voxels


def rows() -> Iterator[Row]:
    """Score each volume at two overlaps."""
    for name, (image, labels, spacing) in DATA.items():
        if not (files := locate(name)):
            continue
        volume, true = (Movie.open(files[part], spacing_um=spacing).frame(0) for part in (image, labels))
        ours = score_instances([(segment_bodies(volume, spacing), true)])
        plain = {setting: score_instances([(watershed_bodies(volume, spacing, *setting), true)]) for setting in TUNED}
        voronoi = clesperanto_scores(volume, true)
        for overlap in (0.5, 0.75):
            tuned = max(score.ap[overlap] for score in plain.values())
            peers = {"watershed": plain[1, 5].ap[overlap], "watershed, tuned": tuned}
            if voronoi:
                peers["pyclesperanto, tuned"] = max(score.ap[overlap] for score in voronoi)
            yield Row(name, f"ap{round(100 * overlap)}", "higher", ours.ap[overlap], peers)


def clesperanto_scores(volume: np.ndarray, true: np.ndarray) -> list[InstanceScore]:
    """Return pyclesperanto's scores at several sigmas of its spots, or none, the reason said, where it does not run."""
    try:
        return [score_instances([(clesperanto_labels(volume, spot, 1), true)]) for spot in SPOTS]
    except InputError as error:
        print(f"left out: {error.what} ({error.got})", file=sys.stderr)
        return []


def watershed_bodies(volume: np.ndarray, spacing_um: tuple[float, ...], blur: float, apart: int) -> np.ndarray:
    """Return labels by scikit-image: Otsu, distance map, its peaks, watershed."""
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.measure import label
    from skimage.segmentation import watershed

    smooth = gaussian_filter(volume.astype(float), blur)
    mask = smooth > threshold_otsu(smooth)
    distance = gaussian_filter(distance_transform_edt(mask, sampling=spacing_um), blur)
    markers = np.zeros(volume.shape, int)
    markers[tuple(peak_local_max(distance, min_distance=apart, labels=label(mask)).T)] = 1
    return watershed(-distance, label(markers), mask=mask)
