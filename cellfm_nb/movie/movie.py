"""Movie: a lazy (t, c, z, y, x) image with its voxel spacing and frame interval, read from and written to files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellfm_nb.errors import InputError
from cellfm_nb.movie import formats
from cellfm_nb.movie.axes import ORDER, canonical, check
from cellfm_nb.movie.frames import LazyFrame
from cellfm_nb.movie.source import DESKEWED, RAW_SCAN, Source
from cellfm_nb.movie.spacing import by, parse_dt, parse_frames, parse_spacing
from cellfm_nb.movie.writing import parse_channel_names, write_frames
from cellfm_nb.progress import track

PathLike = str | Path
UNNAMED = ("", "/", "array")  # names that programs give an image that nobody named


class Movie:
    """A movie of volumes that is not loaded.

    Attributes: data, array-like (t, c, z, y, x), slices of it are numpy arrays; spacing_um (z, y, x); dt_s, None when
    unknown; channel_names; shape, dtype (native byte order); name; source, where it was read; spacing_source,
    dt_source, channel_source and axes_source, who says so ("file: OME-XML", "given", "default", "guessed"); notes,
    what a careful reader should know. Make one with `open` or `from_array`.
    """

    def __init__(self, data: Any, spacing_um: tuple[float, float, float], dt_s: float | None, name: str,
                 source: str = "memory", spacing_source: str = "given", dt_source: str = "given",
                 notes: Sequence[str] = (), channel_names: Sequence[str] = (), channel_source: str = "default",
                 axes_source: str = "given") -> None:
        self.data, self.spacing_um, self.dt_s, self.name, self.source = data, spacing_um, dt_s, name, source
        self.spacing_source, self.dt_source = spacing_source, dt_source if dt_s is not None else "unknown"
        self.channel_source, self.axes_source, self.notes = channel_source, axes_source, tuple(notes)
        self.shape: tuple[int, ...] = tuple(data.shape)
        self.dtype = np.dtype(data.dtype).newbyteorder("=")
        self.channel_names = tuple(channel_names) or tuple(f"channel {c}" for c in range(self.shape[1]))

    @classmethod
    def open(cls, path: PathLike, spacing_um: str | Sequence[float] | None = None, dt_s: float | None = None,
             axes: str | None = None, channel_names: Sequence[str] | None = None) -> Movie:
        """Open a TIFF, ImageJ TIFF, OME-TIFF, OME-Zarr 0.4 or 0.5, CZI, ND2, or a folder of stacks, without loading it.

        Parameters: path; spacing_um (z, y, x), dt_s and channel_names override what the file states; axes names the
        axes of a TIFF that does not name them ("tzyx"). CZI and ND2 need the optional extra `vendor`.
        Raises InputError saying what is wrong with the file and what to do.
        """
        path = Path(path)
        given = None if spacing_um is None else parse_spacing(spacing_um, where=path)
        source = formats.read(path, axes)
        check(path, source.data.shape, source.axes, source.data.dtype)
        stated = tuple(source.spacing_um.get(a) for a in "zyx")
        if given is None:
            given, said_by = _stated_spacing(path, source), f"file: {source.says}"
        else:
            said_by = "given"
            if any(stated) and not np.allclose(given, [s or np.nan for s in stated], rtol=1e-6):
                source.notes.append(f"the spacing given, {by(given)} um, overrides the file's, {by(stated)} um")
        dt_said_by = f"file: {source.dt_says or source.says}" if dt_s is None else "given"
        dt_s = source.dt_s or None if dt_s is None else dt_s  # an interval of 0 in a file says that it is not known
        data = canonical(source.data, source.axes)
        names, names_said_by = _channel_names(path, source, data.shape[1], channel_names)
        name = path.name.split(".")[0] if source.name in UNNAMED else source.name
        return cls(data, given, None if dt_s is None else parse_dt(dt_s, where=path), name, path.name, said_by,
                   dt_said_by, source.notes, names, names_said_by, source.axes_source)

    @classmethod
    def from_array(cls, array: Any, axes: str = "tzyx", *, spacing_um: str | Sequence[float],
                   dt_s: float | None = None, name: str = "array", channel_names: Sequence[str] | None = None) -> Movie:
        """Wrap an array (numpy, zarr, ...) whose axes are letters of "tczyx", in any order, z, y and x among them."""
        if len(axes) != len(array.shape) or len(set(axes)) != len(axes) or not set("zyx") <= set(axes) <= set(ORDER):
            raise InputError("The axes do not fit the array.", where=name, got=f"{axes!r}, shape {array.shape}",
                             expected="one letter of tczyx per dimension, z, y and x among them",
                             do='Name them in the order of the array, such as axes="tzyx".')
        interval = None if dt_s is None else parse_dt(dt_s, name)
        data = canonical(array, axes)
        names = parse_channel_names(channel_names, data.shape[1], name) if channel_names else ()
        return cls(data, parse_spacing(spacing_um, name), interval, name, channel_names=names,
                   channel_source="given" if names else "default")

    @property
    def n_frames(self) -> int:
        """Number of time points."""
        return self.shape[0]

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return self.shape[1]

    @property
    def raw_scan(self) -> bool:
        """Whether the file says that its planes lie along the stage, and not that they were deskewed since."""
        said = [note for note in self.notes if note.startswith((RAW_SCAN, DESKEWED))]
        return bool(said) and said[-1].startswith(RAW_SCAN)

    def frame(self, t: int, c: int = 0) -> np.ndarray:
        """Load one volume: (z, y, x), the movie's dtype in native byte order, yours to change.

        Raises InputError on a number that is none of the movie's, and where the file is damaged.
        """
        for index, n, axis in ((t, self.n_frames, "frame"), (c, self.n_channels, "channel")):
            if not -n <= index < n:
                raise InputError(f"There is no such {axis}.", where=self.name, got=index, expected=f"0 to {n - 1}",
                                 do=f"Choose a {axis} of the movie.")
        try:
            volume = np.asarray(self.data[t % self.n_frames, c % self.n_channels])
        except InputError:
            raise
        except Exception as error:  # the file is damaged there: a codec raises what it likes
            raise InputError("A frame can't be read.", where=f"{self.source}, frame {t}", expected="readable data",
                             got=f"{type(error).__name__}: {error}", do="Copy or export the file again.") from error
        return volume.astype(self.dtype, copy=isinstance(self.data, np.ndarray))

    def frames(self) -> Iterator[np.ndarray]:
        """Load one time point after the other: (c, z, y, x)."""
        for t in range(self.n_frames):
            yield np.asarray(self._lazy_frame(t))

    def checked_frames(self, times: Sequence[int] | None = None) -> Iterator[LazyFrame]:
        """Give one time point after the other, (c, z, y, x), read and checked slab by slab as it is sliced.

        times: their numbers, None for all. Raises InputError on unreadable, NaN and infinite data, and when every frame
        was constant.
        """
        constant, frame = True, None
        for t in range(self.n_frames) if times is None else times:
            frame = self._lazy_frame(t, check=True)
            yield frame
            constant = constant and frame.low == frame.high
        if constant and frame is not None:
            raise InputError("The movie is constant: nothing was imaged.", where=self.source,
                             got=f"one value per frame, {frame.low} in the last", expected="voxels that differ",
                             do="Check the channel, the shutter and the export.")

    def save(self, path: PathLike, check: bool = False, version: str = "0.5", imagej: bool = False) -> None:
        """Write to .ome.zarr (OME-Zarr) or .ome.tif (OME-TIFF), slab by slab, whole or not at all.

        Parameters: path; check, refuse NaN, infinite and constant data on the way; version of OME-Zarr, "0.5" (zarr
        v3) or "0.4" (zarr v2, for older readers); imagej, write a .tif as ImageJ's own hyperstack.
        """
        frames = self.checked_frames() if check else map(self._lazy_frame, range(self.n_frames))
        write_frames(path, frames, self.shape, self.dtype, self.spacing_um, self.dt_s, self.name, notes=self.notes,
                     channel_names=self.stated_channels, version=version, imagej=imagej)

    def _lazy_frame(self, t: int, check: bool = False) -> LazyFrame:
        return LazyFrame(self.data, t, self.source, check)

    @property
    def stated_channels(self) -> tuple[str, ...] | None:
        """Names somebody stated: the default ones are not written, or they would come back as the file's."""
        return None if self.channel_source == "default" else self.channel_names

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of all voxels, the spacing and the interval (reads the movie once)."""
        state = hashlib.sha256(f"{self.shape}|{self.dtype}|{self.spacing_um}|{self.dt_s}".encode())
        for frame in self.frames():
            state.update(np.ascontiguousarray(frame))
        return state.hexdigest()

    def __repr__(self) -> str:
        t, c, *zyx = self.shape
        time = f"{self.dt_s:g} s between frames ({self.dt_source})" if self.dt_s else "frame interval unknown"
        lines = [f"Movie {self.name}: {t} frame{'s' * (t != 1)}, {c} channel{'s' * (c != 1)}, "
                 f"{by(zyx)} voxels (z, y, x), {self.dtype}",
                 f"  spacing {by(self.spacing_um)} um (z, y, x; {self.spacing_source}); {time}"]
        if c > 1 or self.channel_source != "default":
            lines.append(f"  channels: {', '.join(self.channel_names)} ({self.channel_source})")
        if self.axes_source not in ("file", "given"):
            lines.append(f"  axes: {self.axes_source}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def import_movie(out_path: PathLike, path: PathLike, spacing_um: str | Sequence[float] | None = None,
                 dt_s: float | None = None, axes: str | None = None, channel_names: Sequence[str] | None = None,
                 version: str = "0.5", frames: str | None = None) -> None:
    """Open a user's movie (see `Movie.open`), check every voxel, and write it to out_path as OME-Zarr.

    frames: which to take, see `parse_frames`; with a step the interval between frames grows as much.
    """
    movie = Movie.open(path, spacing_um, dt_s, axes, channel_names)
    origin = f"imported from {movie.source}; spacing {movie.spacing_source}, interval {movie.dt_source}, " \
             f"axes {movie.axes_source}, channel names {movie.channel_source}"
    times = parse_frames(frames, movie.n_frames, movie.source)
    if frames is not None:
        origin += f"; frames {times[0]} to {times[-1]}" + f", every {times.step}." * (times.step > 1)
    dt_s = None if movie.dt_s is None else movie.dt_s * times.step
    volumes = track(movie.checked_frames(times), "import", total=len(times))
    write_frames(out_path, volumes, (len(times), *movie.shape[1:]), movie.dtype, movie.spacing_um, dt_s, movie.name,
                 notes=[origin, *movie.notes], channel_names=movie.stated_channels, version=version)


def _stated_spacing(path: Path, source: Source) -> tuple[float, float, float]:
    """Return the spacing the file states; raise InputError when an axis is not stated or not positive."""
    missing = [a for a in "zyx" if a not in source.spacing_um]
    if missing:
        stated = ", ".join(f"{a} {v:g} um" for a, v in source.spacing_um.items())
        raise InputError("The voxel spacing is not in the file.", where=path,
                         got=f"{source.says}: " + (f"{stated}; nothing for {', '.join(missing)}" if stated else "none"),
                         expected="the distance between voxels in z, y and x, in micrometre",
                         do="Give it: --spacing 0.25,0.1,0.1 (z,y,x), or spacing_um=(0.25, 0.1, 0.1) in Python.")
    return parse_spacing([source.spacing_um[a] for a in "zyx"], where=f"{path} ({source.says})")


def _channel_names(path: Path, source: Source, n: int, given: Sequence[str] | None) -> tuple[tuple[str, ...], str]:
    """Return the names of n channels, empty when nobody says them, and who says so."""
    if given:
        return parse_channel_names(given, n, path), "given"
    names = source.channel_names
    if len(names) == n and all(names) and len(set(names)) == n:
        return names, f"file: {source.channel_says or source.says}"
    if any(names):
        source.notes.append(f"the file's channel names ({', '.join(names)}) do not fit its {n} channels: not used")
    return (), "default"
