"""The artifacts of the stream: features frame by frame, whole or absent, resumed after a kill; PCA; activation."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, write_frames
from cellfm_nb.provenance import content_digest
from cellfm_nb.seeds import rng
from cellfm_nb.stream import (
    Fit,
    StreamingEncoder,
    iterate_features,
    read_features,
    read_observer,
    read_records,
    write_activation,
    write_features,
    write_pca,
)
from cellfm_nb.stream.layout import has_frame

SPACING_UM = (0.3, 0.1, 0.1)
CONFIG = EncoderConfig(spacing_um=SPACING_UM, width=16, depth=1, heads=2, stem_channels=4)


def prepare(movie, t, target_um, offset=0.0):
    """Stand in for curate: movie values as they are, at the spacing asked for."""
    assert tuple(target_um) == SPACING_UM
    return movie.frame(t).astype(np.float32) - offset, movie.spacing_um


def slow_prepare(movie, t, target_um):
    time.sleep(0.5)
    return prepare(movie, t, target_um)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A movie of 4 frames with one bright spot that moves, and an encoder."""
    folder = tmp_path_factory.mktemp("inputs")
    frames = rng(0, "frames").normal(size=(4, 1, 9, 33, 40)).astype(np.float32)
    for t in range(4):
        frames[t, 0, 4:7, 10:16, 8 * t:8 * t + 5] += 30
    write_frames(folder / "movie.ome.zarr", frames, frames.shape, frames.dtype, SPACING_UM, 1.5, "test")
    Encoder(CONFIG, seed=2).save_pretrained(folder / "encoder")
    return folder / "movie.ome.zarr", folder / "encoder" / "encoder.safetensors"


@pytest.fixture(scope="module")
def features(inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "features.zarr"
    write_features(path, *inputs, prepare)
    return path


def test_a_frame_in_the_file_is_that_frame_streamed(inputs, features):
    movie = Movie.open(inputs[0])
    direct = StreamingEncoder(Encoder.from_pretrained(inputs[1].parent)).encode(movie.frame(2), progress=False)
    patches, saliency = read_features(features, 2)
    assert patches.shape == (3, 5, 5, 16) and saliency.shape == (3, 5, 5, 2)
    assert np.allclose(patches, direct.patches, atol=2e-3) and np.allclose(saliency, direct.saliency * 75, atol=2e-3)
    assert np.array_equal(zarr.open_group(features)["cls"][2], direct.cls)


def test_layout_and_physical_position(features):
    array = zarr.open_group(features, mode="r")["0"]
    assert array.dtype == np.float16 and array.chunks == (1, 18, 3, 5, 5)
    movie = Movie.open(features)  # any reader of OME-Zarr sees the token size
    assert np.allclose(movie.spacing_um, (1.2, 0.8, 0.8)) and movie.dt_s == 1.5
    image = zarr.open_group(features, mode="r").attrs["ome"]["multiscales"][0]
    shift = image["datasets"][0]["coordinateTransformations"][1]["translation"]
    assert np.allclose(shift, [0, 0, 0.45, 0.35, 0.35])  # centre of the first 4 x 8 x 8 voxels


def test_metadata_is_valid_ome_zarr(features):
    models = pytest.importorskip("ome_zarr_models.v05")
    models.Image.from_zarr(zarr.open_group(features, mode="r"))


def test_options_reach_prepare(inputs, features, tmp_path):
    write_features(tmp_path / "f.zarr", *inputs, prepare, offset=5.0)
    assert not np.allclose(read_features(tmp_path / "f.zarr", 0)[0], read_features(features, 0)[0])


def test_killed_and_resumed_equals_never_killed(inputs, features, tmp_path):
    path = tmp_path / "features.zarr"
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from test_write import slow_prepare;"
            "from cellfm_nb.stream import write_features; write_features(*sys.argv[2:5], slow_prepare)")
    child = subprocess.Popen([sys.executable, "-c", code, os.path.dirname(__file__), path, *inputs],
                             stderr=subprocess.DEVNULL)
    while not (path / "cls" / "c" / "1" / "0").exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = sorted(p.parent.name for p in (path / "cls" / "c").glob("*/0"))
    assert done == ["0", "1"]  # the rest is absent, not half there
    (path / "0" / "c" / "2").mkdir(exist_ok=True)
    (path / "0" / "c" / "2" / "0.abc.partial").write_bytes(b"half a chunk")  # what a kill during a write leaves
    asked = []
    write_features(path, *inputs, lambda movie, t, target_um: asked.append(t) or prepare(movie, t, target_um))
    assert asked == [2, 3] and content_digest(path) == content_digest(features)


