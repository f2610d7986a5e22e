"""The training loop: a pure function of crops, configuration, settings and seed, that survives being killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellfm_nb.encoder import Encoder, EncoderConfig, save_encoder
from cellfm_nb.pretrain import health, ranks
from cellfm_nb.pretrain.checkpoint import load_checkpoint, save_checkpoint
from cellfm_nb.pretrain.crops import Crops
from cellfm_nb.pretrain.settings import PretrainSettings
from cellfm_nb.pretrain.trainer import Trainer
from cellfm_nb.progress import Progress

OnStep = Callable[..., object]
Probe = Callable[[Encoder], dict[str, float]]


def pretrain(crops: Any, encoder_config: EncoderConfig, settings: PretrainSettings | None = None, *,
             seed: int = 0, device: str = "cpu", checkpoint_dir: str | Path | None = None,
             on_step: OnStep | None = None, until: int | None = None,
             probe: Probe | None = None) -> tuple[Encoder, pd.DataFrame]:
    """Train an encoder without labels: DINO + iBOT + KoLeo with an EMA teacher, denoising, and less redundancy.

    Parameters: crops (n, z, y, x) or (n, k, z, y, x), float16 or float32, normalised (background noise of standard
    deviation 1), or a ShardLoader of such, see `Crops`; encoder_config; settings; seed; device; checkpoint_dir, where
    the state is kept every `settings.checkpoint_every` steps and found again after a kill; on_step, called as
    on_step(step=0, loss=..., ...) with each row of the log; until, stop before this step and keep the state, to go on
    another time; probe, called with the teacher's encoder every `settings.probe_every` steps, returns numbers for the
    log ({"probe_ap": ...}, such as `score.held_out.HeldOut`).
    Returns: the teacher's encoder in eval mode, and the log, one row per step: step, seconds, lr, loss, dino, ibot,
    koleo, denoise, redundancy (nan without a weight; gram, decorrelate where weighted), grad_norm, entropy_patch,
    entropy_cls (of the targets, over log K; nan without DINO and iBOT), rankme, feature_std, dead, outliers,
    prototypes, cls_patch, masked_spread, and what the probe says.
    Every random draw depends on (seed, step, sample) alone: a run resumed from a checkpoint equals one never stopped,
    bit for bit on a CPU with the same number of threads, and several ranks (torchrun; `settings.batch` is the global
    batch) make the steps of one, to rounding.
    Raises: InputError on unfit crops or a bad checkpoint; FloatingPointError when the loss stops being finite on any
    rank; Collapsed when the features stay collapsed. All ranks raise together.
    Method: DINOv2 (Oquab et al. 2023) in 3D as in SpatialDINO, with its training mistakes repaired.
    """
    s = settings or PretrainSettings()
    trainer = Trainer(crops if isinstance(crops, Crops) else Crops(crops), encoder_config, s, seed, device)
    run, lead = trainer.fingerprint(), ranks.rank_and_world()[0] == 0
    saved = load_checkpoint(checkpoint_dir, run) if checkpoint_dir is not None else None
    first, log = trainer.restore(*saved) if saved else (0, [])
    before = log[-1]["seconds"] if log else 0.0
    start, bar = time.monotonic(), Progress(s.steps, "pretraining", done=first) if lead else None
    stop = s.steps if until is None else min(until, s.steps)
    for step in range(first, stop):
        row = trainer.step(step, log[-1] if log else None)
        log.append({"step": step, "seconds": before + time.monotonic() - start} | row)
        bad = health.collapsed_since(log, encoder_config.width)
        if not np.isfinite(row["loss"]) or (s.patience and bad >= s.patience * s.health_every):
            if bar:
                bar.close()
            word = health.alarms(log[-1], encoder_config.width)
            raise (health.Collapsed if np.isfinite(row["loss"]) else FloatingPointError)(f"{word[0]} (step {step})")
        if probe is not None and s.probe_every and ((step + 1) % s.probe_every == 0 or step + 1 == s.steps):
            log[-1] |= probe(trainer.model.teacher.encoder)
        if lead and checkpoint_dir is not None and ((step + 1) % s.checkpoint_every == 0 or step + 1 == stop):
            save_checkpoint(checkpoint_dir, step + 1, trainer.state(), run, log)
        if on_step is not None and lead:
            on_step(**log[-1])
        if bar:
            bar.step(loss=row["loss"], rankme=row["rankme"])
    if bar:
        bar.close(loss=log[-1]["loss"], rankme=log[-1]["rankme"])
    ranks.barrier()  # nobody leaves before the state is on disk
    return trainer.model.teacher.encoder.eval(), pd.DataFrame(log)


def write_pretrained(weights_path: str | Path, config_path: str | Path, log_path: str | Path,
                     checkpoint_dir: str | Path, crops: Any, encoder_config: EncoderConfig,
                     settings: PretrainSettings, seed: int = 0, device: str = "cpu",
                     on_step: OnStep | None = None, probe: Probe | None = None) -> None:
    """Train, and write encoder.safetensors, config.json, log.csv and the folder of checkpoints (rank 0 writes).

    Give it to `Workspace.make` with resume=True: a killed run then goes on from its last checkpoint.
    """
    crops = Crops(crops)
    encoder, log = pretrain(crops, encoder_config, settings, seed=seed, device=device, checkpoint_dir=checkpoint_dir,
                            on_step=on_step, probe=probe)
    if ranks.rank_and_world()[0]:
        return
    facts = {"crops": [len(crops), *crops.shape[-3:]], "steps": settings.steps, "batch": settings.batch, "seed": seed,
             "settings": asdict(settings), "final_loss": float(log["loss"].iloc[-1])}
    log.to_csv(log_path, index=False)
    save_encoder(encoder, weights_path, config_path, trained_on=facts)
