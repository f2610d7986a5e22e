"""Write tracks as GEFF 1.1, the graph exchange format: https://github.com/live-image-tracking-tools/geff-spec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import zarr

from cellfm_nb.track.export import EDGE_KINDS, edge_table


def write_geff(path: Path, tracks: pd.DataFrame, events: pd.DataFrame) -> None:
    """Write a GEFF graph (a zarr 2 folder): nodes are the rows of `tracks`, edges are links, splits and merges.

    Node properties: t (s), z, y, x (um), frame, label, mass, tracklet (the track); edge properties: kind (0 link, 1
    split, 2 merge), score.
    """
    edges = edge_table(tracks, events)
    nodes = {"t": (tracks["t_s"], "float64", "second")}
    nodes |= {axis: (tracks[f"{axis}_um"], "float64", "micrometer") for axis in "zyx"}
    nodes |= {name: (tracks[name], "int64", None) for name in ("frame", "label")}
    nodes |= {"mass": (tracks["mass"], "float64", None), "tracklet": (tracks["track_id"], "int64", None)}
    links = {"kind": (edges["kind"], "int8", None), "score": (edges["score"], "float64", None)}
    root = zarr.open_group(path, mode="w", zarr_format=2)
    _geff_part(root, "nodes", np.arange(len(tracks), dtype=np.uint64), nodes)
    _geff_part(root, "edges", edges[["source", "target"]].to_numpy(np.uint64), links)
    axes = [{"name": name, "type": "time" if name == "t" else "space", "unit": nodes[name][2],
             **({"min": float(nodes[name][0].min()), "max": float(nodes[name][0].max())} if len(tracks) else {})}
            for name in "tzyx"]
    root.attrs["geff"] = {
        "geff_version": "1.1", "directed": True, "axes": axes, "node_props_metadata": _geff_props(nodes),
        "edge_props_metadata": _geff_props(links), "track_node_props": {"tracklet": "tracklet"},
        "extra": {"kind": list(EDGE_KINDS)}}


def _geff_part(root: zarr.Group, name: str, ids: np.ndarray, props: dict[str, tuple]) -> None:
    part = root.create_group(name)
    arrays = {"ids": ids} | {f"props/{p}/values": np.asarray(v, dtype) for p, (v, dtype, _) in props.items()}
    part.create_group("props")
    for where, values in arrays.items():
        chunks = tuple(max(n, 1) for n in values.shape)
        part.create_array(where, shape=values.shape, dtype=values.dtype, chunks=chunks)[...] = values


def _geff_props(props: dict[str, tuple]) -> dict[str, dict]:
    return {name: {"identifier": name, "dtype": dtype, "unit": unit} for name, (_, dtype, unit) in props.items()}