def test_features_of_another_encoder_are_not_mixed_in(inputs, features, tmp_path):
    Encoder(CONFIG, seed=3).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="another movie or encoder"):
        write_features(features, inputs[0], tmp_path / "other" / "encoder.safetensors", prepare)


@pytest.mark.parametrize(("how", "told"), [
    ({"offset": 5.0}, "prepare.offset not given"), ({"mode": "clusters"}, "mode auto"),
    ({"streaming": {"tolerance": 0.1}}, "tolerance 0.01"),
    ({"streaming": {"native_tokens": 99}}, "native_tokens None")])
def test_frames_of_another_channel_or_way_are_not_mixed_in(inputs, features, how, told):
    with pytest.raises(InputError, match=f"made in another way[^$]*{told}"):
        write_features(features, *inputs, prepare, **how)


def test_where_tokens_are_kept_may_change_on_the_way(inputs, features):
    write_features(features, *inputs, prepare, store="disk", streaming={"q_block": 10})  # nothing is missing: no work


def test_what_was_done_is_kept_with_each_frame(inputs, features, tmp_path):
    exact = read_records(features)
    assert list(exact.frame) == [0, 1, 2, 3] and exact.exact.all() and (exact.error == 0).all()
    assert (exact.said == "every key counted").all() and (exact.tolerance == 0.01).all()
    small = {"clusters": 4, "fit": Fit(probes=8, heavy=4, sample=20), "tolerance": 1e-20}
    write_features(tmp_path / "strict.zarr", *inputs, prepare, mode="clusters", streaming=small)
    strict = read_records(tmp_path / "strict.zarr")  # it grew or gave up, and says so
    assert (strict["mode"] == "clusters").all() and strict.exact.all() and (strict.tolerance == 1e-20).all()
    assert strict.said.str.contains("4 clusters.*over the tolerance.*every key counted").all()
    write_features(tmp_path / "loose.zarr", *inputs, prepare, mode="clusters", streaming=small | {"tolerance": None})
    loose = read_records(tmp_path / "loose.zarr")
    assert not loose.exact.any() and (loose.error > 0).all() and loose.tolerance.isna().all()


FULL = """
import resource, signal, sys; sys.path.insert(0, sys.argv[1])
from cellfm_nb.errors import InputError
from cellfm_nb.stream import write_features
from test_write import prepare
def filling(movie, t, target_um):
    if t == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # the system itself now refuses to make files larger
    return prepare(movie, t, target_um)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    write_features(*sys.argv[2:5], filling)
except InputError as error:
    print(error)
"""


def test_a_disk_that_fills_while_features_are_written(inputs, features, tmp_path):
    path = tmp_path / "features.zarr"
    done = subprocess.run([sys.executable, "-c", FULL, os.path.dirname(__file__), path, *inputs], capture_output=True,
                          text=True)
    assert "too full to keep these features" in done.stdout and "frame 2" in done.stdout, done.stderr[-2000:]
    assert [has_frame(path, t) for t in range(4)] == [True, True, False, False]
    assert not list(path.rglob("*.partial")) and not list(path.glob("*/c/2")) and not (path / "done" / "2").exists()
    write_features(path, *inputs, prepare)  # with room again it goes on
    assert content_digest(path) == content_digest(features)


def test_pca_and_activation(inputs, features, tmp_path):
    write_pca(tmp_path / "pca.npz", features, k=6)
    for name in ("a", "b"):
        write_activation(tmp_path / f"{name}.zarr", features, *inputs, prepare, seed=1)
    activation = zarr.open_group(tmp_path / "a.zarr", mode="r")["0"]
    assert activation.shape == (4, 1, 3, 5, 5) and activation.dtype == np.float32
    for t in range(4):  # the bright spot stands out in every frame, by the same measure
        z, y, x = np.unravel_index(activation[t, 0].argmax(), (3, 5, 5))
        assert z in (0, 1) and y in (1, 2) and abs(x - t) <= 1 and activation[t, 0].max() > 3
    assert content_digest(tmp_path / "a.zarr") == content_digest(tmp_path / "b.zarr")
    observer = read_observer(tmp_path / "a.zarr")
    assert np.allclose(observer.activation(read_features(features, 2)[0]), activation[2, 0], atol=1e-4)
    assert sum(len(rows) for rows in iterate_features(features)) == 4 * 75
