"""Ours and the named peers, side by side, in one run: medians over alternating repetitions, means over seeds.

Absolute times on shared machines mean nothing; the ratio of two things timed in turn does.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil

from cellfm_nb.atomic import write_json
from cellfm_nb.errors import InputError
from cellfm_nb.progress import busy

BENCHES = {
    "attention": "blockwise exact attention against SDPA and plain softmax: time and memory",
    "crops": "signal and empty crops of our choosers against k-means and random boxes: share, time",
    "deskew": "shear and rotation of a stage scan against scipy's affine and the shipped reference: accuracy, time",
    "gpu": "the Triton kernel against torch's fastest, a million tokens through ViT-S: TFLOP/s, seconds, GiB (a GPU)",
    "normalise": "histogram stretch and percentiles against numpy and scikit-image: exactness, time",
    "repair": "planted defects clipped, against the published recipe and registers; healthy encoders: features, time",
    "resample": "streamed trilinear resampling against MONAI Zoom and Spacing: exactness, time, memory",
    "pretrain": "a step of training against the bare model, MONAI's views, torch's blocks and lightly's losses: time",
    "shards": "reading shards in order against webdataset's own reader: samples per second, coverage",
    "simulate": "a simulated movie with its truth: seconds, exactness of the truth",
    "stream": "whole volumes: streamed against dense, representatives of keys against every key: accuracy, time",
    "segment": "finding puncta in simulated movies against trackpy, LoG maxima and Voronoi-Otsu: F1, AP50, time",
    "segment_ablation": "the same without each idea of the detector: F1, AP50",
    "segment_bodies": "nuclei with labels against scikit-image's watershed, as it is and tuned: AP50, AP75",
    "ssl": "a linear probe on the trained encoder against hand-made floors, the seed's recipe, a supervised one: AP",
    "ssl_bound": "the same question put to observers who know the background, the PSF and the brightness: AP",
    "ssl_ablation": "each choice of pretraining against its reference, claim by claim: AP, RankMe, entropy, spread",
    "track": "linking puncta, clouds, detections against trackpy, laptrack, Hungarian, Kalman: scores, time",
    "track_images": "of the same, only what our own detector finds in images: scores",
    "track_virus": "a public challenge's virus scenario re-created, against trackpy, Hungarian, Kalman: alpha, JSC",
}


@dataclass
class Row:
    """One comparison: ours beside each peer, on one metric of one case; target None where none is set.

    interval : 95% confidence interval of ours over the seeds, where there are several.
    """

    case: str
    metric: str
    better: str  # "lower" | "higher"
    ours: float
    peers: dict[str, float] = field(default_factory=dict)
    target: float | None = None
    seeds: list[int] = field(default_factory=list)
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:  # numpy's numbers are not JSON's
        self.ours, self.peers = float(self.ours), {name: float(value) for name, value in self.peers.items()}

    @property
    def ok(self) -> bool | None:
        """Whether the target is met (None where there is none)."""
        if self.target is None:
            return None
        return self.ours <= self.target if self.better == "lower" else self.ours >= self.target

    def __str__(self) -> str:
        peers = "  ".join(f"{name} {value:.4g}" for name, value in self.peers.items())
        mark = {True: "  target met", False: "  TARGET MISSED", None: ""}[self.ok]
        goal = "" if self.target is None else f"  (target {self.target:.4g})"
        spread = "" if self.interval is None else " [{:.4g}, {:.4g}]".format(*self.interval)
        return f"{self.case:32s} {self.metric:16s} ours {self.ours:.4g}{spread}  {peers}{goal}{mark}"


def main(name: str, json_path: str | None = None) -> int:
    """Run one bench, print its rows as they come, and write them as JSON if asked.

    Returns: 0 when every target is met, 1 otherwise. Raises InputError on an unknown name.
    """
    if name == "list":
        print("\n".join(f"{n:12s} {about}" for n, about in BENCHES.items()))
        return 0
    if name not in BENCHES:
        raise InputError("No such bench.", got=repr(name), expected=", ".join(BENCHES), do="cellfm bench list")
    if json_path:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)  # now, not after hours of work
    rows: Iterator[Row] = importlib.import_module(f"cellfm_nb.bench.{name}").rows()
    done = []
    with busy(f"bench {name}"):
        for row in rows:
            print(row, flush=True)
            done.append(row)
    if json_path:
        write_json(Path(json_path), [asdict(row) | {"ok": row.ok} for row in done])
    return 0 if all(row.ok is not False for row in done) else 1


def alternate(calls: Mapping[str, Callable[[], object]], repeats: int = 5,
              clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Time several calls in turn, A B C A B C ..., after one warm-up each.

    clock : what tells the time; `time.process_time` counts the CPU seconds of all threads.

    Returns: the median seconds of each.
    """
    for call in calls.values():
        call()
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            spent[name].append(clock() - start)
    return {name: median(values) for name, values in spent.items()}


def extra_mib(call: Callable[[], object]) -> float:
    """Return the memory a call holds at its peak above what the process held before, in MiB (sampled every 2 ms)."""
    process, done, peak = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return max(peak[0] - before, 0) / 2**20


def load(path: str | Path) -> list[dict]:
    """Read the rows a bench wrote."""
    return json.loads(Path(path).read_text())
