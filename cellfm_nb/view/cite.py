"""Which papers to cite for what a run actually used."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

# stage -> the methods it re-implements or uses; a stage that was not run is not cited
PAPERS: dict[str, tuple[str, ...]] = {
    "data": (
        "Lattice light-sheet microscopy: Chen et al., Science 346:1257998 (2014).",
        "The real stack: test data of pycudadecon 0.5.1, T. Lambert, MIT licence.",
        "OME-Zarr: Moore et al., Nature Methods 18:1496 (2021).",
    ),
    "pretrain": (
        "SpatialDINO: Lavaee, Jain, Scanavachi, Costa-Filho, Ingemansson, Kirchhausen, bioRxiv, "
        "doi 10.64898/2025.12.31.697247 (2026).",
        "DINO: Caron et al., ICCV (2021). iBOT: Zhou et al., ICLR (2022). DINOv2: Oquab et al., TMLR (2024).",
        "KoLeo regulariser: Sablayrolles et al., ICLR (2019).",
        "Redundancy reduction: Barlow Twins, Zbontar et al., ICML (2021); VICReg, Bardes et al., ICLR (2022).",
    ),
    "repair": ("SINDER: Wang, Zhang, Salzmann, ECCV (2024).",),
    "stream": ("Online softmax: Milakov, Gimelshein, arXiv 1805.02867 (2018); Dao et al., NeurIPS (2022).",),
    "segment": ("Blobs in scale space: Lindeberg, Int. J. Computer Vision 30:79 (1998).",),
    "track": (
        "Linking as assignment: Jaqaman et al., Nature Methods 5:695 (2008).",
        "Locating and linking particles: Crocker, Grier, J. Colloid Interface Sci. 179:298 (1996); trackpy.",
    ),
    "score": (
        "HOTA: Luiten et al., Int. J. Computer Vision 129:548 (2021).",
        "TRA: Matula et al., PLoS ONE 10:e0144959 (2015).",
    ),
}


def cite(stages: Iterable[str] = tuple(PAPERS)) -> list[str]:
    """Return what to cite for the stages named, this package first."""
    try:
        number = version("cellfm_nb")
    except PackageNotFoundError:
        number = "unreleased"
    wanted = set(stages) | {"data"}
    return [f"cellfm_nb {number} (see CITATION.cff), MIT licence.",
            *(paper for stage, papers in PAPERS.items() if stage in wanted for paper in papers)]
