"""Write tracks as XML: TrackMate 7's model, and the Particle Tracking Challenge's particles, which is also read."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellfm_nb.errors import InputError
from cellfm_nb.track.export import edge_table


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
    _write(root, path)


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


# Particle Tracking Challenge (Chenouard et al. 2014)


def write_ptc(path: Path, tracks: pd.DataFrame, scenario: str = "", snr: str = "", density: str = "") -> None:
    """Write the Particle Tracking Challenge's XML: one particle a track, positions t (frame), x, y, z in voxels.

    A gap is a time that is left out. Splits and merges have no place in it: each track stands for itself.
    """
    root = ElementTree.Element("root")
    contest = ElementTree.SubElement(root, "TrackContestISBI2012", snr=str(snr), density=str(density),
                                     scenario=str(scenario))
    for _, rows in tracks.sort_values(["track_id", "frame"]).groupby("track_id"):
        particle = ElementTree.SubElement(contest, "particle")
        for r in rows.itertuples():
            ElementTree.SubElement(particle, "detection", t=str(r.frame), x=repr(float(r.x)), y=repr(float(r.y)),
                                   z=repr(float(r.z)))
    _write(root, path)


def read_ptc(path: Path, spacing_um: tuple[float, float, float], dt_s: float) -> pd.DataFrame:
    """Read the challenge's XML, ours or anybody's: track_id, frame, t_s, z, y, x (voxels), z_um, y_um, x_um.

    A contest without a particle is a movie in which nothing was found. Raises InputError when the file is no XML or
    holds neither, or a detection lacks a number.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InputError("This file is no XML.", where=str(path), got=str(error),
                         expected="the Particle Tracking Challenge's XML",
                         do="Give the file with the tracks.") from None
    particles = list(root.iter("particle"))
    if not particles and root.find(".//TrackContestISBI2012") is None:
        raise InputError("No particle in this file.", where=str(path), got="no <particle>",
                         expected="the Particle Tracking Challenge's XML", do="Give the file with the tracks.")
    try:
        rows = [(k, int(d.get("t")), *(float(d.get(a)) for a in "zyx"))
                for k, particle in enumerate(particles) for d in particle.iter("detection")]
    except (TypeError, ValueError):
        raise InputError("A detection lacks a number.", where=str(path), got="t, x, y or z missing or not a number",
                         expected="t, x, y and z of each <detection>", do="Correct the file.") from None
    table = pd.DataFrame(rows, columns=["track_id", "frame", *"zyx"]).astype({"frame": int})
    for axis, size in zip("zyx", spacing_um, strict=True):
        table[f"{axis}_um"] = table[axis] * size
    return table.assign(t_s=table["frame"] * dt_s)


def _write(root: ElementTree.Element, path: Path) -> None:
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="UTF-8", xml_declaration=True)
