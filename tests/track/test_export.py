"""Every format written and read again: by us, and by the packages made for it."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from cellfm_nb.errors import InputError
from cellfm_nb.track import (
    edge_table,
    link_objects,
    napari_tracks,
    read_events,
    read_ptc,
    read_scales,
    read_tracks,
    write_csv,
    write_ctc,
    write_geff,
    write_linking,
    write_parquet,
    write_ptc,
    write_scales,
    write_trackmate,
)
from cellfm_nb.track.link import Linking

from .conftest import SPACING

SHAPE = (40, 144, 144)


@pytest.fixture(scope="module")
def linking(scene: tuple) -> Linking:
    result = link_objects(scene[1], SPACING, 2.0)
    assert {"split", "merge"} == set(result.events["kind"]) and result.tracks["gap"].max() > 0
    return result


def test_csv_reads_back_equal(linking: Linking, tmp_path: Path) -> None:
    write_csv(tmp_path / "tracks.csv", linking.tracks)
    write_csv(tmp_path / "events.csv", linking.events)
    pd.testing.assert_frame_equal(read_tracks(tmp_path / "tracks.csv"), linking.tracks, check_exact=True)
    pd.testing.assert_frame_equal(read_events(tmp_path / "events.csv"), linking.events, check_dtype=False)


def test_linking_is_written_as_three_tables(scene: tuple, linking: Linking, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("tracks.csv", "events.csv", "scales.csv", "scales.json")]
    scene[1].to_parquet(tmp_path / "objects.parquet")
    write_linking(*paths, tmp_path / "objects.parquet", SPACING, 2.0, max_gap_frames=4)
    pd.testing.assert_frame_equal(read_tracks(paths[0]), linking.tracks)
    assert len(read_events(paths[1])) == len(linking.events)
    assert {"quantity", "value", "unit"} == set(pd.read_csv(paths[2]).columns)
    for name, value in asdict(read_scales(paths[3])).items():
        assert np.array_equal(value, getattr(linking.scales, name)), name
    again = link_objects(scene[1], SPACING, 2.0, scales=read_scales(paths[3]))
    assert len(again.events) > 0


def test_scales_that_are_none_or_not_whole(linking: Linking, tmp_path: Path) -> None:
    write_scales(tmp_path / "none.json", None)
    assert read_scales(tmp_path / "none.json") is None
    (tmp_path / "part.json").write_text('{"end": 0.1}')
    with pytest.raises(InputError, match="not whole"):
        read_scales(tmp_path / "part.json")


def test_edges_are_links_and_events(linking: Linking) -> None:
    edges = edge_table(linking.tracks, linking.events)
    assert (edges["kind"] == 0).sum() == len(linking.tracks) - linking.tracks["track_id"].nunique()
    assert (edges["kind"] > 0).sum() == 2 * len(linking.events)
    frame = linking.tracks["frame"].to_numpy()
    assert (frame[edges["source"]] < frame[edges["target"]]).all() and not edges.duplicated(["source", "target"]).any()


def test_geff_holds_every_row_and_edge(linking: Linking, tmp_path: Path) -> None:
    write_geff(tmp_path / "tracks.geff", linking.tracks, linking.events)
    root = zarr.open_group(tmp_path / "tracks.geff", mode="r")
    edges = edge_table(linking.tracks, linking.events)
    assert root["edges/ids"][...].tolist() == edges[["source", "target"]].to_numpy().tolist()
    for name, column in (("x", "x_um"), ("t", "t_s"), ("tracklet", "track_id"), ("label", "label")):
        assert np.array_equal(root[f"nodes/props/{name}/values"][...], linking.tracks[column])
    assert np.array_equal(root["edges/props/kind/values"][...], edges["kind"])


def test_geff_is_valid_to_its_own_package(linking: Linking, tmp_path: Path) -> None:
    geff = pytest.importorskip("geff")
    from geff.validate.data import ValidationConfig

    write_geff(tmp_path / "tracks.geff", linking.tracks, linking.events)
    geff.validate_structure(tmp_path / "tracks.geff")
    graph, _ = geff.read(tmp_path / "tracks.geff", data_validation=ValidationConfig(graph=True, tracklet=True))
    assert graph.number_of_nodes() == len(linking.tracks)
    edges = edge_table(linking.tracks, linking.events)[["source", "target"]].to_numpy()
    assert sorted(graph.edges) == sorted(map(tuple, edges.tolist()))


def test_geff_of_nothing_is_valid(tmp_path: Path) -> None:
    geff = pytest.importorskip("geff")
    empty = link_objects(pd.DataFrame({c: [] for c in ("frame", "z_um", "y_um", "x_um")}), SPACING, 2.0)
    write_geff(tmp_path / "tracks.geff", empty.tracks, empty.events)
    geff.validate_structure(tmp_path / "tracks.geff")


def read_ctc(folder: Path) -> tuple[pd.DataFrame, dict[int, tuple[int, int, int]]]:
    """Return the voxels of each label and frame, and {label: (first, last, parent)}."""
    rows = [(t, int(v), *map(int, at)) for t, path in enumerate(sorted(folder.glob("mask*.tif")))
            for mask in [tifffile.imread(path)] for at in np.argwhere(mask) for v in [mask[tuple(at)]]]
    lines = [list(map(int, line.split())) for line in (folder / "res_track.txt").read_text().splitlines()]
    return pd.DataFrame(rows, columns=["frame", "piece", "z", "y", "x"]), {line[0]: tuple(line[1:]) for line in lines}


def test_ctc_follows_its_rules_and_keeps_tracks(linking: Linking, tmp_path: Path) -> None:
    write_ctc(tmp_path / "ctc", linking.tracks, None, 20, SHAPE)
    voxels, pieces = read_ctc(tmp_path / "ctc")
    assert len(list((tmp_path / "ctc").glob("mask*.tif"))) == 20
    for piece, (first, last, parent) in pieces.items():
        seen = set(voxels.loc[voxels["piece"] == piece, "frame"])
        assert seen <= set(range(first, last + 1))                    # (two objects may share a voxel here)
        assert parent == 0 or pieces[parent][1] < first
    track_of = pd.read_csv(tmp_path / "ctc" / "pieces.csv", index_col="piece")["track_id"]
    n_gaps = int((linking.tracks["gap"] > 0).sum())
    assert len(pieces) == linking.tracks["track_id"].nunique() + n_gaps
    splits = linking.events[linking.events["kind"] == "split"]
    children = {int(c) for text in splits["children"] for c in text.split(";")}
    with_parent = {int(track_of[p]) for p, row in pieces.items() if row[2] and track_of[row[2]] != track_of[p]}
    assert with_parent == children                                    # merges have no place in this format


def test_ctc_takes_the_shape_of_the_labels(linking: Linking, tmp_path: Path) -> None:
    here = linking.tracks[linking.tracks["frame"] == 0].head(3).assign(label=[5, 9, 2])
    labels = np.zeros((1, 4, 6, 6), np.uint32)
    labels[0, 1, :2, :2], labels[0, 2, 3:, 3:], labels[0, 0, 5, 5], labels[0, 3, 0, 0] = 5, 9, 2, 77
    write_ctc(tmp_path / "ctc", here, labels, 1, (4, 6, 6))
    mask = tifffile.imread(tmp_path / "ctc" / "mask000.tif")
    assert mask.dtype == np.uint16 and sorted(np.bincount(mask.ravel())[1:]) == [1, 4, 9]   # 77 is no object of ours


def test_too_many_tracks_for_ctc_are_refused(tmp_path: Path) -> None:
    tracks = pd.DataFrame({"track_id": np.arange(70_000), "frame": 0, "gap": 0, "parent_id": -1, "label": 1})
    with pytest.raises(InputError, match="Too many tracks"):
        write_ctc(tmp_path / "ctc", tracks, None, 1, (1, 1, 1))


def test_trackmate_reads_back(linking: Linking, tmp_path: Path) -> None:
    write_trackmate(tmp_path / "trackmate.xml", linking.tracks, linking.events, 2.0, SPACING, SHAPE)
    root = ElementTree.parse(tmp_path / "trackmate.xml").getroot()
    spots = {int(s.get("ID")): s for s in root.iter("Spot")}
    assert len(spots) == len(linking.tracks) == int(root.find("Model/AllSpots").get("nspots"))
    x = np.array([float(spots[k].get("POSITION_X")) for k in range(len(spots))])
    assert np.array_equal(x, linking.tracks["x_um"])
    edges = {(int(e.get("SPOT_SOURCE_ID")), int(e.get("SPOT_TARGET_ID"))) for e in root.iter("Edge")}
    assert edges == set(map(tuple, edge_table(linking.tracks, linking.events)[["source", "target"]].to_numpy()))
    shown = {t.get("TRACK_ID") for t in root.iter("TrackID")}
    assert shown == {t.get("TRACK_ID") for t in root.iter("Track")}


def test_trackmate_reads_back_by_another_program(linking: Linking, tmp_path: Path) -> None:
    geff = pytest.importorskip("geff")
    from geff.convert._trackmate_xml import from_trackmate_xml_to_geff

    write_trackmate(tmp_path / "tm.xml", linking.tracks, linking.events, 2.0, SPACING, SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from_trackmate_xml_to_geff(tmp_path / "tm.xml", tmp_path / "tm.geff")
        graph, _ = geff.read(tmp_path / "tm.geff")
    assert graph.number_of_nodes() == len(linking.tracks)
    assert graph.number_of_edges() == len(edge_table(linking.tracks, linking.events))


def test_napari_tracks_are_sorted_and_carry_the_graph(linking: Linking) -> None:
    data, graph = napari_tracks(linking.tracks.sample(frac=1, random_state=0), linking.events)
    assert data.shape == (len(linking.tracks), 5)
    assert (np.lexsort((data[:, 1], data[:, 0])) == np.arange(len(data))).all()
    assert sum(len(p) == 2 for p in graph.values()) == (linking.events["kind"] == "merge").sum()


def test_napari_takes_the_tracks(linking: Linking) -> None:
    """napari's own reader of the layer, where it is installed; else its stated rules: ids known, parents earlier."""
    data, graph = napari_tracks(linking.tracks, linking.events)
    spans = linking.tracks.groupby("track_id")["frame"].agg(["min", "max"])
    for child, parents in graph.items():
        assert child in spans.index and all(spans.loc[p, "max"] < spans.loc[child, "min"] for p in parents)
    layers = pytest.importorskip("napari.layers", reason="napari is not installed")
    assert layers.Tracks(data, graph=graph).data.shape == data.shape


