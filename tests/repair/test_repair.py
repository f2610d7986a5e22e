"""Planted defects are found and repaired; healthy encoders are left alone, to the bit (S3, S6)."""

import copy
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cellfm_nb.encoder import Encoder
from cellfm_nb.errors import InputError
from cellfm_nb.movie import write_frames
from cellfm_nb.repair import (
    PUBLISHED,
    RELATIVE,
    Recipe,
    aligned,
    clip_spectrum,
    compare,
    detect,
    own_direction,
    plant_defect,
    repair,
    trace,
    train,
    train_singular_values,
    write_repair,
)
from cellfm_nb.repair.write import middle


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def score(encoder, planted, mended, volume, block):
    effect = compare(encoder, planted, mended, volume, block)
    return effect["norm_ratio"], effect["planted_cosine"], effect["other_cosine"]


def test_a_healthy_encoder_is_left_alone_to_the_bit(encoder, volume):
    for recipe in (None, RELATIVE):
        mended, table = repair(encoder, [volume], train=recipe)
        assert not table["alarm"].any() and (table["repaired"] == "nothing").all() and equal(mended, encoder)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_planted_defect_is_found_and_clipped(encoder, volume, block, dense):
    planted, direction = plant_defect(encoder, volume, block, strength=5, seed=2, dense=dense)
    table = detect(planted, [volume])
    assert table["alarm"].tolist() == [i == block for i in range(3)]
    assert (own_direction(planted.blocks[block]) @ direction).abs() > 0.99
    before = score(encoder, planted, planted, volume, block)
    mended, after = repair(planted, [volume])
    norm, cosine, others = score(encoder, planted, mended, volume, block)
    assert before[0] > 1.5 and before[1] < 0.9  # the plant did harm
    assert abs(norm - 1) < 0.1 and cosine > 0.97 and others > 0.99
    assert not after["alarm_after"].any() and after["flagged_after"][block] < 0.1 * after["flagged"][block]


def test_flagged_tokens_are_the_planted_ones(encoder, volume):
    planted, direction = plant_defect(encoder, volume, 1, strength=5, seed=2)
    clean, dirty = trace(encoder, volume)[0][2], trace(planted, volume)[0][2]
    given = ((dirty - clean) @ direction.float()).abs() > clean.norm(dim=1)
    flagged = aligned(dirty, own_direction(planted.blocks[1]))
    assert flagged[given].float().mean() > 0.95


def test_repairing_twice_is_repairing_once(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 1, seed=2)
    once, _ = repair(planted, [volume])
    assert equal(repair(once, [volume])[0], once)


def test_several_directions_and_an_adapted_bias_are_cut(encoder, volume):
    planted, first = plant_defect(encoder, volume, 1, strength=5, seed=2)
    planted, second = plant_defect(planted, volume, 1, strength=5, seed=3)
    with torch.no_grad():
        planted.blocks[1].attention.proj.bias += 50 * first.float()
    assert clip_spectrum(planted.blocks[1]) in (1, 2)
    s = torch.linalg.svdvals(planted.blocks[1].attention.proj.weight)
    assert s[0] / s[1] < 5 and (planted.blocks[1].attention.proj.bias @ first.float()).abs() < 5


def test_training_relative_singular_values_repairs(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 2, strength=5, seed=0)
    mended, table = repair(planted, [volume], clip=False, train=RELATIVE)
    norm, cosine, others = score(encoder, planted, mended, volume, 2)
    assert abs(norm - 1) < 0.1 and cosine > 0.95 and others > 0.97
    assert table["repaired"][2].startswith("trained") and table["flagged_after"][2] < 0.1 * table["flagged"][2]


def test_control_the_published_recipe_does_not_repair_it(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 2, strength=5, seed=0)
    mended, _ = repair(planted, [volume], clip=False, train=PUBLISHED)
    norm, cosine, _ = score(encoder, planted, mended, volume, 2)
    assert abs(norm - 1) > 0.1 and cosine < 0.9


def trained(planted, volume, recipe):
    mended = copy.deepcopy(planted)
    return mended, train_singular_values(mended, [volume], recipe, [2])


def test_control_absolute_for_relative_does_not_repair_it(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 2, strength=5, seed=0)
    mended, _ = trained(planted, volume, replace(RELATIVE, relative=False))
    assert score(encoder, planted, mended, volume, 2)[1] < 0.9


