"""The plan counts tokens, operations and bytes, and chooses what fits."""

from dataclasses import replace

import pytest
import torch

from cellfm_nb.encoder import EncoderConfig, vits8
from cellfm_nb.errors import InputError
from cellfm_nb.stream.machine import STATED, Device, fused_speed
from cellfm_nb.stream.plan import chunk_of, plan


def test_tokens_and_operations_of_the_published_table():
    """ViT-S/8 on 448^3 voxels: 175,616 tokens, 0.58 PFLOP (4 N^2 D + 24 N D^2 per block)."""
    p = plan((448, 448, 448), vits8(), flops_per_s=3e14, memory_bytes=2**34)
    assert p.tokens == 175_616 and p.grid == (56, 56, 56)
    assert abs(p.flops / 0.58e15 - 1) < 0.02 and 1 < p.seconds_estimate < 3


@pytest.mark.parametrize(("memory_bytes", "mode", "store"), [(2**40, "sdpa", "memory"), (2**27, "online", "disk")])
def test_the_fastest_way_that_fits_is_taken(memory_bytes, mode, store):
    p = plan((64, 512, 512), EncoderConfig(), memory_bytes=memory_bytes, flops_per_s=1e11)
    assert (p.mode, p.store) == (mode, store)


def test_what_is_asked_for_is_done_and_the_impossible_refused():
    config = EncoderConfig()
    assert plan((8, 8, 8), config, store="disk", flops_per_s=1e9).mode == "online"
    assert plan((8, 8, 8), config, mode="online", flops_per_s=1e9).store == "memory"
    for wrong in ({"mode": "sdpa", "store": "disk"}, {"mode": "guess"}):
        with pytest.raises(InputError, match="no such way"):
            plan((8, 8, 8), config, flops_per_s=1e9, **wrong)
    with pytest.raises(InputError, match="shape"):
        plan((0, 8, 8), config, flops_per_s=1e9)


def test_time_is_quadratic_and_memory_linear():
    small, large = (plan((n, 512, 512), EncoderConfig(), flops_per_s=1e9, memory_bytes=2**40, patience_s=1e9)
                    for n in (64, 640))
    assert 80 < large.flops / small.flops < 100
    assert large.peak_bytes / small.peak_bytes < 10.1


def test_chunks_cover_little_and_never_nothing():
    assert chunk_of((10, 18, 18), (4, 8, 8)) == (10, 18, 18)
    assert chunk_of((100, 100, 100), (8, 8, 8), voxels=1) == (1, 1, 1)


def test_printed_it_says_the_choice():
    p = plan((40, 144, 144), EncoderConfig(), flops_per_s=1e11, memory_bytes=2**32)
    assert "3,240 tokens" in str(p) and p.table["chosen"].sum() == 1 and len(p.table) == 6


def test_speed_is_measured():
    assert fused_speed(4, 32, torch.device("cpu")) > 1e8


@pytest.mark.parametrize(("which", "mode"), [(0, "clusters"), (1, "sdpa"), (2, "sdpa")])
def test_a_large_volume_on_stated_machines(which, mode):
    """200 x 1024 x 1024 voxels: every key within the hour on a GPU, representatives on a CPU; every way is listed."""
    p = plan((200, 1024, 1024), vits8(), STATED[which])
    assert p.tokens == 409_600 and p.mode == mode and p.exact == (mode == "sdpa") and p.seconds_estimate < 3600
    assert p.peak_bytes < p.memory_bytes == STATED[which].memory_bytes
    assert set(p.table["store"]) == {"memory", "disk"} | ({"pinned"} if which else set())
    assert "estimated error" in p.reason or p.exact


def test_exact_when_it_may_take_that_long_and_windows_only_when_asked():
    assert plan((200, 1024, 1024), vits8(), STATED[0], patience_s=1e9).exact
    little = plan((200, 1024, 1024), vits8(), STATED[0], memory_bytes=2**20)
    assert little.mode != "windows" and "the least that can be done" in little.reason
    assert plan((200, 1024, 1024), vits8(), STATED[0], mode="windows").mode == "windows"


def test_the_backend_is_said():
    assert "torch SDPA" in plan((8, 8, 8), EncoderConfig(), flops_per_s=1e9).reason
    assert "backend torch" in plan((8, 8, 8), EncoderConfig(), flops_per_s=1e9, mode="online", backend="torch").reason
    with pytest.raises(InputError, match="no such attention backend"):
        plan((8, 8, 8), EncoderConfig(), flops_per_s=1e9, backend="triton")


def test_pinned_memory_is_weighed_against_the_host():
    """30 million tokens: 88 GB of stores, in a host of 128 GiB or on disk."""
    few = dict(memory_bytes=20 * 2**30, patience_s=1e12, dtype=torch.bfloat16)
    machine = Device("GPU", "cuda", 20 * 2**30, 4e14, host_bytes=128 * 2**30)
    roomy, narrow = (plan((2000, 3000, 2500), vits8(), replace(machine, host_bytes=host), **few, collect=False)
                     for host in (128 * 2**30, 32 * 2**30))
    assert (roomy.store, narrow.store) == ("pinned", "disk")
    pinned = narrow.table[narrow.table.store == "pinned"]
    assert not pinned.fits.any() and (pinned.peak_MiB < 20 * 2**10).all()  # on the GPU itself there would be room
