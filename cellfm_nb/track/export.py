"""Write tracks as tables, for pandas and napari, and say what each format can carry (`CARRIES`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cellfm_nb.errors import InputError
from cellfm_nb.track.objects import POSITION

CARRIES = pd.DataFrame(
    [("track/tracks.csv", "yes", "yes, as parent_id", "in events.csv"), ("track/events.csv", "-", "yes", "yes"),
     ("track/tracks.geff", "yes", "yes", "yes"), ("track/trackmate.xml", "yes", "yes", "yes"),
     ("track/ctc", "as a new track with a parent", "yes", "no: the child begins without a parent"),
     ("track/ptc.xml", "yes, as a time left out", "no: each child is a track", "no: each parent is a track"),
     ("track/tracks.parquet", "yes", "yes, as parent_id", "in events.csv"),
     ("napari", "yes", "yes", "yes")], columns=["format", "gaps", "splits", "merges"])
EDGE_KINDS = ("link", "split", "merge")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a track or event table as CSV, numbers so that they read back equal."""
    table.to_csv(path, index=False)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a track or event table as Parquet: columns keep their types, a tenth of the size."""
    table.to_parquet(path, index=False)


def read_tracks(path: Path) -> pd.DataFrame:
    """Read tracks.csv as `link_objects` made it."""
    return pd.read_csv(path, float_precision="round_trip")


def read_events(path: Path) -> pd.DataFrame:
    """Read events.csv, ours or truth's; parents and children stay text ("7;8")."""
    return pd.read_csv(path, dtype={"parents": str, "children": str}, float_precision="round_trip")


def edge_table(tracks: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Return every edge between rows of `tracks` (sorted by track, frame): source, target, kind 0..2, score.

    Raises InputError: rows in another order, or events of tracks that are not there.
    """
    ids, frame = tracks["track_id"].to_numpy(), tracks["frame"].to_numpy()
    if ((ids[1:] < ids[:-1]) | ((ids[1:] == ids[:-1]) & (frame[1:] <= frame[:-1]))).any():
        raise InputError("The tracks are not in order.", where="tracks", got="rows not sorted by track_id and frame",
                         expected="the order link_objects gives", do="Sort by track_id and frame, reset the index.")
    same = np.flatnonzero(ids[1:] == ids[:-1])
    score = tracks["score"].to_numpy(float)
    rows = [pd.DataFrame({"source": same, "target": same + 1, "kind": 0, "score": score[same + 1]})]
    names, begin, count = np.unique(ids, return_index=True, return_counts=True)
    first = dict(zip(names.tolist(), begin.tolist(), strict=True))
    last = dict(zip(names.tolist(), (begin + count - 1).tolist(), strict=True))
    for event in events.itertuples():
        gone = {int(k) for k in f"{event.parents};{event.children}".split(";")} - set(first)
        if gone:
            raise InputError("An event names a track that is not there.", where=f"events, frame {event.frame}",
                             got=f"track {min(gone)}", expected="the events of these tracks",
                             do="Drop the events of the tracks you left out.")
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
