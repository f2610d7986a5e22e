"""The training loop: a pure function of crops, configuration, settings and seed, that survives being killed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cellfm_nb.encoder import Encoder, EncoderConfig, pad_to_patches, save_encoder
from cellfm_nb.errors import InputError
from cellfm_nb.pretrain import health, losses, schedules
from cellfm_nb.pretrain.checkpoint import (
    load_checkpoint,
    optimiser_tensors,
    restore_optimiser,
    save_checkpoint,
)
from cellfm_nb.pretrain.masks import make_masks, mask_weights
from cellfm_nb.pretrain.settings import PretrainSettings
from cellfm_nb.pretrain.student_teacher import StudentTeacher
from cellfm_nb.pretrain.views import make_views
from cellfm_nb.progress import Progress
from cellfm_nb.seeds import int_seed, rng, torch_rng

OnStep = Callable[..., object]


def pretrain(crops: np.ndarray | Tensor, encoder_config: EncoderConfig, settings: PretrainSettings | None = None, *,
             seed: int = 0, device: str = "cpu", checkpoint_dir: str | Path | None = None,
             on_step: OnStep | None = None, until: int | None = None) -> tuple[Encoder, pd.DataFrame]:
    """Train an encoder without labels: DINO + iBOT + KoLeo with an EMA teacher, and denoising.

    Parameters: crops (n, z, y, x) or (n, 1, z, y, x), float16 or float32, normalised (background noise of standard
    deviation 1); encoder_config; settings; seed; device; checkpoint_dir, where the state is kept every
    `settings.checkpoint_every` steps and found again after a kill; on_step, called as on_step(step=0, loss=..., ...)
    with each row of the log; until, stop before this step and keep the state, to go on another time.
    Returns: the teacher's encoder in eval mode, and the log, one row per step: step, seconds, lr, loss, dino, ibot,
    koleo, denoise, grad_norm, entropy_patch, entropy_cls (of the targets, over log K), rankme, feature_std,
    outliers, masked_spread.
    Every random draw depends on (seed, step) alone: a run resumed from a checkpoint equals one never stopped, bit for
    bit on a CPU with the same number of threads.
    Raises: InputError on unfit crops or a bad checkpoint; FloatingPointError when the loss stops being finite.
    Method: DINOv2 (Oquab et al. 2023) in 3D as in SpatialDINO, with its training mistakes repaired.
    """
    s = settings or PretrainSettings()
    crops = check_crops(crops)
    trainer = Trainer(crops, encoder_config, s, seed, device)
    run = trainer.fingerprint()
    saved = load_checkpoint(checkpoint_dir, run) if checkpoint_dir is not None else None
    first, log = trainer.restore(*saved) if saved else (0, [])
    before = log[-1]["seconds"] if log else 0.0
    start, bar = time.monotonic(), Progress(s.steps, "pretraining", done=first)
    stop = s.steps if until is None else min(until, s.steps)
    for step in range(first, stop):
        row = trainer.step(step, log[-1] if log else None)
        log.append({"step": step, "seconds": before + time.monotonic() - start} | row)
        if not np.isfinite(row["loss"]):
            bar.close()
            raise FloatingPointError(health.alarms(log[-1], encoder_config.width)[0] + f" (step {step})")
        if checkpoint_dir is not None and ((step + 1) % s.checkpoint_every == 0 or step + 1 == stop):
            save_checkpoint(checkpoint_dir, step + 1, trainer.state(), run, log)
        if on_step is not None:
            on_step(**log[-1])
        bar.step(loss=row["loss"], rankme=row["rankme"])
    bar.close(loss=log[-1]["loss"], rankme=log[-1]["rankme"])
    return trainer.model.teacher.encoder.eval(), pd.DataFrame(log)


class Trainer:
    """Hold the state of a run and make its steps."""

    def __init__(self, crops: Tensor, config: EncoderConfig, s: PretrainSettings, seed: int, device: str) -> None:
        self.crops, self.config, self.s, self.seed, self.device = crops, config, s, seed, torch.device(device)
        self.model = StudentTeacher(config, s, seed).to(self.device).train()
        groups = schedules.parameter_groups(self.model, s.filter_lr)
        self.names = [name for group in groups for name in group.pop("names")]
        self.optimiser = torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.999), foreach=True)
        self.grid = tuple(-(-size // p) for size, p in zip(s.global_shape, config.patch, strict=True))

    def batch(self, step: int) -> Tensor:
        """Return the crops (B, 1, Z, Y, X) of a step: every crop once per epoch, in the epoch's own order."""
        n, picks = len(self.crops), []
        for position in range(step * self.s.batch, (step + 1) * self.s.batch):
            epoch, place = divmod(position, n)
            picks.append(self._order(epoch)[place])
        return self.crops[picks].to(self.device)

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._permutation = epoch, rng(self.seed, "epoch", epoch).permutation(len(self.crops))
        return self._permutation

    def step(self, step: int, last: dict | None) -> dict:
        """Make one step of training; return its row of the log (health is measured now and then, and carried on)."""
        s, model, now = self.s, self.model, schedules.at(step, self.s)
        views = make_views(self.batch(step), s, torch_rng(self.seed, "views", step))
        mask = make_masks(2 * s.batch, self.grid, s.mask_ratio, s.mask_share, rng(self.seed, "masks", step))
        with torch.random.fork_rng(enabled=self.config.drop_path > 0):
            if self.config.drop_path > 0:
                torch.manual_seed(int_seed(self.seed, "drop path", step))
            parts, seen = self.losses(views, mask.to(self.device), now.teacher_temp)
        loss = sum(getattr(s, name) * value for name, value in parts.items())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if now.last_frozen:
            model.student.cls_head.prototypes.grad = model.student.patch_head.prototypes.grad = None
        for group in self.optimiser.param_groups:
            group["lr"], group["weight_decay"] = now.lr * group["scale"], now.weight_decay * group["decay"]
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        grad_norm = torch.nn.utils.clip_grad_norm_(trained, s.clip)
        if torch.isfinite(loss):
            self.optimiser.step()
            model.follow(now.ema)
        row = {"lr": now.lr, "loss": float(loss.detach())} | {k: float(v.detach()) for k, v in parts.items()}
        return row | {"grad_norm": float(grad_norm)} | self.measure(step, seen, last)

    def losses(self, views, mask: Tensor, teacher_temp: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the unweighted losses of a batch, and the tensors that health is read from."""
        s, student, teacher = self.s, self.model.student, self.model.teacher
        b, globals_ = s.batch, views.globals.flatten(0, 1)  # (2B, 1, z, y, x), view-major
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            with torch.no_grad():
                seen_by_teacher = teacher.encoder(globals_)
            seen = student.encoder(globals_, mask)
            local = student.encoder(views.locals.flatten(0, 1)) if s.n_local else None
        width = self.config.width
        cls = seen.cls.float().view(2, b, width)
        all_cls = cls if local is None else torch.cat([cls, local.cls.float().view(s.n_local, b, width)])
        with torch.no_grad():
            patch_logits = teacher.patch_head(seen_by_teacher.patches)  # (2B, N, K)
            patch_targets = self.model.targets(patch_logits, "patch", teacher_temp)
            cls_logits = teacher.cls_head(seen_by_teacher.cls.view(2, b, width))
            cls_targets = self.model.targets(cls_logits, "cls", teacher_temp)
        target = self.model.denoise_head.target(pad_to_patches(views.targets.flatten(0, 1), self.config.patch))
        parts = {
            "dino": losses.dino_loss(cls_targets, student.cls_head(all_cls), s.student_temp),
            "ibot": losses.ibot_loss(patch_targets[mask], student.patch_head(seen.patches)[mask],
                                     mask_weights(mask), s.student_temp),
            "koleo": losses.koleo_loss(cls),
            "denoise": losses.denoise_loss(self.model.denoise_head(seen.patches), target),
        }
        return parts, {"teacher": seen_by_teacher.patches, "student": seen.patches, "mask": mask,
                       "patch": patch_targets, "cls": cls_targets}

    def measure(self, step: int, seen: dict[str, Tensor], last: dict | None) -> dict[str, float]:
        """Return the health of this step, or the last one measured where it is not this step's turn."""
        keys = ("entropy_patch", "entropy_cls", "rankme", "feature_std", "outliers", "masked_spread")
        if last is not None and step % self.s.health_every and step + 1 < self.s.steps:
            return {key: last[key] for key in keys}
        patches = seen["teacher"].flatten(0, 1)
        return dict(zip(keys, (
            float(losses.entropy_ratio(seen["patch"])), float(losses.entropy_ratio(seen["cls"])),
            health.rankme(patches), health.feature_std(patches), health.outlier_share(patches),
            health.masked_spread(seen["student"], seen["mask"])), strict=True))

    def fingerprint(self) -> str:
        """Return a digest of all that fixes the run: crops, encoder, settings, seed."""
        facts = json.dumps([asdict(self.config), asdict(self.s), self.seed, list(self.crops.shape)], sort_keys=True)
        return hashlib.sha256(facts.encode() + self.crops.numpy().tobytes()).hexdigest()

    def state(self) -> dict[str, Tensor]:
        """Return everything a later process needs to go on."""
        model = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return model | optimiser_tensors(self.optimiser, self.names)

    def restore(self, step: int, tensors: dict[str, Tensor], log: list[dict]) -> tuple[int, list[dict]]:
        """Put back what `state` returned; return the next step and the log."""
        self.model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()
                                    if name.startswith("model.")})
        restore_optimiser(self.optimiser, self.names, tensors)
        return step, log


