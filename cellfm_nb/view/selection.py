"""Which object is looked at: one row of a table, chosen by any view and told to all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cellfm_nb.errors import InputError

COLUMNS = ("track_id", "frame", "z", "y", "x")


class Selection:
    """Hold the chosen object of a track table, and tell the views when it changes.

    Parameters: tracks, one row per object and frame with the columns track_id, frame and z, y, x (voxels);
    spacing_um (z, y, x): what is nearest is nearest in micrometre, not in voxels.
    `row` is the position of the chosen object in the table, None until something is chosen. A view calls `select` or
    `select_nearest` with its own name and is told (see `subscribe`) of what the others choose, never of its own
    choice: two views can't answer each other for ever.
    Raises InputError when a column is missing or the table is empty.
    """

    def __init__(self, tracks: pd.DataFrame, spacing_um: Sequence[float]) -> None:
        if missing := [name for name in COLUMNS if name not in tracks]:
            raise InputError("Not a track table.", got=f"no column {', '.join(missing)}", expected=", ".join(COLUMNS),
                             do="Give the table that notebook 08 writes.")
        if tracks.empty:
            raise InputError("There is no object to choose.", got="an empty table", expected="at least one row",
                             do="Look at the movie with show_volume.")
        self.tracks = tracks.reset_index(drop=True)
        self.spacing_um = np.asarray(spacing_um, float)
        self.at = self.tracks[["z", "y", "x"]].to_numpy(float)
        self.frames = self.tracks["frame"].to_numpy(int)
        self.row: int | None = None
        self._views: dict[str, Callable[[int], None]] = {}

    def subscribe(self, view: str, told: Callable[[int], None]) -> None:
        """Call `told(row)` whenever another view than `view` chooses another row."""
        self._views[view] = told

    def select(self, row: int, by: str = "") -> None:
        """Choose a row; every view but `by` is told, once. Choosing the chosen row again tells nobody.

        Raises InputError when the table has no such row.
        """
        if not 0 <= row < len(self.tracks):
            raise InputError("There is no such row.", got=row, expected=f"0 to {len(self.tracks) - 1}",
                             do="Choose a row of the table.")
        if row == self.row:
            return
        self.row = int(row)
        for view, told in list(self._views.items()):
            if view != by:
                told(self.row)

    def select_nearest(self, frame: int, zyx: Sequence[float], by: str = "") -> int | None:
        """Choose the object of a frame that is nearest (in um) to a position in voxels; None where the frame has none.

        Returns: the row chosen. Of objects at one distance the first of the table is taken.
        """
        rows = np.flatnonzero(self.frames == frame)
        if not len(rows):
            return None
        away = (self.at[rows] - np.asarray(zyx, float)) * self.spacing_um
        row = int(rows[(away**2).sum(1).argmin()])
        self.select(row, by)
        return row

    def at_frame(self, frame: int) -> int | None:
        """Return the row of the chosen object's track in another frame, None where the track has none there."""
        if self.row is None:
            return None
        same = self.tracks["track_id"].to_numpy() == self.tracks["track_id"].iloc[self.row]
        rows = np.flatnonzero(same & (self.frames == frame))
        return int(rows[0]) if len(rows) else None

    def text(self) -> str:
        """Say in one line which object is chosen."""
        if self.row is None:
            return "nothing chosen"
        chosen = self.tracks.iloc[self.row]
        place = ", ".join(f"{v:.2f}" for v in self.at[self.row] * self.spacing_um)
        return f"track {int(chosen['track_id'])}, frame {int(chosen['frame'])}, z, y, x {place} µm"
