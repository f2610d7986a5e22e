"""Write tracks for other programs: CSV, GEFF, Cell Tracking Challenge, TrackMate XML, napari; and read them again.

What each format can carry (`CARRIES`): a merge has two parents, which the Cell Tracking Challenge's table has no
place for; there a track with a gap, too, must be cut in two, the later piece naming the earlier one as its parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import tifffile
import zarr
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellfm_nb.errors import InputError
from cellfm_nb.track.link import POSITION

CARRIES = pd.DataFrame(
    [("track/tracks.csv", "yes", "yes, as parent_id", "in events.csv"), ("track/events.csv", "-", "yes", "yes"),
     ("track/tracks.geff", "yes", "yes", "yes"), ("track/trackmate.xml", "yes", "yes", "yes"),
     ("track/ctc", "as a new track with a parent", "yes", "no: the child begins without a parent"),
     ("napari", "yes", "yes", "yes")], columns=["format", "gaps", "splits", "merges"])
EDGE_KINDS = ("link", "split", "merge")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a track or event table as CSV, numbers so that they read back equal."""
    table.to_csv(path, index=False)


def read_tracks(path: Path) -> pd.DataFrame:
    """Read tracks.csv as `link_objects` made it."""
    return pd.read_csv(path, float_precision="round_trip")


def read_events(path: Path) -> pd.DataFrame:
    """Read events.csv, ours or truth's; parents and children stay text ("7;8")."""
    return pd.read_csv(path, dtype={"parents": str, "children": str}, float_precision="round_trip")