def test_control_without_the_stop_rule_training_goes_on_and_does_harm(encoder, volume, monkeypatch):
    planted, _ = plant_defect(encoder, volume, 2, strength=5, seed=0)
    right, steps = trained(planted, volume, RELATIVE)
    assert 0 < steps[2] < RELATIVE.max_steps
    monkeypatch.setattr(train, "aligned", lambda tokens, direction: torch.ones(tokens.shape[:-1], dtype=torch.bool))
    endless, steps = trained(planted, volume, RELATIVE)  # flags nothing off: always a reason to go on
    assert steps[2] == RELATIVE.max_steps
    assert score(encoder, planted, endless, volume, 2)[2] < score(encoder, planted, right, volume, 2)[2]


def test_training_rests_when_enough_looks_are_calm(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 2, strength=5, seed=0)
    assert trained(planted, volume, replace(RELATIVE, calm=0.0, window=3))[1] == {2: 2}  # the third look rests
    assert trained(planted, volume, replace(RELATIVE, calm=0.1, window=3, max_steps=5))[1] == {2: 5}


def test_training_that_does_harm_is_undone(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 2, strength=5, seed=0)
    wild = replace(RELATIVE, relative=False, shrink=False, lr=50.0, max_norm=10.0, max_steps=2)
    mended, table = repair(planted, [volume], clip=False, train=wild)
    assert equal(mended, planted) and table["repaired"][2] == "trained 2 steps, undone"


def test_only_the_blocks_asked_for_are_trained(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 2, strength=5, seed=2)
    for layers, touched in ((1, [False, False, True]), (2, [False, True, True])):
        trained = copy.deepcopy(planted)
        train_singular_values(trained, [volume], Recipe(layers=layers, max_steps=1), alarmed=[2])
        assert [not equal(a, b) for a, b in zip(trained.blocks, planted.blocks, strict=True)] == touched


def test_weights_that_are_not_finite_are_refused(encoder, volume):
    broken = copy.deepcopy(encoder)
    with torch.no_grad():
        broken.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        detect(broken, [volume])


def prepare(movie, t, target_um):
    return movie.frame(t), movie.spacing_um


def test_writer(encoder, volume, tmp_path):
    frames = np.stack([volume, volume[::-1]])[:, None]
    write_frames(tmp_path / "m.ome.zarr", frames, frames.shape, frames.dtype, encoder.config.spacing_um, 1.0, "m")
    for name, written in (("healthy", encoder), ("planted", plant_defect(encoder, volume, 1, seed=2)[0])):
        written.save_pretrained(tmp_path / name, trained_on={"steps": 3})
        out = tmp_path / f"{name}-repaired"
        out.mkdir()
        write_repair(out / "encoder.safetensors", out / "config.json", out / "defects.csv",
                     tmp_path / name / "encoder.safetensors", tmp_path / "m.ome.zarr", prepare)
        Encoder.from_pretrained(out)
        table = pd.read_csv(out / "defects.csv")
        card = json.loads((out / "config.json").read_text())
        same = (out / "encoder.safetensors").read_bytes() == (tmp_path / name / "encoder.safetensors").read_bytes()
        assert {"block", "gap", "growth", "flagged", "alarm"} <= set(table) and card["trained_on"]["steps"] == 3
        assert same == (name == "healthy") and (card["trained_on"]["repaired"] == {}) == (name == "healthy")


def test_large_frames_are_cut_to_their_middle():
    volume = np.arange(9 * 40 * 40).reshape(9, 40, 40)
    assert middle(volume, (4, 8, 8)) is not None and middle(volume, (4, 8, 8)).shape == volume.shape
    cut = middle(volume, (4, 8, 8), tokens=30)  # of 3 x 5 x 5
    assert cut.shape == (9, 24, 24) and cut[0, 0, 0] == volume[0, 8, 8]


def test_what_was_found_lies_beside_the_parameters(encoder):
    eps = [torch.nn.Parameter(torch.zeros(2, device="meta"))]  # NCCL reduces nothing that lies on the CPU
    assert train.DefectLoss(encoder, RELATIVE, {}, eps)([])[1].device.type == "meta"


def test_half_precision_is_refused(encoder, volume):
    with pytest.raises(InputError, match="half precision"):
        detect(copy.deepcopy(encoder).bfloat16(), [volume])


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 48, 40), (8, 16, 16)])
def test_few_tokens_are_enough(encoder, volume, shape):
    piece = volume[tuple(slice(n) for n in shape)]
    for recipe in (RELATIVE, replace(PUBLISHED, max_steps=2)):
        assert len(repair(encoder, [piece], train=recipe)[1]) == len(encoder.blocks)
