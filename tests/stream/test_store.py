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
from cellfm_nb.stream.store import TokenStore


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
