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