def edge_table(tracks: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Return every edge between rows of `tracks` (sorted by track, frame): source, target, kind 0..2, score."""
    ids = tracks["track_id"].to_numpy()
    same = np.flatnonzero(ids[1:] == ids[:-1])
    score = tracks["score"].to_numpy(float)
    rows = [pd.DataFrame({"source": same, "target": same + 1, "kind": 0, "score": score[same + 1]})]
    names, begin, count = np.unique(ids, return_index=True, return_counts=True)
    first = dict(zip(names.tolist(), begin.tolist(), strict=True))
    last = dict(zip(names.tolist(), (begin + count - 1).tolist(), strict=True))
    for event in events.itertuples():
        pairs = [(last[int(p)], first[int(c)]) for p in event.parents.split(";") for c in event.children.split(";")]
        rows.append(pd.DataFrame(pairs, columns=["source", "target"]).assign(kind=EDGE_KINDS.index(event.kind),
                                                                             score=event.score))
    return pd.concat(rows, ignore_index=True).sort_values(["source", "target"], ignore_index=True)


def napari_tracks(tracks: pd.DataFrame, events: pd.DataFrame) -> tuple[np.ndarray, dict[int, list[int]]]:
    """Return what `viewer.add_tracks(data, graph=graph)` takes: (n, 5) float track_id, frame, z, y, x um; the graph
    {child: [parents]}."""
    data = tracks.sort_values(["track_id", "frame"])[["track_id", "frame", *POSITION]].to_numpy(float)
    graph = {int(c): [int(p) for p in e.parents.split(";")] for e in events.itertuples() for c in e.children.split(";")}
    return data, graph


# GEFF 1.1: https://github.com/live-image-tracking-tools/geff-spec


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


# Cell Tracking Challenge: https://celltrackingchallenge.net


def write_ctc(folder: Path, tracks: pd.DataFrame, labels: Any, n_frames: int, shape: tuple[int, int, int]) -> None:
    """Write maskTTT.tif (uint16, z y x) and res_track.txt (lines: label, first frame, last frame, parent).

    Parameters: labels, a Movie or array whose frame t holds the objects' labels, or None: each object is then one
    voxel; n_frames and shape (z, y, x) voxels. pieces.csv says which of our tracks each label is.
    Raises InputError when there are more pieces than uint16 can number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = tracks.sort_values(["track_id", "frame"])
    begins = (table["track_id"].diff() != 0) | (table["gap"] > 0)
    table = table.assign(piece=begins.cumsum())
    if len(table) and table["piece"].max() > np.iinfo(np.uint16).max:
        raise InputError("Too many tracks for this format.", where="track/ctc", got=int(table["piece"].max()),
                         expected="at most 65535 (uint16)", do="Use track/tracks.geff.")
    pieces = table.groupby("piece").agg(track_id=("track_id", "first"), first=("frame", "min"), last=("frame", "max"),
                                        parent_id=("parent_id", "first"), gap=("gap", "first"))
    last_piece = {int(t): int(p) for p, t in pieces["track_id"].items()}
    before = pieces.index.to_series() - 1
    pieces["parent"] = np.where(pieces["gap"] > 0, before, pieces["parent_id"].map(last_piece).fillna(0)).astype(int)
    lines = [f"{row.Index} {row.first} {row.last} {row.parent}" for row in pieces.itertuples()]
    (folder / "res_track.txt").write_text("\n".join(lines) + "\n" if lines else "")
    pieces[["track_id"]].to_csv(folder / "pieces.csv")
    digits = max(3, len(str(n_frames - 1)))
    for t in range(n_frames):
        here = table[table["frame"] == t]
        tifffile.imwrite(folder / f"mask{t:0{digits}d}.tif", _paint(here, labels, t, shape), compression="zlib",
                         photometric="minisblack")


def _paint(here: pd.DataFrame, labels: Any, t: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the piece of each voxel of frame t, uint16 (z, y, x)."""
    if labels is None:
        mask = np.zeros(shape, np.uint16)
        voxel = np.clip(np.rint(here[["z", "y", "x"]].to_numpy(float)).astype(int), 0, np.array(shape) - 1)
        mask[tuple(voxel.T)] = here["piece"]
        return mask
    frame = np.asarray(labels.frame(t) if hasattr(labels, "frame") else labels[t])
    number = np.zeros(int(max(frame.max(initial=0), here["label"].max() if len(here) else 0)) + 1, np.uint16)
    number[here["label"].to_numpy(int)] = here["piece"]
    number[0] = 0
    return number[frame]


# TrackMate 7


def write_trackmate(path: Path, tracks: pd.DataFrame, events: pd.DataFrame, dt_s: float,
                    spacing_um: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    """Write a TrackMate 7 model: spots with position (um), time (s), quality; edges for links, splits and merges.

    A TrackMate track is a whole family: all that is connected through splits and merges.
    """
    edges = edge_table(tracks, events)
    n = len(tracks)
    graph = coo_array((np.ones(len(edges)), (edges["source"], edges["target"])), shape=(n, n))
    family = connected_components(graph, directed=False)[1] if n else np.zeros(0, int)
    root = ElementTree.Element("TrackMate", version="7.14.0")
    model = ElementTree.SubElement(root, "Model", spatialunits="micron", timeunits="sec")
    _declare_features(model)
    spots = ElementTree.SubElement(model, "AllSpots", nspots=str(n))
    radius = np.cbrt(3 * tracks["volume_um3"].to_numpy(float) / (4 * np.pi))
    radius = np.where(np.isfinite(radius) & (radius > 0), radius, 2 * min(spacing_um))
    for frame, rows in tracks.reset_index(drop=True).groupby("frame"):
        at = ElementTree.SubElement(spots, "SpotsInFrame", frame=str(frame))
        for r in rows.itertuples():
            ElementTree.SubElement(
                at, "Spot", ID=str(r.Index), name=f"track {r.track_id}", FRAME=str(r.frame), POSITION_T=repr(r.t_s),
                POSITION_X=repr(r.x_um), POSITION_Y=repr(r.y_um), POSITION_Z=repr(r.z_um), VISIBILITY="1",
                RADIUS=repr(float(radius[r.Index])), QUALITY=repr(r.mass if np.isfinite(r.mass) else 1.0))
    everything, shown = ElementTree.SubElement(model, "AllTracks"), ElementTree.SubElement(model, "FilteredTracks")
    for number, members in edges.groupby(family[edges["source"]]):
        track = ElementTree.SubElement(everything, "Track", name=f"Track_{number}", TRACK_ID=str(number),
                                       TRACK_INDEX=str(number), NUMBER_SPOTS=str(int((family == number).sum())))
        for e in members.itertuples():
            ElementTree.SubElement(track, "Edge", SPOT_SOURCE_ID=str(e.source), SPOT_TARGET_ID=str(e.target),
                                   LINK_COST=repr(1 - e.score if np.isfinite(e.score) else 0.0))
        ElementTree.SubElement(shown, "TrackID", TRACK_ID=str(number))
    size = {"width": shape[2], "height": shape[1], "nslices": shape[0], "pixelwidth": spacing_um[2],
            "pixelheight": spacing_um[1], "voxeldepth": spacing_um[0], "timeinterval": dt_s,
            "nframes": int(tracks["frame"].max()) + 1 if n else 0}
    settings = ElementTree.SubElement(root, "Settings")
    ElementTree.SubElement(settings, "ImageData", filename="", folder="", **{k: str(v) for k, v in size.items()})
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="UTF-8", xml_declaration=True)


def _declare_features(model: ElementTree.Element) -> None:
    features = {
        "SpotFeatures": [("QUALITY", "QUALITY", "false"), *((f"POSITION_{a}", "POSITION", "false") for a in "XYZ"),
                         ("POSITION_T", "TIME", "false"), ("FRAME", "NONE", "true"), ("RADIUS", "LENGTH", "false"),
                         ("VISIBILITY", "NONE", "true")],
        "EdgeFeatures": [("SPOT_SOURCE_ID", "NONE", "true"), ("SPOT_TARGET_ID", "NONE", "true"),
                         ("LINK_COST", "COST", "false")],
        "TrackFeatures": [("TRACK_ID", "NONE", "true"), ("TRACK_INDEX", "NONE", "true"),
                          ("NUMBER_SPOTS", "NONE", "true")]}
    declared = ElementTree.SubElement(model, "FeatureDeclarations")
    for part, rows in features.items():
        at = ElementTree.SubElement(declared, part)
        for name, dimension, whole in rows:
            ElementTree.SubElement(at, "Feature", feature=name, name=name.replace("_", " ").capitalize(),
                                   shortname=name, dimension=dimension, isint=whole)
