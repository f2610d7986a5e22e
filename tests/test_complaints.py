"""What users of other tools complain of, by number; those about files stand in tests/movie and test_manifest."""

import ast
import importlib
import json
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from cellfm_nb.bench import extra_mib
from cellfm_nb.curate import resample, write_resampled
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.stream.encode import StreamingEncoder

# the ground every scientist stands on; peers and viewers (trackpy, monai, dask, plotly, ...) come through the package
OURS = {"cellfm_nb", "IPython", "numpy", "pandas", "scipy", "skimage", "sklearn", "tifffile", "torch", "zarr"}


def imports(path):
    """Yield (module, name) of every import in a notebook's code cells."""
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.ImportFrom):
                    yield from ((node.module, alias.name) for alias in node.names)
                elif isinstance(node, ast.Import):
                    yield from ((alias.name, None) for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem[:2])
def test_20_notebooks_know_this_package_alone_and_it_has_what_they_name(path):
    """A new major release of a peer (trackpy, monai, dask, ...) must not break a notebook's cells."""
    for module, name in imports(path):
        top = module.split(".")[0]
        assert top in OURS or top in sys.stdlib_module_names, f"{path.name} imports {module}"
        if top == "cellfm_nb" and name:
            found = importlib.import_module(module)
            assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"


def test_22_the_right_anisotropy_leaves_no_rings():
    """A smooth ball, sampled 2.5 times coarser in z, is that ball again on cubes: no overshoot, no rings."""
    grid = np.indices((25, 64, 64), dtype=float) * np.array([2.5, 1, 1])[:, None, None, None]
    away = np.sqrt(((grid - np.array([30.0, 31.5, 31.5])[:, None, None, None]) ** 2).sum(0))
    ball = 1 / (1 + np.exp((away - 18) / 3))
    cubes, _ = resample(ball, (2.5, 1, 1), (1, 1, 1))
    assert ball.min() - 1e-6 <= cubes.min() and cubes.max() <= ball.max() + 1e-6
    z, y, x = np.indices(cubes.shape, dtype=float)
    z = (z + 0.5) * 25 / cubes.shape[0] * 2.5 - 1.25  # half-pixel centres
    exact = 1 / (1 + np.exp((np.sqrt((z - 30) ** 2 + (y - 31.5) ** 2 + (x - 31.5) ** 2) - 18) / 3))
    inside = (slice(3, -3),) * 3
    assert np.abs(cubes - exact)[inside].max() < 0.03
    wrong, _ = resample(ball, (1.5, 1, 1), (1, 1, 1))  # control: a wrong anisotropy is seen
    assert abs(wrong.shape[0] - 62) > 10


def test_23_memory_is_known_before_the_run_and_too_little_is_said():
    shape, encoder = (200, 1024, 1024), Encoder(EncoderConfig())
    plan = StreamingEncoder(encoder, memory_bytes=2 * 2**30).plan(shape)
    assert plan.tokens == 50 * 128 * 128 and plan.peak_bytes <= 2 * 2**30 and "MiB" in str(plan)
    plan = StreamingEncoder(encoder, memory_bytes=2**20).plan(shape)
    assert not plan.table["fits"].any() and "is the least" in str(plan) and plan.store == "disk"


def test_24_pieces_equal_the_whole(tmp_path):
    """Slabs of a file, resampled one by one, are the volume resampled at once: nothing is cut at a border."""
    volume = np.random.default_rng(0).normal(100, 10, (1, 50, 40, 40)).astype(np.float32)
    Movie.from_array(volume, spacing_um=(0.3, 0.1, 0.1)).save(tmp_path / "in.ome.zarr")
    write_resampled(tmp_path / "out.ome.zarr", tmp_path / "in.ome.zarr", (0.1, 0.1, 0.1))
    whole, _ = resample(volume[0], (0.3, 0.1, 0.1), (0.1, 0.1, 0.1))
    np.testing.assert_allclose(Movie.open(tmp_path / "out.ome.zarr").frame(0), whole, atol=1e-3)


def test_25_a_movie_says_how_its_axes_were_understood():
    told = str(Movie.from_array(np.zeros((3, 2, 6, 8, 9)), "tczyx", spacing_um=(0.3, 0.1, 0.2), dt_s=2.0))
    for word in ("3 frames", "2 channels", "6 x 8 x 9", "(z, y, x)", "0.3 x 0.1 x 0.2", "2 s between frames"):
        assert word in told, (word, told)
    with pytest.raises(InputError):
        Movie.from_array(np.zeros((6, 8)), "yx", spacing_um=(0.3, 0.1, 0.2))


def test_36_a_streamed_volume_never_needs_its_whole_attention_in_memory():
    encoder = Encoder(EncoderConfig(width=48, depth=1, heads=4)).eval()
    volume = np.zeros((64, 128, 128), np.float32)  # 4,096 tokens: N x N logits of four heads would be 256 MiB
    streamed = StreamingEncoder(encoder, mode="online", store="memory", q_block=256, kv_block=512)
    streamed.encode(volume[:8], progress=False)
    with torch.inference_mode():
        extra = extra_mib(lambda: streamed.encode(volume, progress=False))
    assert extra < 128, extra
