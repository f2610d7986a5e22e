"""Arithmetic against independent counts; trials that can come out either way."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cellfm_nb.claims import arithmetic, trials
from cellfm_nb.claims.trials.objects import POSITION
from cellfm_nb.encoder import Encoder, EncoderConfig

SPACING = (0.25, 0.1, 0.1)


def test_hours_of_labelling():
    assert arithmetic.labelling_hours(100, 60, 90) == pytest.approx(1500)
    assert arithmetic.labelling_hours(1, 1, 1, 3600) == 1


def test_operations_are_those_a_counter_counts():
    encoder = Encoder(EncoderConfig(patch=(8, 8, 8), width=96, depth=3, heads=6, stem="patch"), seed=0)
    math = sdpa_kernel(SDPBackend.MATH)  # the fused kernel of the CPU is not counted
    with math, FlopCounterMode(display=False) as counter, torch.no_grad():
        for block in encoder.blocks:
            block(torch.zeros(1, 216, 96), None)
    ours = arithmetic.volume_tflop(96, 3, (6, 6), (1, 0)) / 4  # forward, of forward + backward + teacher
    assert ours * 1e12 == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_prototypes_weigh_what_tensors_weigh():
    weights, logits = torch.zeros(1000, 256), torch.zeros(70, 1000)
    told = arithmetic.prototype_gib(1000, 70, copies=2)
    assert told["weights"] * 2**30 == 5 * weights.nbytes and told["logits"] * 2**30 == 2 * logits.nbytes


def test_resampling_in_one_piece_is_input_and_output():
    told = arithmetic.resampling_gib((10, 20, 20), (2.4, 1, 1))
    assert told["in one piece"] * 2**30 == np.zeros((34, 20, 20), np.float32).nbytes
    assert trials.resampling_memory((6, 64, 64))["above the output"] < 0.6


def test_rates_of_the_stated_training():
    rates = arithmetic.training_rates(steps=86_400, batch=10, days=1, stored_bytes=1e9, stored=100)
    assert rates["volumes/s"] == 10 and rates["GB/s"] == pytest.approx(0.1) and rates["epochs"] == 8640


@pytest.fixture(scope="module")
def spots():
    """Blobs on noise, whose light halves over nine frames: (frames, z, y, x), and where they are."""
    draw = np.random.default_rng(5)
    grid, at = np.indices((16, 48, 48)), draw.uniform((3, 6, 6), (13, 42, 42), (12, 3))
    clean = sum(np.exp(-sum(((g - c) / s) ** 2 for g, c, s in zip(grid, p, (1, 1.3, 1.3), strict=True)) / 2)
                for p in at)
    light = 30 * 0.5 ** (np.arange(9) / 4)
    return (light[:, None, None, None] * clean + draw.normal(size=(9, 16, 48, 48))).astype(np.float32), at, clean


def test_neighbours_tell_scattered_voxels_of_an_image_and_none_of_noise(spots):
    seen = trials.hidden_voxels(spots[0][0], 0)
    assert seen["scattered"] > 0.8 > seen["blocks"] + 0.3
    noise = trials.hidden_voxels(np.random.default_rng(0).normal(size=(16, 48, 48)), 0)
    assert noise["blocks"] < 0.1 and noise["scattered"] < seen["scattered"]


def test_shuffled_patches_are_noticed_only_where_filters_overlap():
    found = trials.shuffled_patches(3)
    assert found["Conv3d patches"] < 1e-4 < 0.1 < found["overlapping filters"]


def test_slabs_alone_lose_what_the_volume_tells(spots):
    encoder = Encoder(EncoderConfig(spacing_um=SPACING, width=48, depth=1), seed=0).eval()
    found = trials.slice_by_slice(encoder, spots[0][0])
    assert found["3D"] > found["slabs"]
    copies = np.repeat(spots[0][0][4:8][None], 4, 0).reshape(16, 48, 48)  # every slab the same: nothing can break
    assert trials.slice_by_slice(encoder, copies)["slabs"] == pytest.approx(1, abs=1e-5)


def test_flat_movies_are_left_out(spots):
    flat = spots[0][0][:3]
    encoder = Encoder(EncoderConfig(spacing_um=SPACING, width=48, depth=1), seed=0).eval()
    assert trials.slice_by_slice(encoder, flat) == trials.hidden_voxels(flat, 0) == {}


def test_one_threshold_while_the_light_fades(spots):
    frames, _, clean = spots
    true = np.tile(clean.ravel() > 0.5, (9, 1))
    raw = frames.reshape(9, -1)
    steady = raw / (0.5 ** (np.arange(9) / 4))[:, None]
    kept = trials.bleached_seeds({"raw": raw, "steady": steady}, true)
    assert kept["raw"] < 0.8 < kept["steady"]


def test_centres_weighted_by_light_mend_a_lopsided_mask(spots):
    frames, at, clean = spots
    labels = np.zeros(clean.shape, np.uint32)
    for k, p in enumerate(at[:1], 1):
        z, y, x = np.round(p).astype(int)
        labels[z - 1:z + 2, y - 1:y + 2, x - 1:x + 5] = k  # reaches too far to one side
    truth = pd.DataFrame(at * SPACING, columns=POSITION).assign(frame=0)
    found = trials.centre_errors({0: frames[0]}, {0: labels}, truth, SPACING)
    assert found["weighted over geometric"] < 0.7
    level = trials.centre_errors({0: np.where(labels > 0, 9.0, 0.0)}, {0: labels}, truth, SPACING)
    assert level["weighted over geometric"] == pytest.approx(1)


def test_blobs_are_found_at_the_scale_of_the_psf(spots):
    frames, at, _ = spots
    truth = pd.DataFrame(at * SPACING, columns=POSITION).assign(frame=0)
    found = trials.scales_of_blobs({0: frames[0]}, truth, SPACING, (0.25, 0.13, 0.13))
    assert min(found.values()) > 0.8
    moved = truth.assign(x_um=truth["x_um"] + 1.5)
    assert max(trials.scales_of_blobs({0: frames[0]}, moved, SPACING, (0.25, 0.13, 0.13)).values()) < 0.5


def test_the_sweep_of_crop_settings_is_relative_to_its_best(spots):
    found = trials.crop_settings(spots[0][0], (6, 16, 16), 0)
    assert 0 < found["worst"] <= found["stated"] <= 1
    assert trials.crop_settings(np.zeros((16, 48, 48), np.float32), (6, 16, 16), 0) == {}


def test_cuts_part_balls_that_touch():
    found = trials.touching_bodies(3, pairs=2)
    assert found["with cuts"] > found["without"] == 0  # every pair is one connected part


def test_features_that_differ_part_what_space_alone_cannot():
    labels = np.zeros((8, 16, 32), np.uint32)
    labels[2:6, 4:12, 4:22], labels[2:6, 4:12, 22:28] = 1, 2  # a long one and a short one: space alone errs
    tokens = np.zeros((4, 8, 16, 2), np.float32)
    tokens[:, :, 11:, 0] = 1.0  # the features change where the label does
    found = trials.joint_distance(tokens, (2, 2, 2), labels, (1, 1, 1))
    assert found["1"] < 0.85 and found["0.3"] > found["1"] + 0.1
    same = trials.joint_distance(np.zeros_like(tokens), (2, 2, 2), labels, (1, 1, 1))
    assert same["0.3"] == same["1"]
    assert trials.joint_distance(tokens, (2, 2, 2), np.where(labels == 1, labels, 0), (1, 1, 1)) == {}


def test_what_was_made_from_truth_is_counted():
    clean = {"segment/objects.parquet": {"params": {"args": [{"artifact": "movie.ome.zarr", "id": "x"}]}},
             "truth": {"params": {"args": [{"artifact": "truth/positions.csv"}]}}}
    assert trials.made_from_labels(clean) == {"artifacts": 1, "from truth": 0}
    leak = {"pretrain/encoder.safetensors": {"params": {"kwargs": {"x": {"y": [{"artifact": "truth/labels.zarr"}]}}}}}
    assert trials.made_from_labels(clean | leak) == {"artifacts": 2, "from truth": 1}
    same = {"a": {"params": {"args": [{"artifact": "truthful.csv"}]}}}
    assert trials.made_from_labels(same)["from truth"] == 0
