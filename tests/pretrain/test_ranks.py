"""Two ranks make the steps of one, agree when to stop, and leave nothing hanging (T4, T7, L4 of the reference)."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cellfm_nb.errors import InputError
from cellfm_nb.pretrain import pretrain
from cellfm_nb.pretrain.losses import sinkhorn
from cellfm_nb.seeds import torch_rng

from .test_engine import CONFIG, S, spots

TASK = """
import json, sys
import torch, torch.distributed as dist
rank, world, folder, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
from dataclasses import replace
from tests.pretrain.test_engine import CONFIG, S, spots
from tests.pretrain.test_ranks import SETTINGS
from cellfm_nb.pretrain import losses, pretrain, ranks
from cellfm_nb.seeds import torch_rng
if mode == "forget the gradients":
    ranks.average_gradients = lambda parameters: None
if mode == "forget the batch":
    ranks.total.__code__ = (lambda x: x).__code__
crops = spots()
try:
    if mode == "sinkhorn":
        logits = torch.randn(12, 7, generator=torch_rng(0, "logits"))
        out = losses.sinkhorn(logits[rank * 6:(rank + 1) * 6], 0.1).tolist()
    else:
        if mode == "nan on one rank" and rank == 1:
            original = losses.denoise_loss
            losses.denoise_loss = lambda *a: original(*a) * float("nan")
        encoder, log = pretrain(crops, CONFIG, SETTINGS, seed=1)
        out = {"loss": log["loss"].tolist(), "weights": [p.double().sum().item() for p in encoder.parameters()],
               "all": torch.cat([p.flatten() for p in encoder.parameters()]).tolist()}
except FloatingPointError as error:
    out = {"stopped": str(error)}
open(f"{folder}/{rank}.json", "w").write(json.dumps(out))
dist.destroy_process_group()
"""
SETTINGS = replace(S, batch=4, steps=4, n_local=1, koleo=0.1, dino=1.0, ibot=1.0, ema=0.2, freeze_last=0.3, lr=1e-3)


def run_ranks(folder, mode="train", world=2):
    here = Path(__file__).parents[2]
    started = [subprocess.Popen([sys.executable, "-c", TASK, str(rank), str(world), str(folder), mode], cwd=here,
                                stderr=subprocess.PIPE, text=True) for rank in range(world)]
    errors = [process.communicate(timeout=100)[1] for process in started]
    assert all(process.returncode == 0 for process in started), errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def difference(one, many):
    return float(np.abs(torch.cat([p.detach().flatten() for p in one.parameters()]).numpy() - many["all"]).max())


def test_two_ranks_make_the_steps_of_one(tmp_path):  # T4
    encoder, log = pretrain(spots(), CONFIG, SETTINGS, seed=1)
    ranks = run_ranks(tmp_path)
    assert ranks[0]["all"] == ranks[1]["all"]  # the same weights on both, to the bit
    np.testing.assert_allclose(ranks[0]["loss"], log["loss"], rtol=1e-5)
    assert difference(encoder, ranks[0]) < 1e-4  # Adam magnifies rounding where gradients are near zero


@pytest.mark.parametrize("mistake", ["forget the gradients", "forget the batch"])
def test_control_each_part_of_it_is_needed(tmp_path, mistake):
    encoder, log = pretrain(spots(), CONFIG, SETTINGS, seed=1)
    rank = run_ranks(tmp_path, mistake)[0]
    assert difference(encoder, rank) > 1e-3 and abs(np.array(rank["loss"]) / log["loss"] - 1).max() > 1e-4


def test_a_bad_number_on_one_rank_stops_all(tmp_path):  # T7
    assert all("not a number" in rank["stopped"] for rank in run_ranks(tmp_path, "nan on one rank"))


def test_sinkhorn_over_ranks_is_that_of_all_rows(tmp_path):  # L4
    whole = sinkhorn(torch.randn(12, 7, generator=torch_rng(0, "logits")), 0.1)
    torch.testing.assert_close(torch.tensor(sum(run_ranks(tmp_path, "sinkhorn"), [])), whole, atol=1e-6, rtol=1e-5)


def test_a_batch_that_can_t_be_shared_is_refused():
    with pytest.raises(InputError, match="can't be cut"):
        replace(SETTINGS, accumulate=3)
