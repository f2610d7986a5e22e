"""Cut touching objects apart: the normalised cut of a graph of regions (Shi and Malik 2000)."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np

from cellfm_nb.errors import InputError

EXACT = 12                                                  # up to so many nodes every cut is tried


def cut_energy(weights: np.ndarray, side: np.ndarray, size: np.ndarray | None = None) -> np.ndarray:
    """Return the energy cut(A, B) (1 / size(A) + 1 / size(B)) of bipartitions.

    Parameters
    ----------
    weights : (n, n) symmetric, >= 0; the diagonal does not count.
    side : (..., n) bool, which nodes lie in A.
    size : (n,) > 0, of the nodes; None = their degrees, the normalised cut as published.

    Returns
    -------
    (...,) float; infinite where one side is empty.
    """
    w, size = checked(weights, size)
    a = np.asarray(side, float)
    cut = ((a @ w) * (1 - a)).sum(-1)
    of_a, of_b = a @ size, (1 - a) @ size
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((of_a > 0) & (of_b > 0), cut * (1 / of_a + 1 / of_b), np.inf)


def checked(weights: np.ndarray, size: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (weights without their diagonal, sizes) or say what is wrong with them."""
    w = np.array(weights, float)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or not np.allclose(w, w.T) or (w < 0).any():
        raise InputError("not a graph's weights", where="weights", got=f"shape {w.shape}",
                         expected="a symmetric (n, n) matrix, no weight below 0", do="give each edge both ways")
    np.fill_diagonal(w, 0)
    size = w.sum(1) if size is None else np.asarray(size, float)
    return w, np.maximum(size, 1e-12)


def bipartition(weights: np.ndarray, size: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Return the bipartition of least energy and that energy; see `cut_energy`.

    Up to `EXACT` nodes every cut is tried. Beyond, the second eigenvector of (L, diag(size)) is cut where the energy
    is least, then single nodes change sides as long as that lowers it: the energy never rises.
    """
    w, size = checked(weights, size)
    n = len(w)
    if n < 2:
        return np.zeros(n, bool), float("inf")
    if n <= EXACT:
        every = (np.arange(1, 2 ** (n - 1))[:, None] >> np.arange(n) & 1).astype(bool)      # the last node in B
        energy = cut_energy(w, every, size)
        return every[energy.argmin()], float(energy.min())
    return refine(w, spectral_side(w, size), size)


def spectral_side(weights: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the best cut of the nodes in the order of the relaxed solution's entries."""
    scale = 1 / np.sqrt(size)
    laplacian = np.diag(weights.sum(1)) - weights
    relaxed = scale * np.linalg.eigh(scale[:, None] * laplacian * scale)[1][:, 1]
    order = np.argsort(relaxed, kind="stable")
    sides = np.zeros((len(order) - 1, len(order)), bool)
    sides[:, order] = np.tri(len(order) - 1, len(order), dtype=bool)
    return sides[cut_energy(weights, sides, size).argmin()]


def refine(weights: np.ndarray, side: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, float]:
    """Move the node that lowers the energy most to the other side until none does."""
    side, best = side.copy(), float(cut_energy(weights, side, size))
    while True:
        to_a = weights @ side
        cut = to_a[~side].sum() + np.where(side, 2 * to_a - weights.sum(1), weights.sum(1) - 2 * to_a)
        of_a = size[side].sum() + np.where(side, -size, size)
        of_b = size.sum() - of_a
        energy = np.full(len(side), np.inf)
        both = (of_a > 0) & (of_b > 0)
        energy[both] = cut[both] * (1 / of_a[both] + 1 / of_b[both])
        if not energy.min() < best * (1 - 1e-9):
            return side, best
        side[energy.argmin()] ^= True
        best = float(energy.min())


def merge_by_cuts(i: np.ndarray, j: np.ndarray, weight: np.ndarray, volume: np.ndarray, limit: float) -> np.ndarray:
    """Merge regions into objects, the least neck-like contact first, until only necks are left.

    Parameters
    ----------
    i, j : (m,) int, pairs of touching regions; weight : (m,) their contact, um^2.
    volume : (n,) um^3 of the regions.
    limit : see `relative_energy`.

    Returns
    -------
    (n,) int, the object of each region: the least of its regions.
    """
    near: list[dict[int, float]] = [{} for _ in volume]
    for a, b, w in zip(i.tolist(), j.tolist(), weight.tolist(), strict=True):
        near[a][b] = near[b][a] = w
    size, name = np.array(volume, float), np.arange(len(volume))
    heap = [(-relative_energy(w, size[a], size[b]), a, b, w) for a in range(len(near)) for b, w in near[a].items()
            if a < b]
    heapify(heap)
    while heap and -heap[0][0] >= limit:
        _, a, b, w = heappop(heap)
        if name[a] != a or name[b] != b or near[a].get(b) != w:
            continue                                        # of a region that has grown since
        name[b], size[a] = a, size[a] + size[b]
        del near[a][b], near[b][a]
        for c, more in near[b].items():
            near[a][c] = near[c][a] = near[a].get(c, 0.0) + more
            del near[c][b]
        for c, w in near[a].items():
            heappush(heap, (-relative_energy(w, size[a], size[c]), min(a, c), max(a, c), w))
    for k in range(len(name)):                              # the least of a group points to itself
        name[k] = name[name[k]]
    return name


def relative_energy(contact: float, volume_a: float, volume_b: float) -> float:
    """Return the energy of a cut over that of a ball of the same volume halved, 3 / radius.

    1 halves a ball, .63 a spheroid of axes 2:1:1, .43 parts two balls whose centres are 1.2 radii apart.
    """
    radius = (3 / (4 * np.pi) * (volume_a + volume_b)) ** (1 / 3)
    return contact * (1 / volume_a + 1 / volume_b) * radius / 3
