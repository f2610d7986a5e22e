"""Weights in and out: safetensors and json, checked by sha256. No pickle, so a file can do no harm."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from cellfm_nb.encoder.card import model_card
from cellfm_nb.errors import InputError

if TYPE_CHECKING:
    from cellfm_nb.encoder.vit import Encoder

FORMAT = "cellfm_nb.encoder/1"
BEFORE = {"rivals": 0}  # what weights are that were written before a setting was
PACKAGED = Path(__file__).parents[1] / "weights"  # NAME/: encoder.safetensors, config.json, README.md


def save_encoder(encoder: Encoder, weights_path: str | Path, config_path: str | Path,
                 trained_on: dict | None = None, dtype: str = "float32") -> Path:
    """Write an encoder's weights (safetensors) and its description (json), each renamed when whole.

    Parameters: encoder; weights_path, config_path, files to write; trained_on, JSON-able facts about the training;
    dtype, "float32" | "bfloat16" (half the bytes; read back as float32, 3 significant digits).
    Returns: the folder of the weights. config.json holds the configuration, the sha256 of the weights, the number of
    parameters and what the encoder was trained on.
    """
    weights_path, config_path = Path(weights_path), Path(config_path)
    if dtype not in ("float32", "bfloat16"):
        raise InputError("weights are not stored so", where="save_encoder", got=dtype, expected="float32 | bfloat16")
    data = save({name: tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
                 for name, tensor in encoder.state_dict().items()})
    card = {"format": FORMAT, "config": asdict(encoder.config), "parameters": encoder.n_parameters, "dtype": dtype,
            "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "trained_on": trained_on or {}}
    write_whole(weights_path, data)
    write_whole(config_path, (json.dumps(card, indent=1) + "\n").encode())
    return weights_path.parent


def save_folder(encoder: Encoder, folder: str | Path, trained_on: dict | None = None, dtype: str = "float32") -> Path:
    """Write encoder.safetensors, config.json and a model card, README.md, into a folder; see `save_encoder`."""
    folder = Path(folder)
    save_encoder(encoder, folder / "encoder.safetensors", folder / "config.json", trained_on, dtype)
    card = model_card(folder.resolve().name, json.loads((folder / "config.json").read_text()))
    write_whole(folder / "README.md", card.encode())
    return folder


def packaged() -> list[str]:
    """Return the names of the encoders that come with the package."""
    return sorted(path.parent.name for path in PACKAGED.glob("*/config.json"))


def find_folder(place: str | Path) -> Path:
    """Return the folder of an encoder: one that is there, or that of a packaged name.

    Raises: InputError listing the known names.
    """
    if Path(place).is_dir():
        return Path(place)
    if str(place) in (names := packaged()):
        return PACKAGED / place
    raise InputError("no encoder here", where=place, expected="a folder with encoder.safetensors and config.json, or "
                     f"a name: {', '.join(names) or 'none comes with this package'}",
                     do="run notebook 03_pretrain_encoder, or give a folder that save_pretrained wrote")


def load_encoder(folder: str | Path, device: str = "cpu") -> Encoder:
    """Read the encoder in a folder (encoder.safetensors, config.json) and check that nothing is damaged.

    Parameters: folder, or the name of an encoder that comes with the package (`packaged`); device.
    Returns: the encoder in eval mode on the device.
    Raises: InputError when a file is missing, unreadable, of another checksum, or does not fit its configuration.
    """
    from cellfm_nb.encoder.vit import Encoder, EncoderConfig

    folder = find_folder(folder)
    weights_path, config_path = folder / "encoder.safetensors", folder / "config.json"
    for path in (weights_path, config_path):
        if not path.is_file():
            raise InputError("no encoder here", where=path, expected="encoder.safetensors and config.json",
                             do="run notebook 03_pretrain_encoder, or give a folder that save_pretrained wrote")
    again = "delete the folder and run notebook 03_pretrain_encoder again"
    try:
        card = json.loads(config_path.read_text())
        config, sha256 = EncoderConfig(**BEFORE | card["config"]), card["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the description of the encoder cannot be read", where=config_path, got=error,
                         do=again) from error
    data = weights_path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError("the weights are damaged or belong to another config.json", where=weights_path,
                         got=f"sha256 {found}", expected=f"sha256 {sha256}", do=again)
    try:
        tensors = load(data)
        if config.stem == "dog" and "stem.filters.weight" in tensors:  # written when the bank was made of dense kernels
            config = replace(config, stem="conv")
        encoder = Encoder(config)
        encoder.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise InputError("the weights do not fit the configuration", where=weights_path, got=error, do=again) from error
    return encoder.to(device).eval()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)
