"""Weights survive the way to disk and back; damage is found and named."""

import hashlib
import json
import shutil

import pytest
import torch

from cellfm_nb.encoder import Encoder, EncoderConfig, weights
from cellfm_nb.errors import InputError
from cellfm_nb.manifest import load_manifest
from cellfm_nb.seeds import torch_rng

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
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "encoder.safetensors"]


def test_weights_from_before_a_setting_are_read_as_they_were(tmp_path):
    old = EncoderConfig(width=32, depth=1, heads=2, rivals=0)
    folder = Encoder(old, seed=1).save_pretrained(tmp_path / "old")
    told = json.loads((folder / "config.json").read_text())
    del told["config"]["rivals"]
    (folder / "config.json").write_text(json.dumps(told))
    assert Encoder.from_pretrained(folder).config == old != EncoderConfig(width=32, depth=1, heads=2)


def test_a_bank_of_dense_kernels_stays_one(tmp_path):
    """Before blob filters were products of one an axis, "dog" was saved as dense kernels."""
    old = Encoder(EncoderConfig(width=32, depth=1, heads=2, stem="conv"), seed=1)
    folder = old.save_pretrained(tmp_path / "old")
    told = json.loads((folder / "config.json").read_text())
    told["config"]["stem"] = "dog"
    (folder / "config.json").write_text(json.dumps(told))
    back = Encoder.from_pretrained(folder)
    assert back.config.stem == "conv"
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), old.state_dict().values(), strict=True))


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


def test_half_the_bytes_three_digits(tmp_path):
    e, x = Encoder(CONFIG, seed=1).eval(), torch.randn(1, 1, 8, 32, 32)
    whole, half = (e.save_pretrained(tmp_path / d, dtype=d) / "encoder.safetensors" for d in ("float32", "bfloat16"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    back = Encoder.from_pretrained(half.parent)
    assert all(p.dtype == torch.float32 for p in back.parameters())
    for p, q in zip(back.parameters(), e.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2**-8, atol=0)
    similar = torch.cosine_similarity(back(x).patches, e(x).patches, dim=-1)
    assert similar.min() > 0.999 and not torch.equal(back(x).patches, e(x).patches)
    with pytest.raises(InputError, match="float32 | bfloat16"):
        e.save_pretrained(tmp_path, dtype="int8")


def test_the_card_says_what_was_recorded_and_nothing_else(tmp_path):
    facts = {"data": ["simulated movies", "one real stack"], "figures": {"probe AP, SNR 2": 0.81}, "steps": 320,
             "limits": "one microscope", "licence": "MIT", "settings": {"lr": 0.002}}
    folder = Encoder(CONFIG).save_pretrained(tmp_path / "small", trained_on=facts)
    card, text = json.loads((folder / "config.json").read_text()), (folder / "README.md").read_text()
    assert card["trained_on"] == facts and text.startswith("# Encoder small\n")
    for said in ("- simulated movies", "- probe AP, SNR 2: 0.81", "- steps: 320", "one microscope", "MIT",
                 '"lr": 0.002', card["sha256"], "0.25 x 0.1 x 0.1 um", "4 x 8 x 8 voxels", "- registers: 1"):
        assert said in text, said
    bare = (Encoder(CONFIG).save_pretrained(tmp_path / "bare") / "README.md").read_text()
    assert "Not recorded." in bare and "Not measured." in bare


def test_a_name_is_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PACKAGED", tmp_path)
    with pytest.raises(InputError, match="none comes with this package"):
        Encoder.from_pretrained("small")
    Encoder(CONFIG, seed=1).save_pretrained(tmp_path / "small", dtype="bfloat16")
    shutil.copytree(tmp_path / "small", tmp_path / "workshop")
    assert weights.packaged() == ["small", "workshop"]
    assert Encoder.from_pretrained("small").config == CONFIG
    with pytest.raises(InputError, match="a name: small, workshop"):
        Encoder.from_pretrained("large")


@pytest.mark.parametrize("name", weights.packaged() or [None])
def test_packaged_weights_are_whole_small_listed_and_described(name):
    if name is None:
        pytest.skip("no weights come with this package")
    folder = weights.PACKAGED / name
    data = (folder / "encoder.safetensors").read_bytes()
    listed = {m.path: m for m in load_manifest()[name].files()}["encoder.safetensors"]
    assert listed.sha256 == hashlib.sha256(data).hexdigest() and listed.bytes == len(data) <= 15e6
    assert (folder / "README.md").read_text().startswith(f"# Encoder {name}")
    assert Encoder.from_pretrained(name).n_parameters > 0


def test_the_small_encoder_of_the_package_sees_a_punctum():
    encoder = Encoder.from_pretrained("puncta_small")
    noise = torch.randn(1, 1, 16, 48, 48, generator=torch_rng(0, "noise"))
    lit = noise.clone()
    lit[0, 0, 9:11, 27:30, 27:30] += 8  # all of it in one token of (4, 8, 8)
    with torch.inference_mode():
        change = (encoder(lit).patches - encoder(noise).patches).norm(dim=-1)[0]
    assert change.argmax() == 2 * 36 + 3 * 6 + 3 and change.max() > 2 * change.median()
    card = json.loads((weights.PACKAGED / "puncta_small" / "config.json").read_text())
    assert {"data", "figures", "limits", "licence"} <= set(card["trained_on"])
