"""The benches of pretraining: what a foreground token is, what a verdict means, and that a change is undone."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cellfm_nb.bench import ssl_ablation, ssl_bound, ssl_data, ssl_variants
from cellfm_nb.bench.ssl_variants import VARIANTS, Variant
from cellfm_nb.encoder import Encoder
from cellfm_nb.pretrain import PretrainSettings, losses, masks, student_teacher
from cellfm_nb.seeds import rng


def test_a_token_is_foreground_with_any_voxel_of_an_object_and_the_far_border_counts():
    mask = np.zeros((5, 8, 8), bool)
    assert not ssl_data.foreground(mask, (4, 4, 4)).any()
    mask[3, 3, 4] = mask[4, 7, 7] = True  # the second in the remainder that padding makes a token
    assert np.flatnonzero(ssl_data.foreground(mask, (4, 4, 4))).tolist() == [1, 7]


def test_the_probe_finds_what_is_there_and_equal_cells_ask_the_same_of_any_patch(monkeypatch):
    def movies(seed, snr, frames, way):
        masks = rng(seed, "masks").random((len(frames), 8, 16, 16)) < 0.01
        return masks.astype(np.float16), masks, 1.0

    monkeypatch.setattr(ssl_data, "movies", movies)
    fine, coarse = (ssl_data.probe(ssl_data.statistics(patch), patch, 2.0) for patch in ((2, 4, 4), (4, 8, 8)))
    assert fine.tokens == pytest.approx(1) and fine.cells == pytest.approx(1) and coarse.tokens == pytest.approx(1)
    assert coarse.cells < 0.5  # a coarse token can't say which of its cells it was
    blind = ssl_data.probe(lambda volume: rng(0, "blind").normal(size=(64, 2)), (2, 4, 4), 2.0)
    assert blind.tokens < 0.5


@pytest.mark.parametrize("way", list(ssl_data.WAYS))
def test_noise_is_what_each_way_of_normalising_says(way):
    class Noise:
        gain, const, offset = 0.0, 25.0, 100.0

        def variance(self, mean):
            return 25.0

    counts = 100 + 5 * rng(0, "counts").normal(size=(20, 40, 40)).astype(np.float32)
    volume, unit = ssl_data.WAYS[way](counts, Noise())
    assert volume.std() == pytest.approx(unit, rel=0.1)


def test_a_point_source_is_one_place_and_noise_is_none():
    from scipy.ndimage import gaussian_filter

    known = rng(0, "noise").normal(size=(24, 40, 40)).astype(np.float32)
    ground = np.full(known.shape, 100.0, np.float32)
    quiet = ssl_bound.posterior(ssl_bound.Frame(known, known, ground, ground > 0))
    source = np.zeros_like(known)
    source[12, 20, 20] = 1
    source = gaussian_filter(source, ssl_data.SIGMA_PX)
    known += 4 * source / source.max()
    lit = ssl_bound.posterior(ssl_bound.Frame(known, known, ground, ground > 0))
    assert quiet.max() < 0.5 and 0.9 < lit[11:14, 18:23, 18:23].sum() < 1.1
    assert np.unravel_index(lit.argmax(), lit.shape) == (12, 20, 20)


def runs(*values, **more):
    return [{"ap": v, "cells": v, "rank": v, "masked_spread": 0.1} | more for v in values]


@pytest.mark.parametrize(("says", "own", "reference", "verdict"), [
    ("worse", (0.6, 0.61, 0.62), (0.7, 0.7, 0.73), "holds"),
    ("worse", (0.8, 0.81, 0.8), (0.7, 0.7, 0.71), "does not hold here"),
    ("worse", (0.6, 0.8, 0.7), (0.7, 0.7, 0.72), "no difference seen"),
    ("worse", (0.698, 0.698, 0.698), (0.7, 0.7, 0.7), "no difference seen"),  # sure, and too small to matter
    ("same", (0.7, 0.71, 0.69), (0.7, 0.7, 0.7), "nothing seen against it"),
    ("same", (0.5, 0.5, 0.51), (0.7, 0.7, 0.7), "does not hold here"),
    ("no better", (0.6, 0.6, 0.6), (0.7, 0.7, 0.7), "nothing seen against it"),
    ("no better", (0.8, 0.8, 0.8), (0.7, 0.7, 0.7), "does not hold here"),
    ("collapses", (0.1, 0.1, 0.12), (0.5, 0.5, 0.5), "holds"),
    ("collapses", (0.4, 0.4, 0.4), (0.5, 0.5, 0.5), "lower rank, no collapse"),
    ("collapses", (0.6, 0.6, 0.6), (0.5, 0.5, 0.5), "does not hold here"),
    ("worse", (0.6,), (0.7,), "one seed: no verdict")])
def test_a_verdict_is_what_its_rule_says(says, own, reference, verdict):
    assert ssl_ablation.verdict(Variant("A00", says), runs(*own), runs(*reference)) == verdict


def test_verdicts_on_runs_that_stopped_and_on_spread():
    stopped, fine = [{"ap": math.nan, "rank": math.nan}], runs(0.5)
    assert "1 of 2 stopped: does not hold" in ssl_ablation.verdict(Variant("", "stops"), stopped + fine, fine * 2)
    assert "2 of 2 stopped: holds" in ssl_ablation.verdict(Variant("", "stops"), stopped * 2, fine * 2)
    assert math.isnan(ssl_ablation.means(stopped + fine)["masked_spread"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl_ablation, "kept", lambda name, seed: stopped[0])
        row = next(ssl_ablation.rows())
    assert math.isnan(row.ours) and math.isnan(row.peers["s.d."])
    alike = runs(0.5, masked_spread=0.0)
    assert ssl_ablation.verdict(Variant("", "spreads"), fine, alike) == "holds"
    assert ssl_ablation.verdict(Variant("", "spreads"), alike, fine) == "does not hold here"


def test_every_variant_can_be_made_and_stands_after_its_reference():
    names = list(VARIANTS)
    for name, variant in VARIANTS.items():
        replace(ssl_ablation.BASE, **variant.config)
        replace(ssl_ablation.SETTINGS, **variant.settings)
        assert variant.against in names[:names.index(name) + 1], name
        assert bool(variant.claim) == bool(variant.says), name


def test_a_change_is_undone():
    parts = (losses.dino_loss, masks.block_mask, student_teacher.sinkhorn, Encoder._initialise)
    for change in {variant.change for variant in VARIANTS.values()}:
        with change():
            pass
    assert parts == (losses.dino_loss, masks.block_mask, student_teacher.sinkhorn, Encoder._initialise)


def test_scattered_masks_hide_as_many_tokens():
    with ssl_variants.scattered():
        mask = masks.make_masks(4, (4, 4, 4), (0.5, 0.5), 1.0, rng(0, "masks"))
    assert mask.sum(1).tolist() == [32] * 4


def test_a_small_ablation_runs_and_what_was_kept_is_read(tmp_path, monkeypatch):
    tiles = rng(0, "tiles").normal(size=(4, 12, 24, 24)).astype(np.float32)
    names = ["neighbours mixed in", "pixels of hidden patches", "cold teacher, plain exponential"]
    monkeypatch.setattr(ssl_ablation, "BASE", replace(ssl_ablation.BASE, width=32, depth=1, heads=2))
    table = ssl_ablation.table(names, [0], 1, tiles, ssl_ablation.on_frames())
    assert list(table.index) == ["hidden alike", names[0], "denoising alone", names[1], "published losses", names[2]]
    assert table.loc[names[0], "verdict"] == "holds" and "1 of 1 stopped" in table.loc[names[2], "verdict"]
    assert table.loc["hidden alike", "masked_spread"] == 0 < table.loc[names[0], "masked_spread"]
    monkeypatch.setenv("CELLFM_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(ssl_ablation, "run", lambda variant, seed: {"ap": 0.5, "rank": 0.2})
    assert ssl_ablation.kept("ours", 1) == {"ap": 0.5, "rank": 0.2}
    monkeypatch.setattr(ssl_ablation, "run", lambda variant, seed: {"ap": 0.9, "rank": 0.2})
    assert ssl_ablation.kept("ours", 1)["ap"] == 0.5 and ssl_ablation.kept("ours", 2)["ap"] == 0.9
    assert len(list(tmp_path.iterdir())) == 2 and json.loads(next(tmp_path.iterdir()).read_text())


def test_a_supervised_rival_learns_from_labels(monkeypatch):
    from cellfm_nb.bench import ssl

    masks_ = rng(0, "masks").random((8, 8, 16, 16)) < 0.002
    monkeypatch.setattr(ssl, "SETTINGS", PretrainSettings(steps=3, batch=2, global_shape=(8, 16, 16),
                                                          local_shape=(4, 8, 8)))
    monkeypatch.setattr(ssl, "crops", lambda seed: (10 * masks_.astype(np.float16), masks_, 1.0))
    encoder = ssl.taught(0)
    assert not encoder.training and not torch.equal(encoder.norm.weight, Encoder(ssl.TINY, seed=0).norm.weight)