def check_crops(crops: np.ndarray | Tensor) -> Tensor:
    """Return crops as a CPU tensor (n, 1, z, y, x); raise InputError where they cannot be trained on."""
    crops = torch.from_numpy(np.ascontiguousarray(crops)) if isinstance(crops, np.ndarray) else crops.cpu()
    crops = crops.unsqueeze(1) if crops.dim() == 4 else crops
    if crops.dim() != 5 or crops.shape[1] != 1 or len(crops) == 0 or not crops.is_floating_point():
        raise InputError("pretraining needs normalised crops", where="pretrain",
                         got=f"{crops.dtype} {tuple(crops.shape)}", expected="floating point (n, z, y, x), n >= 1",
                         do="make them with notebook 02")
    if not torch.isfinite(crops).all():
        raise InputError("the crops hold NaN or infinite voxels", where="pretrain",
                         do="make them again with notebook 02")
    return crops


def write_pretrained(weights_path: str | Path, config_path: str | Path, log_path: str | Path,
                     checkpoint_dir: str | Path, crops: np.ndarray, encoder_config: EncoderConfig,
                     settings: PretrainSettings, seed: int = 0, device: str = "cpu",
                     on_step: OnStep | None = None) -> None:
    """Train, and write encoder.safetensors, config.json, log.csv and the folder of checkpoints.

    Give it to `Workspace.make` with resume=True: a killed run then goes on from its last checkpoint.
    """
    encoder, log = pretrain(crops, encoder_config, settings, seed=seed, device=device, checkpoint_dir=checkpoint_dir,
                            on_step=on_step)
    facts = {"crops": list(np.shape(crops)), "steps": settings.steps, "batch": settings.batch, "seed": seed,
             "settings": asdict(settings), "final_loss": float(log["loss"].iloc[-1])}
    log.to_csv(log_path, index=False)
    save_encoder(encoder, weights_path, config_path, trained_on=facts)
