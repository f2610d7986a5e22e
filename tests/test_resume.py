"""kill -9 at any moment, the same command again: it completes, with the results of a run that was never killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cellfm_nb.provenance import content_digest

SMALL = ["--device", "cpu", "--set", "n_frames=6", "--set", "steps=60", "--set", "n_crops=16", "--set", "stack=never"]


def start(home, *options):
    env = {**os.environ, "CELLFM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "cellfm_nb.cli", "run", *options, *SMALL], cwd=home, env=env,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return err


def kill_when(process, ready):
    """Send SIGKILL to the command and, as when a machine dies, to its kernel, once `ready()` is true."""
    limit = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < limit, "the moment to kill at never came"
        time.sleep(0.02)
    family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run up to the crops, and the same never-killed run to the features."""
    home = tmp_path_factory.mktemp("base")
    finish(start(home, "--to", "02"))
    whole = tmp_path_factory.mktemp("whole")
    shutil.copytree(home, whole, dirs_exist_ok=True)
    finish(start(whole, "--from", "03", "--to", "03"))
    finish(start(whole, "--from", "05", "--to", "06"))
    return home, whole


def test_killed_while_pretraining(base, tmp_path):
    home, whole = base
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "demo"
    process = start(tmp_path, "--from", "03", "--to", "03")
    kill_when(process, lambda: list((run / "pretrain").rglob("*.safetensors")) if (run / "pretrain").exists() else [])
    assert not (run / "pretrain" / "encoder.safetensors").exists()
    finish(start(tmp_path, "--from", "03", "--to", "03"))
    a, b = (r / "runs/demo/pretrain/encoder.safetensors" for r in (tmp_path, whole))
    assert a.read_bytes() == b.read_bytes()  # bit for bit
    assert not list(run.rglob(".partial*"))


def test_killed_while_streaming(base, tmp_path):
    home, whole = base
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "demo"
    shutil.rmtree(run / "stream")
    process = start(tmp_path, "--from", "06", "--to", "06")
    kill_when(process, lambda: any(p.is_file() and "c" in p.relative_to(run).parts
                                   for p in (run / "stream").rglob("*")) if (run / "stream").exists() else False)
    assert not (run / "stream" / "features.zarr").exists()
    finish(start(tmp_path, "--from", "06", "--to", "06"))
    assert content_digest(run / "stream/features.zarr") == content_digest(whole / "runs/demo/stream/features.zarr")
    assert not list(run.rglob(".partial*"))


def test_a_corrupt_shard_is_said(base, tmp_path):
    home, _ = base
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "demo"
    shard = next((run / "curate").glob("crops-*.tar"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    state = os.stat(shard)
    shard.write_bytes(data)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))  # a disk that decays does not touch the clock
    process = start(tmp_path, "--from", "03", "--to", "03")
    _, err = process.communicate()
    assert process.returncode == 2 and "shard is damaged" in err and "what to do" in err, err[-3000:]
    assert not (run / "pretrain" / "encoder.safetensors").exists()


def test_summary_of_a_resumed_run_is_whole(base):
    _, whole = base
    summary = json.loads((whole / "runs/demo/summary.json").read_text())
    assert summary["pretrain"]["seconds"] > 0 and summary["stream"]["seconds"] > 0
