"""One step of training, for one process or for its share of the work of many."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from cellfm_nb.encoder import (
    EncoderConfig,
    blob_filters,
    drops_of,
    filter_size,
    keep_freed_memory,
    pad_to_patches,
)
from cellfm_nb.errors import InputError
from cellfm_nb.pretrain import health, losses, ranks, schedules
from cellfm_nb.pretrain.checkpoint import optimiser_tensors, restore_optimiser
from cellfm_nb.pretrain.crops import Crops
from cellfm_nb.pretrain.masks import foreground, make_masks, mask_weights, toward_foreground
from cellfm_nb.pretrain.settings import PretrainSettings
from cellfm_nb.pretrain.student_teacher import StudentTeacher
from cellfm_nb.pretrain.views import Views, make_views
from cellfm_nb.seeds import int_seed, rng, torch_rng

LOSSES = ("dino", "ibot", "koleo", "denoise", "redundancy")  # always in the log; nan where they have no weight


class Trainer:
    """Hold the state of a run and make its steps; each rank holds one and works on its share of every batch."""

    def __init__(self, crops: Crops, config: EncoderConfig, s: PretrainSettings, seed: int, device: str) -> None:
        keep_freed_memory()
        rank, world = ranks.rank_and_world()
        if s.batch % (world * s.accumulate):
            raise InputError("the batch can't be shared evenly", where="pretrain", expected="a multiple",
                             got=f"{s.batch} crops, {world} ranks, {s.accumulate} parts each",
                             do="change batch or accumulate")
        self.mine = range(rank * s.batch // world, (rank + 1) * s.batch // world)  # of each global batch
        self.crops, self.config, self.s, self.seed, self.device = crops, config, s, seed, torch.device(device)
        self.model = StudentTeacher(config, s, seed).to(self.device).train()
        self.model.student.encoder.checkpointing = s.checkpointing
        groups = schedules.parameter_groups(self.model, s.filter_lr, s.layer_decay)
        self.names = [name for group in groups for name in group.pop("names")]
        self.optimiser = torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.999), foreach=True)
        self.grid = tuple(-(-size // p) for size, p in zip(s.global_shape, config.patch, strict=True))
        self.ahead, self._made = self.device.type == "cuda", {}

    def picks(self, step: int, samples: range | None = None) -> list[int]:
        """Return the numbers of the crops of a step's samples: every crop once per epoch, in the epoch's own order."""
        places = (divmod(step * self.s.batch + i, len(self.crops)) for i in samples or range(self.s.batch))
        return [int(self._order(epoch)[place]) for epoch, place in places]

    def views(self, step: int, samples: range) -> Views:
        """Return the views of some samples of a step; each sample's draws are its own, whoever makes them."""
        if (step, samples) in self._made:
            return self._made.pop((step, samples))
        crops = self.crops.take(self.picks(step, samples)).to(self.device)
        return make_views(crops, self.s, [torch_rng(self.seed, "views", step, i) for i in samples])

    def masks(self, step: int) -> Tensor:
        """Return the masks (2, batch, N) of a step's global views, the same on every rank."""
        if step in self._made:
            return self._made.pop(step)
        s = self.s
        masks = make_masks(2 * s.batch, self.grid, s.mask_ratio, s.mask_share, rng(self.seed, "masks", step))
        return masks.view(2, s.batch, -1)

    def look_ahead(self, step: int, samples: range) -> None:
        """Make what comes after some samples of a step, views and masks: a GPU is still busy with their gradients."""
        last = samples.stop == self.mine.stop
        step, start = (step + 1, self.mine.start) if last else (step, samples.stop)
        if self.ahead and step < self.s.steps:
            following = range(start, start + len(samples))
            self._made = {(step, following): self.views(step, following)} | ({step: self.masks(step)} if last else {})

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._permutation = epoch, rng(self.seed, "epoch", epoch).permutation(len(self.crops))
        return self._permutation

    def step(self, step: int, last: dict | None) -> dict:
        """Make one step of training; return its row of the log (health is measured now and then, and carried on)."""
        s, model, now = self.s, self.model, schedules.at(step, self.s)
        masks = self.masks(step)
        self.optimiser.zero_grad(set_to_none=True)
        if s.gram and step and step % s.gram_every == 0:
            model.drop_anchor()
        size, told = len(self.mine) // s.accumulate, []
        for first in range(self.mine.start, self.mine.stop, size):
            part = range(first, first + size)
            views = self.views(step, part)
            hidden = self.hidden(step, part, masks[:, first:first + size], views)
            with drops_of(part, s.batch, int_seed(self.seed, "drop path", step), self.config.drop_path > 0):
                anchored = bool(s.gram) and step >= s.gram_every
                parts, seen = self.losses(views, hidden, now.teacher_temp, anchored, self.watched(step, last))
                loss = sum(getattr(s, name) * value for name, value in parts.items())
                (loss / s.accumulate).backward()
            told.append(torch.stack([loss, *parts.values()]).detach().double())
            self.look_ahead(step, part)
        row = dict(zip(("loss", *parts), (sum(told) / len(told)).tolist(), strict=True))  # waits for a GPU
        row = ranks.mean_over_ranks(row, self.device)
        for group in self.optimiser.param_groups:
            group["lr"], group["weight_decay"] = now.lr * group["scale"], now.weight_decay * group["decay"]
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        ranks.average_gradients(trained)
        if now.last_frozen:  # after the averaging, which gives every rank a gradient
            for kind in ("cls", "patch"):
                model.student.head(kind).prototypes.grad = None
        grad_norm = torch.nn.utils.clip_grad_norm_(trained, s.clip)
        if not torch.isfinite(grad_norm):  # a finite loss can have infinite gradients
            row["loss"] = float("nan")
        if np.isfinite(row["loss"]):  # means over ranks: all of them step, or none
            self.optimiser.step()
            model.follow(now.ema)
        row = {"lr": now.lr, "loss": row["loss"]} | dict.fromkeys(LOSSES, math.nan) | row
        return row | {"grad_norm": float(grad_norm)} | self.measure(step, seen, last)

    def hidden(self, step: int, samples: range, masks: Tensor, views: Views) -> Tensor:
        """Return the masks (2B, N) of some samples' global views, redrawn towards their foreground where asked for."""
        masks = masks.flatten(0, 1)  # (2, B, N) to view-major rows
        if self.s.mask_foreground:
            pictures = pad_to_patches(views.globals.flatten(0, 1), self.config.patch)
            blob = blob_filters(1, filter_size(self.config.spacing_um), self.config.spacing_um, sigmas_um=(0.12, 0.25))
            draws = [rng(self.seed, "foreground", step, view, i) for view in range(2) for i in samples]
            masks = toward_foreground(masks, foreground(pictures, blob, self.config.patch), self.grid,
                                      self.s.mask_foreground, draws)
        return masks.to(self.device)

    def losses(self, views: Views, mask: Tensor, teacher_temp: float, anchored: bool = False,
               watched: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the unweighted losses of a batch, those with a weight, and the tensors that health is read from.

        watched: health is asked for; False leaves out what no loss needs.
        """
        s, student, teacher = self.s, self.model.student, self.model.teacher
        b, globals_ = views.globals.shape[1], views.globals.flatten(0, 1)  # (2B, 1, z, y, x), view-major
        taught = bool(s.dino or s.ibot)  # by targets of the teacher
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            with torch.no_grad():
                seen_by_teacher = teacher.encoder(globals_, saliency=False) if taught or watched else None
                seen_before = self.model.anchor(globals_, saliency=False) if anchored else None
            seen = student.encoder(globals_, mask, saliency=False)
            local = student.encoder(views.locals.flatten(0, 1), saliency=False) if s.n_local and s.dino else None
        width = self.config.width
        cls = seen.cls.float().view(2, b, width)
        parts, read = {}, {"student": seen.patches, "mask": mask}
        if seen_by_teacher is not None:
            read |= {"teacher": seen_by_teacher.patches, "teacher_cls": seen_by_teacher.cls}
        if taught:
            with torch.no_grad():
                patch_logits = teacher.head("patch")(seen_by_teacher.patches)  # (2B, N, K)
                read["patch"] = self.model.targets(patch_logits, "patch", teacher_temp)
                cls_logits = teacher.head("cls")(seen_by_teacher.cls.view(2, b, width))
                read["cls"] = self.model.targets(cls_logits, "cls", teacher_temp)
        if s.dino:
            all_cls = cls if local is None else torch.cat([cls, local.cls.float().view(s.n_local, b, width)])
            parts["dino"] = losses.dino_loss(read["cls"], student.head("cls")(all_cls), s.student_temp)
        if s.ibot:
            parts["ibot"] = losses.ibot_loss(read["patch"][mask], student.head("patch")(seen.patches)[mask],
                                             mask_weights(mask), s.student_temp)
        if s.koleo:
            parts["koleo"] = losses.koleo_loss(cls)
        if s.denoise:
            copy = pad_to_patches(views.targets.flatten(0, 1), self.config.patch)
            parts["denoise"] = losses.denoise_loss(self.model.denoise_head(seen.patches),
                                                   self.model.denoise_head.target(copy))
        if s.redundancy:
            parts["redundancy"] = losses.redundancy_loss(seen.patches)
        if anchored:
            parts["gram"] = losses.gram_loss(seen.patches, seen_before.patches)
        if s.decorrelate:
            parts["decorrelate"] = losses.position_loss(seen.patches, seen.grid)
        return parts, read

    def watched(self, step: int, last: dict | None) -> bool:
        """Say whether it is a step's turn to measure health: also that of one with none before it to carry on."""
        return last is None or step % self.s.health_every == 0 or step + 1 == self.s.steps

    def measure(self, step: int, seen: dict[str, Tensor], last: dict | None) -> dict[str, float]:
        """Return the health of this step, or the last one measured where it is not this step's turn."""
        if not self.watched(step, last):
            return {key: last[key] for key in health.MEASURES}
        return ranks.mean_over_ranks(health.measure(seen), self.device)

    def fingerprint(self) -> str:
        """Return a digest of all that fixes the run: crops, encoder (and what it is made of), settings, seed."""
        unseen = ("checkpoint_every", "health_every", "probe_every", "patience", "checkpointing")  # change no weight
        settings = {name: value for name, value in asdict(self.s).items() if name not in unseen}
        facts = [asdict(self.config), self.names, settings, self.seed, len(self.crops), self.crops.shape,
                 self.crops.digest()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

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
