"""Signal in chosen crops: ours beside the seed's k-means, random boxes, the best of 64 and the best box there is.

A cell of 60 puncta fills a share of the volume; 20 puncta as bright, strewn over the field, are noise. Signal is
counted by the true masks of the cell's puncta, which no chooser sees. K-means gets the normalised volume, as ours does,
and the counts, as the seed has it; the peer of the ratio is the better of the two. Where a case says bright, the cell's
cytoplasm is 1.3 times as bright as the field, which draws k-means on counts to the cell. Time is that of choosing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cellfm_nb.bench import Row, alternate
from cellfm_nb.curate import NoiseModel, choose_crops, normalize
from cellfm_nb.curate.crops import box_means, box_sums, kmeans_origins, random_origins
from cellfm_nb.seeds import rng

SEEDS = list(range(301, 311))
SHAPE, SPACING_UM = (48, 160, 160), (0.25, 0.1, 0.1)
SIGMA_PX, PEAK, FIELD = 1.3, 60.0, 80.0  # of a punctum, photoelectrons; background, photoelectrons
CAMERA = NoiseModel(gain=1.0, const=1.6**2 - 100, offset=100 + 0.85 * FIELD, source="known: offset 100, read noise 1.6")
FILLS = (0.5, 0.2, 0.1, 0.05, 0.02)  # share of the volume
BOXES = {"half size": np.array((24, 80, 80)), "24x64x64": np.array((24, 64, 64))}  # the second is what training takes
N_CROPS, TRIES = 4, 64
Scene = tuple[np.ndarray, np.ndarray, np.ndarray]  # counts, normalised, true mask


def rows() -> Iterator[Row]:
    """Compare signal and empty crops over fillings and sizes, then time."""
    for fill, cytoplasm in [(fill, 1.0) for fill in FILLS] + [(0.1, 1.3)]:
        scenes = {seed: scene(fill, seed, cytoplasm) for seed in SEEDS}
        aimed = fill in (0.1, 0.05)
        for box, crop in BOXES.items():
            if box == "half size" or aimed and cytoplasm == 1:
                yield from compare(f"{box}, cell fills {fill:.0%}" + ", bright" * (cytoplasm > 1), scenes, crop,
                                   1.8 if aimed and cytoplasm == 1 else None)
    counts, volume, _ = scene(0.05, SEEDS[0])
    spent = alternate({name: lambda way=way: way(counts, volume, BOXES["half size"], SEEDS[0])
                       for name, way in WAYS.items()}, repeats=7)
    own, peer = spent.pop("ours"), min(spent.values())
    yield Row("half size, cell fills 5%", "seconds", "lower", own, spent, seeds=SEEDS[:1])
    yield Row("half size, cell fills 5%", "time / kmeans", "lower", own / peer, target=0.5, seeds=SEEDS[:1])


def compare(case: str, scenes: dict[int, Scene], crop: np.ndarray, target: float | None) -> Iterator[Row]:
    """Yield signal in multiples of random boxes', in multiples of k-means', and the share of empty crops."""
    found: dict[str, list[np.ndarray]] = {}
    for seed, (counts, volume, mask) in scenes.items():
        for name, way in WAYS.items():
            found.setdefault(name, []).append(box_means(mask, way(counts, volume, crop, seed), crop))
        tried = box_means(mask, random_origins(SHAPE, crop, TRIES * N_CROPS, rng(seed, "random")), crop)
        found.setdefault("random", []).append(tried)
        found.setdefault("best of 64", []).append(tried.reshape(N_CROPS, TRIES).max(1))
        found.setdefault("best", []).append(box_sums(mask, crop).max(keepdims=True).ravel() / np.prod(crop))
    shares = {name: np.concatenate(x) for name, x in found.items()}
    signal = {name: float(x.mean() / shares["random"].mean()) for name, x in shares.items()}
    empty = {name: float((x == 0).mean()) for name, x in shares.items()}
    own = signal.pop("ours")
    yield Row(case, "signal / random", "higher", own, signal, seeds=SEEDS)
    yield Row(case, "signal / kmeans", "higher", own / max(signal["kmeans"], signal["kmeans on counts"]),
              target=target, seeds=SEEDS)
    yield Row(case, "empty crops", "lower", empty.pop("ours"), empty, target=0.0, seeds=SEEDS)


def scene(fill: float, seed: int, cytoplasm: float = 1.0) -> Scene:
    """Return counts (z,y,x) uint16, the normalised volume, and the true mask: half maximum of the cell's puncta."""
    draw, shape = rng(seed, "bench crops", round(1000 * fill)), np.array(SHAPE)
    side = np.cbrt(fill) * shape
    corner = draw.uniform(0, shape - side)
    light, mask = np.full(SHAPE, FIELD, np.float32), np.zeros(SHAPE, bool)
    light[tuple(slice(int(c), int(c + s)) for c, s in zip(corner, side, strict=True))] *= cytoplasm
    light *= np.linspace(0.85, 1.15, SHAPE[1], dtype=np.float32)[:, None]
    inside = np.clip(corner + draw.random((60, 3)) * side, 3, shape - 4)
    outside = 3 + draw.random((20, 3)) * (shape - 7)
    for k, place in enumerate(np.concatenate([inside, outside])):
        box = tuple(slice(max(0, int(p) - 6), min(int(p) + 8, n)) for p, n in zip(place, SHAPE, strict=True))
        away = sum((grid - p) ** 2 for grid, p in zip(np.ogrid[box], place, strict=True))
        spot = np.exp(-away / (2 * SIGMA_PX**2))
        light[box] += PEAK * draw.lognormal(0, 0.35) * spot
        if k < len(inside):
            mask[box] |= spot >= 0.5 * spot.max()
    counts = np.rint(100 + draw.poisson(light) + 1.6 * draw.standard_normal(SHAPE)).clip(0, 65535).astype(np.uint16)
    return counts, normalize(counts, CAMERA, SPACING_UM), mask


def ours(counts: np.ndarray, volume: np.ndarray, crop: np.ndarray, seed: int) -> np.ndarray:
    return choose_crops(volume, crop, N_CROPS, "content", rng(seed, "ours"))[["z0", "y0", "x0"]].to_numpy()


def kmeans(counts: np.ndarray, volume: np.ndarray, crop: np.ndarray, seed: int) -> np.ndarray:
    return kmeans_origins(volume, crop, N_CROPS, rng(seed, "kmeans"))


def kmeans_on_counts(counts: np.ndarray, volume: np.ndarray, crop: np.ndarray, seed: int) -> np.ndarray:
    return kmeans_origins(counts, crop, N_CROPS, rng(seed, "kmeans"))


WAYS: dict[str, Callable[..., np.ndarray]] = {"ours": ours, "kmeans": kmeans, "kmeans on counts": kmeans_on_counts}
