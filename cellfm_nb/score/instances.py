"""Score labels against true labels: average precision at IoU thresholds, matched IoU, panoptic quality."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellfm_nb.errors import InputError
from cellfm_nb.score.detection import group_indices

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))


@dataclass(frozen=True)
class InstanceScore:
    """Scores of labels, summed over frames, with the counts behind them.

    `ap[t]` = TP / (TP + FP + FN) at IoU >= t (the field's "average precision" of label images, Caicedo et al. 2019);
    `matched_iou` and `panoptic_quality` are taken at the first threshold.
    """

    ap: dict[float, float]
    matched_iou: float
    panoptic_quality: float
    n_true: int
    n_found: int
    n_frames: int

    def as_dict(self) -> dict:
        named = {f"ap{round(100 * t)}": v for t, v in self.ap.items()}
        return named | {"matched_iou": self.matched_iou, "pq": self.panoptic_quality, "n_true": self.n_true,
                        "n_found": self.n_found, "n_frames": self.n_frames}


def overlap_iou(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Return (i, j, iou, n_found, n_true): IoU of each pair of labels that share a voxel, 0 being background.

    `i` and `j` count the labels present in ascending order, from 0; memory is that of the overlapping pairs.
    """
    if found.shape != true.shape:
        raise InputError("the two label images differ in shape", where="labels", got=found.shape,
                         expected=true.shape, do="score labels on the grid of the truth")
    found_ids, f = np.unique(found, return_inverse=True)
    true_ids, t = np.unique(true, return_inverse=True)
    f, t = f.ravel(), t.ravel()
    f_size, t_size = np.bincount(f), np.bincount(t)
    pair, both = np.unique(f.astype(np.int64) * len(true_ids) + t, return_counts=True)
    i, j = pair // len(true_ids), pair % len(true_ids)
    real = (found_ids[i] != 0) & (true_ids[j] != 0)
    i, j, both = i[real], j[real], both[real]
    iou = both / (f_size[i] + t_size[j] - both)
    skip_found, skip_true = int(0 in found_ids), int(0 in true_ids)   # 0 sorts first: the others move down by one
    return i - skip_found, j - skip_true, iou, len(found_ids) - skip_found, len(true_ids) - skip_true


def matched_pairs(i: np.ndarray, j: np.ndarray, iou: np.ndarray, threshold: float) -> np.ndarray:
    """Return the IoUs of a one-to-one matching with as many pairs of IoU >= threshold as possible."""
    keep = iou >= threshold
    i, j, iou = i[keep], j[keep], iou[keep]
    if threshold > 0.5 or not len(iou):                     # above one half each label has at most one partner
        return iou
    n = int(i.max() + j.max()) + 2
    edge = coo_array((np.ones(len(i)), (i, j + i.max() + 1)), shape=(n, n))
    group = connected_components(edge, directed=False)[1][i]
    matched = []
    for k in group_indices(group):
        rows, r = np.unique(i[k], return_inverse=True)
        cols, c = np.unique(j[k], return_inverse=True)
        gain = np.zeros((len(rows), len(cols)))
        gain[r, c] = 1 + min(len(rows), len(cols)) + iou[k]  # count first, then overlap
        a, b = linear_sum_assignment(gain, maximize=True)
        matched.append(gain[a, b][gain[a, b] > 0] - 1 - min(len(rows), len(cols)))
    return np.concatenate(matched)


def score_instances(
    frames: Iterable[tuple[np.ndarray, np.ndarray]], thresholds: tuple[float, ...] = IOU_THRESHOLDS
) -> InstanceScore:
    """Score frames of (found, true) label volumes, read one by one in bounded memory.

    Parameters
    ----------
    frames : iterable of (found, true) integer arrays (z, y, x), 0 = background.
    thresholds : IoU thresholds, ascending.

    Returns
    -------
    InstanceScore; with no object anywhere every score is 1.
    """
    tp = np.zeros(len(thresholds))
    iou_sum, n_found, n_true, n_frames = 0.0, 0, 0, 0
    for found, true in frames:
        i, j, iou, nf, nt = overlap_iou(np.asarray(found), np.asarray(true))
        matches = [matched_pairs(i, j, iou, t) for t in thresholds]
        tp += [len(m) for m in matches]
        iou_sum += float(matches[0].sum())
        n_found, n_true, n_frames = n_found + nf, n_true + nt, n_frames + 1
    either = n_found + n_true - tp                          # TP + FP + FN
    ap = np.where(either > 0, tp / np.maximum(either, 1), 1.0)
    return InstanceScore(
        ap={t: float(a) for t, a in zip(thresholds, ap, strict=True)},
        matched_iou=iou_sum / tp[0] if tp[0] else (0.0 if n_found + n_true else 1.0),
        panoptic_quality=2 * iou_sum / (n_found + n_true) if n_found + n_true else 1.0,
        n_true=n_true, n_found=n_found, n_frames=n_frames,
    )
