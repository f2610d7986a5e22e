"""64 x 512 x 512 by (2.4, 1, 1): ours beside torch, MONAI Zoom and MONAI Spacing: exactness, time, memory."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cellfm_nb.bench import Row, alternate, extra_mib
from cellfm_nb.curate.resample import resample, write_resampled
from cellfm_nb.movie import Movie
from cellfm_nb.seeds import rng

SHAPE, FACTOR = (64, 512, 512), 2.4


def rows() -> Iterator[Row]:
    """Compare with F.interpolate, then time in memory, then memory from file to file."""
    from monai.transforms import Spacing, Zoom

    volume = rng(0, "bench resample").random(SHAPE, np.float32)
    tensor = torch.from_numpy(volume)[None]
    zoom = Zoom((FACTOR, 1, 1), mode="trilinear", keep_size=False)
    spacing = Spacing((1 / FACTOR, 1, 1), mode="bilinear")
    size = tuple(round(n * f) for n, f in zip(SHAPE, (FACTOR, 1, 1), strict=True))

    def torch_whole(double: bool = False) -> torch.Tensor:
        whole = tensor[None].double() if double else tensor[None]
        return F.interpolate(whole, size=size, mode="trilinear", align_corners=False)[0, 0]

    def ours(planes: int = 64) -> np.ndarray:
        return resample(volume, (FACTOR, 1, 1), (1, 1, 1), planes)[0]

    exact = torch_whole(double=True).numpy()
    worst = max(float(np.abs(ours(planes) - exact).max()) for planes in (7, 64, 1000))
    single = float(np.abs(torch_whole().numpy() - exact).max())
    del exact
    yield Row("any chunk size, against double", "max difference", "lower", worst, {"F.interpolate": single}, 1e-5)
    spent = alternate({"ours": ours, "MONAI Zoom": lambda: zoom(tensor), "F.interpolate": torch_whole}, repeats=7)
    mine = spent.pop("ours")
    yield Row("in memory", "seconds", "lower", mine, spent)
    yield Row("in memory", "share of Zoom", "lower", mine / spent["MONAI Zoom"], target=0.2)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.ome.zarr"
        Movie.from_array(volume[None], spacing_um=(FACTOR, 1, 1)).save(source)
        write_resampled(Path(folder) / "warm.ome.zarr", source, (1, 1, 1))
        gc.collect()
        streamed = extra_mib(lambda: write_resampled(Path(folder) / "out.ome.zarr", source, (1, 1, 1)))
    peers = {"MONAI Zoom": extra_mib(lambda: zoom(tensor)), "MONAI Spacing": extra_mib(lambda: spacing(tensor)),
             "output alone": 4 * np.prod(size) / 2**20}
    yield Row("file to file", "extra MiB", "lower", streamed, peers, target=150)
