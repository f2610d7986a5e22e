"""The full state of a run on disk: written whole, checked by sha256, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from cellfm_nb.errors import InputError


def save_checkpoint(folder: str | Path, step: int, tensors: dict[str, Tensor], run: str, log: list[dict]) -> None:
    """Write the state after `step` steps into folder/step-NNNNNNNN, then drop the older ones.

    Parameters: tensors, name to tensor; run, a digest of everything that fixes the run; log, rows so far. The new
    folder is renamed when whole, so a kill at any moment leaves at least one whole checkpoint.
    """
    folder = Path(folder)
    final, part = folder / f"step-{step:08d}", folder / f".part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    (part / "state.safetensors").write_bytes(data)
    card = {"step": step, "run": run, "sha256": hashlib.sha256(data).hexdigest(), "log": log}
    (part / "state.json").write_text(json.dumps(card) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)
    for old in (*folder.glob("step-*"), *folder.glob(".part-*")):  # what else lies there is not ours
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: str | Path, run: str) -> tuple[int, dict[str, Tensor], list[dict]] | None:
    """Read the newest checkpoint of a folder: its step, tensors and log; None where there is none.

    Raises: InputError when it is damaged or belongs to another run.
    """
    folder = Path(folder)
    found = sorted(folder.glob("step-*")) if folder.is_dir() else []
    if not found:
        return None
    place, again = found[-1], "delete this checkpoint folder and run again: training then starts from the beginning"
    try:
        card = json.loads((place / "state.json").read_text())
        data = (place / "state.safetensors").read_bytes()
        step, sha256, log = int(card["step"]), card["sha256"], card["log"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the checkpoint cannot be read", where=place, got=error, do=again) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise InputError("the checkpoint is damaged", where=place, got=f"sha256 {digest}", expected=f"sha256 {sha256}",
                         do=again)
    if card.get("run") != run:
        raise InputError("the checkpoint belongs to another run (settings, encoder, seed or crops differ)", where=place,
                         do=again)
    return step, load(data), log


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Name the state of an optimiser ("optimiser.<parameter>.<key>") so that it fits a safetensors file."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {f"optimiser.{name}.{key}": torch.as_tensor(value) for name, p in zip(names, parameters, strict=True)
            for key, value in optimiser.state[p].items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` took."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, p in zip(names, parameters, strict=True):
        prefix = f"optimiser.{name}."
        for full, value in tensors.items():
            if full.startswith(prefix):
                key = full.removeprefix(prefix)
                optimiser.state[p][key] = value if key == "step" else value.to(p.device)
