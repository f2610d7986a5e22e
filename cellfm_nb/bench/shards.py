"""Read 256 crops out of shards, page cache warm: our loader beside webdataset's own reader, each sample copied out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cellfm_nb.bench import Row, alternate
from cellfm_nb.curate.loader import ShardLoader
from cellfm_nb.curate.shards import Sample, ShardIndex, read_shards, write_shards
from cellfm_nb.seeds import rng

N, SHAPE = 256, (48, 48, 48)
CASE = f"{N} x 48^3 uint16"


def samples() -> Iterator[Sample]:
    """Yield crops of camera-like counts with the metadata ours carry."""
    draw = rng(0, "bench shards")
    for i in range(N):
        yield f"crop-{i:04d}", draw.poisson(200, SHAPE).astype(np.uint16), {
            "movie": "bench", "frame": i, "origin_px": [0, i, 0], "spacing_um": [0.1, 0.1, 0.1]}


def rows() -> Iterator[Row]:
    """Measure samples per second of ours and of webdataset, the check of a shard apart; and order and coverage."""
    import webdataset as wds

    with tempfile.TemporaryDirectory() as folder:
        index = write_shards(Path(folder) / "crops", samples(), max_bytes=16_000_000)
        index.save(Path(folder) / "index.json")
        paths = [Path(folder) / shard["name"] for shard in index.shards]
        out, loader = np.empty((N, *SHAPE), np.uint16), ShardLoader(index, folder)

        def ours() -> list[str]:
            return [_copied(out[k], *sample) for k, sample in enumerate(loader.epoch(0))]

        def first_time() -> list[str]:  # as in a fresh process: the shards are opened and their sha256 compared
            return [_copied(out[k], *sample) for k, sample in enumerate(ShardLoader(index, folder).epoch(0))]

        def plain() -> list[str]:
            return [_copied(out[k], *sample) for k, sample in enumerate(read_shards(paths, index))]

        def webdataset() -> list[str]:
            read = wds.WebDataset([str(p) for p in paths], shardshuffle=False).decode()
            read = read.to_tuple("npy", "json", "__key__")
            return [_copied(out[k], array, meta | {"key": key}) for k, (array, meta, key) in enumerate(read)]

        ways = {"ours": ours, "webdataset": webdataset, "ours, first epoch": first_time, "ours, every sample checked":
                plain}
        speed = {name: N / seconds for name, seconds in alternate(ways, repeats=7).items()}
        yield Row(CASE, "samples/s", "higher", speed["ours"], {k: v for k, v in speed.items() if k != "ours"})
        yield Row(CASE, "times webdataset", "higher", speed["ours"] / speed["webdataset"], {"webdataset": 1.0},
                  target=3.0)
        yield Row(CASE, "first epoch, times", "higher", speed["ours, first epoch"] / speed["webdataset"],
                  {"webdataset": 1.0})
        yield Row(CASE, "samples wrong", "lower", _wrong(loader, index), target=0)
        keys = [loader[i][1]["key"] for r in range(3) for w in range(5) for i in loader.order(1, r, 3, w, 5)]
        yield Row("3 ranks x 5 workers", "not read once", "lower", abs(len(keys) - N) + N - len(set(keys)), target=0)


def _copied(place: np.ndarray, array: np.ndarray, meta: dict) -> str:
    """Copy a sample into a batch: a view that nobody reads costs nothing, and would prove nothing."""
    np.copyto(place, array)
    return meta["key"]


def _wrong(loader: ShardLoader, index: ShardIndex) -> int:
    """Count samples of an epoch that differ from what was written, or stand at another place than the order says."""
    written = list(samples())
    return sum(meta["key"] != written[i][0] or not np.array_equal(array, written[i][1])
               for i, (array, meta) in zip(loader.order(0), loader.epoch(0), strict=True)) + (len(index) != N)
