"""Token stores keep rows and dtype exactly, and leave nothing behind."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import torch_rng
from cellfm_nb.stream import store as store_module
from cellfm_nb.stream.store import TokenStore, stream_blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_rows_come_back_bit_for_bit(kind, dtype, tmp_path):
    values = torch.randn(17, 5, generator=torch_rng(0)).to(dtype)
    with TokenStore(17, 5, dtype, kind, folder=tmp_path) as store:
        store.write(4, values[4:])
        store.write(0, values[:4])
        assert store.read(0, 17).dtype == dtype
        assert torch.equal(store.read(0, 17), values) and torch.equal(store.read(3, 9), values[3:9])
        assert store.read(2, 2).shape == (0, 5)


def test_rows_outside_are_refused(tmp_path):
    for kind in ("memory", "disk"):
        store = TokenStore(3, 2, kind=kind, folder=tmp_path)
        with pytest.raises(IndexError):
            store.write(2, torch.zeros(2, 2))
        with pytest.raises(IndexError):
            store.read(0, 4)


def test_disk_store_has_no_name_and_leaves_nothing(tmp_path):
    with TokenStore(1000, 8, kind="disk", folder=tmp_path) as store:
        store.write(0, torch.ones(1000, 8))
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing(tmp_path):
    code = ("import torch, sys; from cellfm_nb.stream.store import TokenStore;"
            "s = TokenStore(10000, 8, kind='disk', folder=sys.argv[1]); s.write(0, torch.ones(10000, 8));"
            "print('written', flush=True); sys.stdin.read()")
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"written"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_starting(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="too full"):
        TokenStore(1000, 8, kind="disk", folder=tmp_path)


def test_too_little_memory_of_the_host_is_said_before_it_is_pinned(monkeypatch):
    monkeypatch.setattr(store_module, "free_bytes", lambda device: 100)
    with pytest.raises(InputError, match="host's memory is too small"):
        TokenStore(1000, 8, kind="pinned", device="cuda")


def test_a_disk_that_fills_up_is_one_clear_error(tmp_path):
    class Full:
        def seek(self, _): ...
        def close(self): ...
        def write(self, _): raise OSError(errno.ENOSPC, "No space left on device")

    store = TokenStore(10, 8, kind="disk", folder=tmp_path)
    store._file = Full()
    with pytest.raises(InputError, match="too full"):
        store.write(0, torch.ones(10, 8))
    assert list(tmp_path.iterdir()) == []


def test_unknown_kind_is_refused():
    with pytest.raises(InputError, match="memory or disk"):
        TokenStore(1, 1, kind="cloud")


LIMITED = """
import resource, sys, torch
from cellfm_nb.errors import InputError
from cellfm_nb.stream.encode import StreamingEncoder
from cellfm_nb.encoder import Encoder, EncoderConfig
import numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the system itself now refuses to make files larger
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    StreamingEncoder(Encoder(EncoderConfig(width=16, depth=1, heads=2)), store="disk", folder=sys.argv[1]).encode(
        np.zeros((16, 64, 64), np.float32), progress=False)
except InputError as error:
    print(error)
"""


def test_a_disk_that_refuses_is_said_before_any_work(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert "too full to stream" in done.stdout and "free some space" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["memory", "pinned", "disk"])
def test_blocks_of_several_stores_come_together_and_in_order(kind, tmp_path):
    values = torch.arange(40.0).reshape(20, 2)
    with TokenStore(20, 2, kind=kind, folder=tmp_path) as a, TokenStore(20, 2, kind=kind, folder=tmp_path) as b:
        a.write(0, values)
        b.write(0, -values)
        for size in (1, 7, 20, 50):
            parts = list(stream_blocks((a, b), size))
            assert torch.equal(torch.cat([p for p, _ in parts]), values)
            assert torch.equal(torch.cat([p for _, p in parts]), -values)
        rows = torch.tensor([0, 3, 3, 19])
        assert torch.equal(a.gather(rows), values[rows])