def test_parquet_keeps_numbers_and_types(linking: Linking, tmp_path: Path) -> None:
    import pyarrow.parquet

    write_parquet(tmp_path / "tracks.parquet", linking.tracks)
    back = pyarrow.parquet.read_table(tmp_path / "tracks.parquet").to_pandas()   # not by our writer's library call
    pd.testing.assert_frame_equal(back, linking.tracks, check_exact=True)


def test_ptc_reads_back_and_says_what_it_lost(linking: Linking, tmp_path: Path) -> None:
    write_ptc(tmp_path / "ptc.xml", linking.tracks, "virus", "4", "low")
    back = read_ptc(tmp_path / "ptc.xml", SPACING, 2.0)
    same = ["frame", "t_s", "z", "y", "x"]
    pd.testing.assert_frame_equal(back[same], linking.tracks[same], check_exact=True)
    assert (back.groupby("track_id").size().to_numpy() == linking.tracks.groupby("track_id").size().to_numpy()).all()
    assert np.allclose(back[["z_um", "y_um", "x_um"]], linking.tracks[["z", "y", "x"]] * SPACING)
    root = ElementTree.parse(tmp_path / "ptc.xml").getroot()
    assert root[0].attrib == {"snr": "4", "density": "low", "scenario": "virus"}


