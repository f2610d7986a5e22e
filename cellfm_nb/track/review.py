"""What readers said of splits and merges, put into the event table: an event is known by what it is, not by a number.

Track numbers change when the objects are linked again. Kind, frame and place do not, as long as the objects are the
same; so a verdict finds its event again, and one on an event that is no longer found waits.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

STATUS = ("candidate", "confirmed", "rejected", "unsure")


def event_keys(events: pd.DataFrame) -> list[str]:
    """Name each event by kind, frame and place (nm), such as "split 12 1450 3300 4125"."""
    return [f"{e.kind} {e.frame} {1000 * e.z_um:.0f} {1000 * e.y_um:.0f} {1000 * e.x_um:.0f}"
            for e in events.itertuples()]


def apply_review(events: pd.DataFrame, said: Mapping[str, str]) -> pd.DataFrame:
    """Return the event table with the status of what readers looked at; the rest is "candidate".

    said: by the name of an event (see `event_keys`), one of STATUS.
    """
    return events.assign(status=[said.get(key, "candidate") for key in event_keys(events)])


def not_rejected(events: pd.DataFrame) -> pd.DataFrame:
    """Return the events that nobody rejected: those that are handed to other programs."""
    return events[events["status"] != "rejected"].reset_index(drop=True)


def without_rejected_parents(tracks: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Return the track table in which the children of rejected splits have no parent (parent_id -1)."""
    rejected = events[(events["kind"] == "split") & (events["status"] == "rejected")]
    alone = [int(child) for children in rejected["children"] for child in children.split(";")]
    return tracks.assign(parent_id=tracks["parent_id"].where(~tracks["track_id"].isin(alone), -1))
