"""The ablation: what each choice of pretraining is worth here, claim by claim. The variants stand in `ssl_variants`.

Every variant is a small encoder (BASE) trained for the same few steps with three seeds, on simulated movies of the
scenario `dense`, and scored by a linear probe on unseen ones (`ssl_data`). A verdict compares it with its reference,
seed by seed: a difference counts when it is beyond two standard errors and large enough to matter (LEAST). With three
seeds and some thirty rows a few verdicts are chance; and what so few steps don't show, 250,000 may: the row `untrained`
says how little they taught.
With the environment variable CELLFM_BENCH_CACHE set to a folder each training is kept there, and a run goes on where
another stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pandas as pd

from cellfm_nb.atomic import write_json
from cellfm_nb.bench import Row, ssl_data
from cellfm_nb.bench.ssl import TINY
from cellfm_nb.bench.ssl_variants import VARIANTS, Variant
from cellfm_nb.encoder import Encoder
from cellfm_nb.pretrain import PretrainSettings, pretrain
from cellfm_nb.pretrain.health import Collapsed
from cellfm_nb.provenance import code_digest
from cellfm_nb.score.features import linear_probe

SEEDS = ssl_data.LEARNED_ON
BASE = replace(TINY, width=96, depth=2)
SETTINGS = PretrainSettings(steps=60, global_shape=(12, 24, 24))
BOX = (24, 96, 96)  # the middle of each frame, which is probed
LEAST = {"ap": 0.01, "cells": 0.01, "rank": 0.02}
Score = Callable[[Encoder], dict[str, float]]
Frame = tuple[np.ndarray, np.ndarray]  # a normalised volume (z, y, x) and the mask of its objects


def rows() -> Iterator[Row]:
    """Train and score every variant with every seed."""
    done: dict[str, list[dict]] = {}
    for name, variant in VARIANTS.items():
        runs = done[name] = [kept(name, seed) for seed in SEEDS]
        case = f"{name} | {variant.claim} {verdict(variant, runs, done.get(variant.against, runs))}"
        mean = means(runs)
        spread = float(np.std([run["ap"] for run in runs], ddof=1))
        yield Row(case, "probe AP", "higher", mean.pop("ap"), {"s.d.": spread} | mean, seeds=list(SEEDS))


def kept(name: str, seed: int) -> dict[str, float]:
    """Run a variant, or read what an earlier run of the same numbers found."""
    folder, variant = os.environ.get("CELLFM_BENCH_CACHE"), VARIANTS[name]
    if not folder:
        return run(variant, seed)
    facts = [code_digest(__name__), name, seed, variant.data,
             asdict(replace(BASE, **variant.config)), asdict(replace(SETTINGS, **variant.settings))]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(folder) / f"{name.replace(' ', '-').replace(',', '')}-{seed}-{digest}.json"
    if not path.exists():
        write_json(path, run(variant, seed))
    return json.loads(path.read_text())


def run(variant: Variant, seed: int, steps: int = SETTINGS.steps, learn: np.ndarray | None = None,
        score: Score | None = None) -> dict[str, float]:
    """Train an encoder as a variant says and measure it.

    Parameters: variant; seed, of the weights, the batches and, by default, the movie learned from; steps; learn, crops
    (n, z, y, x) instead of simulated ones; score, returns {"ap": ...} of an encoder instead of `probes`.
    Returns: ap, what else the score says, rank (RankMe over width), entropy_patch, entropy_cls, masked_spread (of the
    last steps of the log), seconds of a step; all nan where training stopped as its loss was not a number.
    """
    config, unit = replace(BASE, **variant.config), 1.0
    if learn is None:
        learn, _, unit = ssl_data.crops(seed, **variant.data)
    settings = replace(SETTINGS, **{"steps": steps} | variant.settings)
    settings = replace(settings, noise=tuple(unit * n for n in settings.noise), denoise=settings.denoise / unit**2,
                       health_every=5, patience=0)  # noise, and what denoising costs, in the units of the crops
    start = time.monotonic()
    try:
        with variant.change():
            encoder, log = pretrain(learn, config, settings, seed=seed)
    except (FloatingPointError, Collapsed):
        return dict.fromkeys(("ap", "rank"), math.nan)
    seconds = (time.monotonic() - start) / steps
    last = log.iloc[-10:].mean()
    found = (score or probes(variant.data.get("way", "ours")))(variant.after(encoder))
    return found | {"rank": last["rankme"] / config.width, "entropy_patch": last["entropy_patch"],
                    "entropy_cls": last["entropy_cls"], "masked_spread": last["masked_spread"], "step_s": seconds}


def probes(way: str = "ours") -> Score:
    """Return what scores an encoder: average precision at each SNR, its mean (ap), and the mean on equal cells."""
    def score(encoder: Encoder) -> dict[str, float]:
        describe, patch = ssl_data.learned(encoder), encoder.config.patch
        found = {f"SNR {snr:g}": ssl_data.probe(describe, patch, snr, way, BOX) for snr in ssl_data.SNRS}
        return {"ap": fmean(ap.tokens for ap in found.values()), "cells": fmean(ap.cells for ap in found.values())} | {
            snr: ap.tokens for snr, ap in found.items()}
    return score


def on_frames(train: Frame | None = None, test: Frame | None = None) -> Score:
    """Return what scores an encoder by a linear probe between two frames of one's own, each a volume and its mask.

    Without frames the score is nan: of a movie without truth health alone is measured.
    """
    def score(encoder: Encoder) -> dict[str, float]:
        if train is None or test is None:
            return {"ap": math.nan}
        rows = [ssl_data.learned(encoder)(volume) for volume, _ in (train, test)]
        truth = [ssl_data.foreground(mask, encoder.config.patch) for _, mask in (train, test)]
        frame = np.repeat([0, 1], [len(r) for r in rows])
        return {"ap": linear_probe(np.concatenate(rows), np.concatenate(truth), frame, [1]).average_precision}
    return score


def means(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean over runs of each number; nan where a run has none."""
    return {key: fmean(run.get(key, math.nan) for run in runs) for key in dict.fromkeys(k for r in runs for k in r)}


