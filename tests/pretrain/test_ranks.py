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
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
from dataclasses import replace
from unittest.mock import patch
from tests.pretrain.test_engine import CONFIG, S, spots
from tests.pretrain.test_ranks import OPTIONS, SETTINGS
from cellfm_nb.pretrain import losses, pretrain, ranks
from cellfm_nb.seeds import torch_rng

def train(config=CONFIG, settings=SETTINGS):
    try:
        encoder, log = pretrain(spots(), config, settings, seed=1)
        return {"loss": log["loss"].tolist(), "all": torch.cat([p.flatten() for p in encoder.parameters()]).tolist()}
    except FloatingPointError as error:
        return {"stopped": str(error)}

logits, denoise_loss = torch.randn(12, 7, generator=torch_rng(0, "logits")), losses.denoise_loss
out = {"sinkhorn": losses.sinkhorn(logits[rank * 6:(rank + 1) * 6], 0.1).tolist(), "train": train(),
       "options": train(replace(CONFIG, drop_path=0.3), OPTIONS)}
with patch.object(ranks, "average_gradients", lambda parameters: None):
    out["forget the gradients"] = train()
total = ranks.total.__code__
ranks.total.__code__ = (lambda x: x).__code__  # wherever it was imported to
out["forget the batch"] = train()
ranks.total.__code__ = total
with patch.object(losses, "denoise_loss", lambda *a: denoise_loss(*a) * (float("nan") if rank else 1)):
    out["nan on one rank"] = train()
open(f"{folder}/{rank}.json", "w").write(json.dumps(out))
dist.destroy_process_group()
"""
SETTINGS = replace(S, batch=4, steps=4, n_local=1, koleo=0.1, dino=1.0, ibot=1.0, ema=0.2, freeze_last=0.3, lr=1e-3)
OPTIONS = replace(SETTINGS, gram=1.0, gram_every=2, decorrelate=1.0, mask_foreground=0.8, merged_heads=True,
                  pairs="noise")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two ranks has to say of each run, made by one pair of processes."""
    here, folder = Path(__file__).parents[2], tmp_path_factory.mktemp("ranks")
    started = [subprocess.Popen([sys.executable, "-c", TASK, str(rank), "2", str(folder)], cwd=here,
                                stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=200)[1] for process in started]
    assert all(process.returncode == 0 for process in started), errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def difference(one, many):
    """Largest difference of two encoders' weights; softmax ignores the keys' bias, whose gradient is rounding alone."""
    weights, counts = [], []
    for name, p in one.named_parameters():
        part = torch.arange(p.numel()) * 3 // p.numel() if name.endswith("qkv.bias") else torch.zeros(p.numel())
        weights.append(p.detach().flatten())
        counts.append(part != 1)
    away = np.abs(torch.cat(weights).numpy() - many["all"])
    return float(away[torch.cat(counts).numpy()].max())


@pytest.mark.parametrize(("run", "settings", "drop_path"), [("train", SETTINGS, 0.0), ("options", OPTIONS, 0.3)])
def test_two_ranks_make_the_steps_of_one(two, run, settings, drop_path):  # T4
    encoder, log = pretrain(spots(), replace(CONFIG, drop_path=drop_path), settings, seed=1)
    ranks = [rank[run] for rank in two]
    assert ranks[0]["all"] == ranks[1]["all"]  # the same weights on both, to the bit
    np.testing.assert_allclose(ranks[0]["loss"], log["loss"], rtol=1e-5)
    assert difference(encoder, ranks[0]) < 1e-4  # Adam magnifies rounding where gradients are near zero


@pytest.mark.parametrize("mistake", ["forget the gradients", "forget the batch"])
def test_control_each_part_of_it_is_needed(two, mistake):
    encoder, log = pretrain(spots(), CONFIG, SETTINGS, seed=1)
    rank = two[0][mistake]
    assert difference(encoder, rank) > 1e-3 and abs(np.array(rank["loss"]) / log["loss"] - 1).max() > 1e-4


def test_a_bad_number_on_one_rank_stops_all(two):  # T7
    assert all("not a number" in rank["nan on one rank"]["stopped"] for rank in two)


def test_sinkhorn_over_ranks_is_that_of_all_rows(two):  # L4
    whole = sinkhorn(torch.randn(12, 7, generator=torch_rng(0, "logits")), 0.1)
    torch.testing.assert_close(torch.tensor(two[0]["sinkhorn"] + two[1]["sinkhorn"]), whole, atol=1e-6, rtol=1e-5)


def test_a_batch_that_can_t_be_shared_is_refused():
    with pytest.raises(InputError, match="can't be cut"):
        replace(SETTINGS, accumulate=3)
