"""Two ranks make the steps of one: gradients of singular values are really averaged."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError
from cellfm_nb.repair import RELATIVE, plant_defect, train, train_singular_values
from cellfm_nb.seeds import rng

TASK = """
import json, sys
import torch, torch.distributed as dist
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
from cellfm_nb.repair import train, train_singular_values
from tests.repair.test_ranks import BLOCK, RECIPE, damaged, flat, volumes
wrap = train.synchronised
def too_early(loss):  # as in the original: nothing that is trained exists when the model is wrapped
    loss.register_parameter("some", torch.nn.Parameter(torch.zeros(1)))
    for eps in loss.eps:
        eps.requires_grad_(False)
    wrapped = wrap(loss)
    for eps in loss.eps:
        eps.requires_grad_(True)
    return lambda mine: wrapped.module(mine)
out = {}
for name, how in (("right", wrap), ("too early", too_early)):
    train.synchronised, encoder = how, damaged()
    steps = train_singular_values(encoder, volumes(), RECIPE, [BLOCK])
    out[name] = {"steps": list(steps.items()), "weights": flat(encoder).tolist()}
open(f"{folder}/{rank}.json", "w").write(json.dumps(out))
dist.destroy_process_group()
"""
BLOCK = 1
RECIPE = replace(RELATIVE, batch=2, max_steps=6, layers=2)


def volumes():
    found = []
    for i in range(3):
        volume = rng(i, "volume").normal(size=(12, 40, 40)).astype("float32")
        volume[4:8, 8 * i:8 * i + 8, 8:16] += 10
        found.append(volume)
    return found


def damaged():
    encoder = Encoder(EncoderConfig(width=32, depth=2, heads=4, rivals=0), seed=2).eval()
    return plant_defect(encoder, volumes()[0], BLOCK, strength=5, seed=2, dense=True)[0]


def flat(encoder):
    return torch.cat([p.detach().flatten() for p in encoder.blocks[BLOCK].parameters()]).double()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    started = [subprocess.Popen([sys.executable, "-c", TASK, str(rank), str(folder)], stderr=subprocess.PIPE, text=True,
                                cwd=Path(__file__).parents[2]) for rank in range(2)]
    errors = [process.communicate(timeout=100)[1] for process in started]
    assert all(process.returncode == 0 for process in started), errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def alone():
    encoder = damaged()
    steps = train_singular_values(encoder, volumes(), RECIPE, [BLOCK])
    return steps, flat(encoder).numpy()


def test_two_ranks_make_the_steps_of_one(ranks):
    steps, weights = alone()
    first, second = (rank["right"] for rank in ranks)
    assert steps[BLOCK] > 2 and dict(first["steps"]) == steps
    assert first["weights"] == second["weights"]  # to the bit
    moved = np.abs(weights - flat(damaged()).numpy()).max()
    assert np.abs(weights - first["weights"]).max() < 1e-4 * moved


def test_control_wrapped_too_early_the_ranks_drift_apart(ranks):
    first, second = (rank["too early"] for rank in ranks)
    assert np.abs(np.subtract(first["weights"], second["weights"])).max() > 1e-3


def test_a_batch_that_ranks_cannot_share_is_refused(monkeypatch):
    for name, answer in (("is_initialized", True), ("get_rank", 0), ("get_world_size", 2)):
        monkeypatch.setattr(train.dist, name, lambda answer=answer: answer)
    with pytest.raises(InputError, match="can't be shared"):
        train_singular_values(damaged(), volumes(), replace(RECIPE, batch=3), [BLOCK])


def test_flags_of_what_may_be_trained_come_back():
    encoder = damaged()
    encoder.stem.requires_grad_(False)
    before = {name: p.requires_grad for name, p in encoder.named_parameters()}
    train_singular_values(encoder, volumes(), replace(RECIPE, max_steps=1), [BLOCK])
    assert {name: p.requires_grad for name, p in encoder.named_parameters()} == before


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_is_the_mean_of_its_volumes(batch):
    """One volume twice in a batch is that volume once."""
    ways = [(volumes()[:1], replace(RECIPE, batch=1)), (volumes()[:1] * batch, replace(RECIPE, batch=batch))]
    trained = []
    for given, recipe in ways:
        encoder = copy.deepcopy(damaged())
        train_singular_values(encoder, given, recipe, [BLOCK])
        trained.append(flat(encoder))
    assert torch.allclose(*trained, atol=1e-6)
