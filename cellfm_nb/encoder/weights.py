"""Weights in and out: safetensors and json, checked by sha256. No pickle, so a file can do no harm."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

from cellfm_nb.errors import InputError

if TYPE_CHECKING:
    from cellfm_nb.encoder.vit import Encoder

FORMAT = "cellfm_nb.encoder/1"


def save_encoder(encoder: Encoder, weights_path: str | Path, config_path: str | Path,
                 trained_on: dict | None = None) -> Path:
    """Write an encoder's weights (safetensors) and its description (json), each renamed when whole.

    Parameters: encoder; weights_path, config_path, files to write; trained_on, JSON-able facts about the training.
    Returns: the folder of the weights. config.json holds the configuration, the sha256 of the weights, the number of
    parameters and what the encoder was trained on.
    """
    weights_path, config_path = Path(weights_path), Path(config_path)
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()})
    card = {"format": FORMAT, "config": asdict(encoder.config), "parameters": encoder.n_parameters,
            "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "trained_on": trained_on or {}}
    write_whole(weights_path, data)
    write_whole(config_path, (json.dumps(card, indent=1) + "\n").encode())
    return weights_path.parent


def load_encoder(folder: str | Path, device: str = "cpu") -> Encoder:
    """Read the encoder in a folder (encoder.safetensors, config.json) and check that nothing is damaged.

    Returns: the encoder in eval mode on the device.
    Raises: InputError when a file is missing, unreadable, of another checksum, or does not fit its configuration.
    """
    from cellfm_nb.encoder.vit import Encoder, EncoderConfig

    weights_path, config_path = Path(folder) / "encoder.safetensors", Path(folder) / "config.json"
    for path in (weights_path, config_path):
        if not path.is_file():
            raise InputError("no encoder here", where=path, expected="encoder.safetensors and config.json",
                             do="run notebook 03_pretrain_encoder, or give a folder that save_pretrained wrote")
    again = "delete the folder and run notebook 03_pretrain_encoder again"
    try:
        card = json.loads(config_path.read_text())
        config, sha256 = EncoderConfig(**card["config"]), card["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the description of the encoder cannot be read", where=config_path, got=error,
                         do=again) from error
    data = weights_path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError("the weights are damaged or belong to another config.json", where=weights_path,
                         got=f"sha256 {found}", expected=f"sha256 {sha256}", do=again)
    encoder = Encoder(config)
    try:
        encoder.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        raise InputError("the weights do not fit the configuration", where=weights_path, got=error, do=again) from error
    return encoder.to(device).eval()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)
