"""Many movies, one task a volume: the same bytes whoever does them, here, on Dask, or under torchrun; restartable."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError
from cellfm_nb.movie import write_frames
from cellfm_nb.provenance import content_digest
from cellfm_nb.seeds import rng
from cellfm_nb.stream import bytes_per_frame, read_features, stream_movies, write_features
from cellfm_nb.stream.layout import has_frame

SPACING_UM = (0.3, 0.1, 0.1)


def prepare(movie, t, target_um):
    volume = movie.frame(t).astype(np.float32)
    if volume.max() > 900:
        raise ValueError("this frame is broken")
    return volume, movie.spacing_um


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for name in "ab":
        frames = rng(0, name).normal(size=(3, 1, 9, 33, 40)).astype(np.float32)
        write_frames(folder / f"{name}.ome.zarr", frames, frames.shape, frames.dtype, SPACING_UM, 1.5, "test")
    Encoder(EncoderConfig(spacing_um=SPACING_UM, width=16, depth=1, heads=2, stem_channels=4)).save_pretrained(
        folder / "encoder")
    for name in "ab":
        write_features(folder / f"{name}-alone.zarr", folder / f"{name}.ome.zarr",
                       folder / "encoder" / "encoder.safetensors", prepare)
    return folder


def jobs(inputs, out):
    return {out / f"{name}.zarr": inputs / f"{name}.ome.zarr" for name in "ab"}


def digests(inputs, out):
    return [content_digest(out / f"{n}.zarr") == content_digest(inputs / f"{n}-alone.zarr") for n in "ab"]


def test_here_and_again(inputs, tmp_path):
    weights = inputs / "encoder" / "encoder.safetensors"
    rows = stream_movies(jobs(inputs, tmp_path), weights, prepare)
    assert len(rows) == 6 and (rows.status == "done").all() and all(digests(inputs, tmp_path))
    assert rows.said.str.contains("every key counted").all()
    assert len(stream_movies(jobs(inputs, tmp_path), weights, prepare)) == 0  # nothing is done twice
    assert 75 * 18 * 2 * 0.5 < bytes_per_frame(tmp_path / "a.zarr") < 75 * 18 * 2 + 4000


def dying(movie, t, target_um):
    """Kill the first worker that comes to frame 1, as the machine does when memory ends."""
    flag = Path(os.environ["CELLFM_TEST_DIED"])
    if t == 1 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare(movie, t, target_um)


def test_dask_workers_write_the_same_though_one_dies(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFM_TEST_DIED", str(tmp_path / "died"))
    rows = stream_movies(jobs(inputs, tmp_path), inputs / "encoder" / "encoder.safetensors", dying, workers=2)
    assert (tmp_path / "died").exists() and len(rows) == 6 and (rows.status == "done").all()
    assert all(digests(inputs, tmp_path))


@pytest.mark.parametrize("late", [True, False])  # does the second rank start when the first is done?
def test_the_ranks_of_torchrun_share_the_frames(inputs, tmp_path, monkeypatch, late):
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        if rank == "1" and not late:  # both ranks list the tasks before either is done
            monkeypatch.setattr("cellfm_nb.stream.many.has_frame", lambda path, t: False)
        parts.append(stream_movies(jobs(inputs, tmp_path), inputs / "encoder" / "encoder.safetensors", prepare))
    rows = pd.concat(parts)
    assert sorted(zip(rows.features, rows.frame, strict=True)) == sorted(
        (str(path), t) for path in jobs(inputs, tmp_path) for t in range(3))
    assert all(digests(inputs, tmp_path))


TORCHRUN = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cellfm_nb.stream import stream_movies
from test_many import jobs, prepare
inputs, out = map(Path, sys.argv[2:])
print(len(stream_movies(jobs(inputs, out), inputs / "encoder" / "encoder.safetensors", prepare)), "frames")
"""


def test_under_torchrun_itself(inputs, tmp_path):
    (tmp_path / "ranks.py").write_text(TORCHRUN)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           tmp_path / "ranks.py", os.path.dirname(__file__), inputs, tmp_path], capture_output=True,
                          text=True)
    assert done.stdout.count("3 frames") == 2, done.stderr[-2000:]
    assert all(digests(inputs, tmp_path))


def test_one_bad_frame_does_not_end_the_others(inputs, tmp_path):
    frames = rng(0, "bad").normal(size=(3, 1, 9, 33, 40)).astype(np.float32)
    frames[1] = 1000
    write_frames(tmp_path / "bad.ome.zarr", frames, frames.shape, frames.dtype, SPACING_UM, 1.5, "test")
    rows = stream_movies({tmp_path / "f.zarr": tmp_path / "bad.ome.zarr"}, inputs / "encoder" / "encoder.safetensors",
                         prepare)
    assert list(rows.status) == ["done", "failed", "done"] and "broken" in rows.reason[1]
    assert [has_frame(tmp_path / "f.zarr", t) for t in range(3)] == [True, False, True]
    with pytest.raises(InputError, match="lack a frame"):  # not zeros
        read_features(tmp_path / "f.zarr", 1)


def test_new_weights_are_neither_mixed_with_the_old_nor_forgotten(inputs, tmp_path):
    weights, streaming = tmp_path / "encoder" / "encoder.safetensors", {"mode": "windows", "window": [2, 2, 2]}
    config = EncoderConfig(spacing_um=SPACING_UM, width=16, depth=1, heads=2, stem_channels=4)
    for seed in (1, 2):
        Encoder(config, seed=seed).save_pretrained(weights.parent)
        rows = stream_movies({tmp_path / f"{seed}.zarr": inputs / "a.ome.zarr"}, weights, prepare, streaming=streaming)
        assert (rows.status == "done").all()
    one, two = (read_features(tmp_path / f"{seed}.zarr", 0)[0] for seed in (1, 2))
    assert not np.allclose(one, two, atol=0.1)  # the encoder of the first call is not used for the second
    with pytest.raises(InputError, match="another movie or encoder"):
        stream_movies({tmp_path / "1.zarr": inputs / "a.ome.zarr"}, weights, prepare)
