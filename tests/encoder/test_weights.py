"""Weights survive the way to disk and back; damage is found and named."""

import json

import pytest
import torch

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError

CONFIG = EncoderConfig(width=32, depth=1, heads=2, registers=1)


@pytest.fixture
def folder(tmp_path):
    return Encoder(CONFIG, seed=1).save_pretrained(tmp_path / "encoder", trained_on={"steps": 3})


def test_round_trip_is_bit_exact(folder):
    back, want = Encoder.from_pretrained(folder), Encoder(CONFIG, seed=1)
    assert back.config == CONFIG and not back.training
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), want.state_dict().values(), strict=True))
    card = json.loads((folder / "config.json").read_text())
    assert card["parameters"] == want.n_parameters and card["trained_on"] == {"steps": 3}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "encoder.safetensors"]


def spoil(folder, what):
    weights, config = folder / "encoder.safetensors", folder / "config.json"
    if what == "no weights":
        weights.unlink()
    elif what == "no config":
        config.unlink()
    elif what == "a flipped bit":
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(bytes(data))
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "not json":
        config.write_text("{")
    elif what == "another architecture":
        card = json.loads(config.read_text())
        card["config"]["width"] = 64
        config.write_text(json.dumps(card))


@pytest.mark.parametrize("what", ["no weights", "no config", "a flipped bit", "truncated", "not json",
                                  "another architecture"])
def test_damage_is_an_input_error(folder, what):
    spoil(folder, what)
    with pytest.raises(InputError) as error:
        Encoder.from_pretrained(folder)
    assert "notebook 03" in str(error.value)