def verdict(variant: Variant, own: list[dict], reference: list[dict]) -> str:
    """Say whether what a claim predicts of a variant is seen; own, reference: what `run` returned for equal seeds."""
    stopped = [math.isnan(run["rank"]) for run in own]
    if not variant.says:
        return "reference"
    if variant.says == "stops" or any(stopped):
        return f"{sum(stopped)} of {len(own)} stopped: " + (
            "holds" if all(stopped) and variant.says == "stops" else "does not hold here")
    if variant.says == "spreads":  # a matter of construction: one seed tells
        return "holds" if min(run["masked_spread"] for run in own) > 10 * max(
            run["masked_spread"] for run in reference) else "does not hold here"
    if len(own) < 2:
        return "one seed: no verdict"
    key = {"collapses": "rank", "finer": "cells", "coarser": "cells"}.get(variant.says, "ap")
    differences = [a[key] - b[key] for a, b in zip(own, reference, strict=True)]
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(own))
    seen = abs(mean) > max(2 * error, LEAST[key])
    if variant.says == "collapses" and seen and mean < 0:
        half = 2 * fmean(run[key] for run in own) < fmean(run[key] for run in reference)
        return "holds" if half else "lower rank, no collapse"
    if variant.says in ("same", "no better"):
        return "does not hold here" if seen and (mean > 0 or variant.says == "same") else "nothing seen against it"
    if not seen:
        return "no difference seen"
    return "holds" if (mean > 0) == (variant.says in ("better", "finer")) else "does not hold here"


def table(names: list[str], seeds: list[int], steps: int, learn: np.ndarray, score: Score) -> pd.DataFrame:
    """Run some variants, and the references they need, for a few steps on crops of one's own: a small, live ablation.

    Parameters: names, keys of VARIANTS; seeds; steps; learn, crops (n, z, y, x); score, returns {"ap": ...} of an
    encoder. Returns: one row a variant: claim, verdict, and the means over seeds of what `run` measures.
    """
    asked = dict.fromkeys(n for name in names for n in (VARIANTS[name].against, name) if n in VARIANTS)
    done = {name: [run(VARIANTS[name], seed, steps, learn, score) for seed in seeds] for name in asked}
    told = {name: {"claim": VARIANTS[name].claim,
                   "verdict": verdict(VARIANTS[name], runs, done.get(VARIANTS[name].against, runs))}
            | means(runs) for name, runs in done.items()}
    return pd.DataFrame.from_dict(told, orient="index")
