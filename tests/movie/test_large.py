"""A movie of 100 GB opens in seconds and megabytes; one of 0.5 GB is imported where there is 1 GB."""

import json
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
import tifffile
import zarr
from conftest import ROOT

SHAPE = (125, 100, 2048, 2048)  # uint16: 105 GB


def sparse_tiff(path):
    tifffile.imwrite(path, None, shape=SHAPE, dtype="uint16", bigtiff=True, ome=True, metadata={"axes": "TZYX"})


def tiled_tiff(path):
    tile, shape = zlib.compress(bytes(2 * 1024 * 1024), 9), (32, 100, 4096, 4096)
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as file:  # tiles that are already compressed
        file.write(iter([tile] * (32 * 100 * 16)), shape=shape, dtype="uint16", tile=(1024, 1024), compression="zlib",
                   metadata={"axes": "TZYX"})


def sparse_zarr(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("0", shape=SHAPE, dtype="uint16", chunks=(1, 16, 128, 128))
    axes = [{"name": "t", "type": "time"}, *[{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]]
    scale = [{"type": "scale", "scale": [1.0, 0.3, 0.1, 0.1]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [
        {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]}  # fmt: skip


def run(code, **names):
    """Run code in a process of its own; return what it printed as JSON in its last line."""
    head = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    code = head + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("make", [sparse_tiff, tiled_tiff, sparse_zarr])
def test_100_gb_open_in_seconds_and_megabytes(tmp_path, make):
    path = tmp_path / ("m.ome.zarr" if make is sparse_zarr else "m.ome.tif")
    make(path)
    seconds, mib, gb, corner = run("""
        import json, time, psutil
        from cellfm_nb.movie import Movie
        memory, start = lambda: psutil.Process().memory_info().rss, time.perf_counter()
        before = memory()
        movie = Movie.open(path, spacing_um=(0.3, 0.1, 0.1))
        corner = movie.data[movie.n_frames - 1, 0, 60, -8:, -8:]
        text, size = repr(movie), 2 * movie.shape[0] * movie.shape[2] * movie.shape[3] * movie.shape[4] / 1e9
        print(json.dumps([time.perf_counter() - start, (memory() - before) / 2**20, size, corner.shape]))
        """, path=str(path))  # fmt: skip
    assert gb > 100 and corner == [8, 8]
    assert seconds < 5 and mib < 100


def test_half_a_gigabyte_in_one_frame_is_imported_within_one(tmp_path):
    """RLIMIT_DATA bounds what a process asks for itself; pages of a mapped file are the system's to take back."""
    pytest.importorskip("resource", reason="no memory limits on this system")
    if not sys.platform.startswith("linux"):
        pytest.skip("RLIMIT_DATA covers what is asked for by mmap on Linux only")
    shape = (1, 64, 2048, 2048)
    flat = np.zeros(shape[2:], "uint16")
    flat[::64, ::64] = 700
    pages = [flat + np.uint16(z) if z < 8 else np.zeros_like(flat) for z in range(9)]  # most planes black: quick
    tifffile.imwrite(tmp_path / "m.ome.tif", (pages[min(z, 8)] for z in range(64)), shape=shape, dtype="uint16",
                     ome=True, metadata={"axes": "TZYX"})
    sums, levels, resident = run("""
        import json, resource, zarr
        from cellfm_nb.movie import Movie, import_movie
        resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
        import_movie(path + "/out.ome.zarr", path + "/m.ome.tif", (0.1, 0.1, 0.1), 1.0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        movie, group = Movie.open(path + "/out.ome.zarr"), zarr.open_group(path + "/out.ome.zarr", mode="r")
        planes = [int(movie.data[0, 0, z].sum()) for z in (0, 5, 31)]
        print(json.dumps([planes, [group[k].shape for k in sorted(group.array_keys())], peak]))
        """, path=str(tmp_path))  # fmt: skip
    assert sums == [int(flat.sum()), int(flat.sum()) + 5 * flat.size, 0]
    assert levels == [[1, 1, 64 // f, 2048 // f, 2048 // f] for f in (1, 2, 4, 8)]
    assert resident < 1.0  # GiB, pages of the mapped file included