@pytest.mark.parametrize(("text", "words"), [
    ("<root/>", "No particle"), ('<root><particle><detection t="1" x="2"/></particle></root>', "lacks a number")])
def test_bad_ptc_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_ptc(tmp_path / "bad.xml", SPACING, 2.0)


def test_ctc_is_loaded_by_traccuracy(linking: Linking, tmp_path: Path) -> None:
    """Apart from merges and with gaps as descents, the graph it reads is ours."""
    pytest.importorskip("traccuracy")
    from traccuracy.loaders import load_ctc_data

    write_ctc(tmp_path / "ctc", linking.tracks, None, 20, SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = load_ctc_data(str(tmp_path / "ctc"), str(tmp_path / "ctc" / "res_track.txt"), run_checks=False).graph
    voxels, _ = read_ctc(tmp_path / "ctc")
    seen = voxels.groupby(["frame", "piece"]).ngroups
    assert graph.number_of_nodes() == seen
    splits = 2 * int((linking.events["kind"] == "split").sum())
    links = len(linking.tracks) - linking.tracks["track_id"].nunique()
    hidden = len(linking.tracks) - seen                                # objects that share a voxel with another
    assert links + splits - 2 * hidden <= graph.number_of_edges() <= links + splits


def test_a_movie_without_objects_is_written_and_read(tmp_path: Path) -> None:
    write_ptc(tmp_path / "ptc.xml", link_objects(pd.DataFrame(columns=["frame", "z_um", "y_um", "x_um"]), SPACING,
                                                 2.0).tracks)
    assert len(read_ptc(tmp_path / "ptc.xml", SPACING, 2.0)) == 0
    (tmp_path / "bad.xml").write_text("<root><particle>")
    with pytest.raises(InputError, match="no XML"):
        read_ptc(tmp_path / "bad.xml", SPACING, 2.0)


def test_objects_in_one_voxel_are_all_painted(linking: Linking, tmp_path: Path) -> None:
    rows = linking.tracks[linking.tracks["frame"] == 0].head(6).assign(z=3.0, y=4.0, x=[5.0, 5, 5, 5, 6, 6])
    write_ctc(tmp_path / "ctc", rows, None, 1, SHAPE)
    assert set(np.unique(tifffile.imread(tmp_path / "ctc" / "mask000.tif"))) == set(range(7))
    with pytest.raises(InputError, match="More objects than voxels"):
        write_ctc(tmp_path / "full", rows, None, 1, (1, 1, 5))


def test_edges_want_the_tracks_in_order_and_whole(linking: Linking) -> None:
    with pytest.raises(InputError, match="not in order"):
        edge_table(linking.tracks.sample(frac=1, random_state=0), linking.events)
    lost = int(linking.events["children"].iloc[0].split(";")[0])
    with pytest.raises(InputError, match="not there"):
        edge_table(linking.tracks[linking.tracks["track_id"] != lost], linking.events)
