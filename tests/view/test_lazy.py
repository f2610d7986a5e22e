"""Movies larger than memory: opened at once, read block by block, shown by an overview."""

import subprocess
import sys

import numpy as np
import zarr
from conftest import ROOT

from cellfm_nb.movie import Movie
from cellfm_nb.view import lazy, volume

# 200 frames of 64 x 4096 x 4096 voxels: 429 GB when read. Opened in a process that may have 3 GiB in all.
HUGE = """
import io, resource, sys, time, zlib
import numpy as np, pandas as pd, zarr
from cellfm_nb.movie import Movie
from cellfm_nb.view import volume
import matplotlib.figure, neuroglancer
array = zarr.open_array(sys.argv[1], mode="r")
movie = Movie.from_array(array, spacing_um=(0.25, 0.1, 0.1), dt_s=2.0)
layers = {"movie": volume.as_array(movie)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = time.process_time()
viewer = volume.open_viewer(layers, movie.spacing_um, None, 2.0, {"movie": "image"})
opened, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time() - start
local = viewer.state.layers["movie"].source[0].url
block, _ = viewer.volume_manager.volumes[next(iter(viewer.volume_manager.volumes))].get_encoded_subvolume(
    "npz", np.array([3, 0, 0, 0]), np.array([4, 16, 32, 32]), "1,4,4,4")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
served = np.load(io.BytesIO(zlib.decompress(block)))
print(int(opened - before), int(after - before), seconds, served.size)
"""


def test_a_movie_larger_than_memory_opens_at_once(tmp_path):
    path = tmp_path / "huge.zarr"
    zarr.create_array(path, shape=(200, 64, 4096, 4096), chunks=(1, 16, 256, 256), dtype="uint16", fill_value=100)
    done = subprocess.run([sys.executable, "-c", HUGE, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    opened, after, seconds, size = done.stdout.split()
    print("MiB to open, and with a block 4 x coarser:", opened, after, "CPU s", seconds)
    assert int(opened) < 100 and int(after) < 200 and int(size) == 16 * 32 * 32  # a frame alone is 2,048 MiB


def test_an_overview_reads_planes_and_keeps_its_promise(monkeypatch):
    data = np.random.default_rng(0).integers(0, 999, (3, 20, 60, 70)).astype(np.uint16)
    frame = lazy.frame_of(data, 1)
    whole, step = lazy.overview(frame)
    assert step == 1 and np.array_equal(whole, data[1])
    monkeypatch.setattr(lazy, "OVERVIEW_VOXELS", 10_000)
    thin, step = lazy.overview(frame)
    assert thin.size <= 10_000 * 1.5 and np.array_equal(thin, data[1, ::step, ::step, ::step])
    figure = volume.static({"a": data}, (0.25, 0.1, 0.1), np.array([[4, 8, 12]]), {"a": "image"})
    circle = figure.axes[0].collections[0].get_offsets()[0]
    assert np.allclose(circle, [1.2, 0.8])  # a point keeps its place in um
    assert f"every {volume.ordinal(step)} voxel" in figure._suptitle.get_text()


def test_the_display_range_of_a_few_planes_is_that_of_the_volume():
    data = np.random.default_rng(1).gamma(2, 100, (80, 600, 300)).astype(np.float32)
    low, high = lazy.display_range(data)
    assert np.allclose([low, high], np.percentile(data, [1, 99.8]), rtol=0.05)
    assert lazy.display_range(np.zeros((0, 3, 3))) == (0.0, 1.0)


def test_a_channel_of_a_movie_reads_what_it_is_asked_for():
    data = np.random.default_rng(2).integers(0, 9, (4, 2, 5, 6, 7)).astype(np.uint16)
    movie = Movie.from_array(data, "tczyx", spacing_um=(0.2, 0.1, 0.1))
    channel = lazy.Channel(movie, 1)
    assert channel.shape == (4, 5, 6, 7) and np.array_equal(channel[1:3, :, 2:4, 1], data[1:3, 1, :, 2:4, 1])
    assert np.array_equal(lazy.frame_of(channel, 2)[1], data[2, 1, 1])
    assert volume.as_array(Movie.from_array(data[:1], "tczyx", spacing_um=(0.2, 0.1, 0.1))).shape == (5, 6, 7)
