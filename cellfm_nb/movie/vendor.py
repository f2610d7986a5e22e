"""Read CZI (Zeiss) and ND2 (Nikon) lazily, with the packages pylibCZIrw and nd2 of the optional extra `vendor`."""

from __future__ import annotations

import importlib
import statistics
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np

from cellfm_nb.errors import InputError
from cellfm_nb.movie.axes import ORDER
from cellfm_nb.movie.source import RAW_SCAN, Planes, Source

CZI_TYPES = {"Gray8": np.uint8, "Gray16": np.uint16, "Gray32Float": np.float32}


def read_nd2(path: Path) -> Source:
    """Open an ND2 file, the first position of several.

    Raises InputError: the package nd2 is absent; a damaged file, a colour image, axes unknown here, planes lost.
    """
    with _said_plainly(path, "ND2"), ExitStack() as undo:
        undo.callback((file := _package("nd2", path).ND2File(path)).close)
        sizes, dtype = dict(file.sizes), np.dtype(file.dtype)
        loops = [axis for axis in sizes if axis not in "CYXS"]  # the order in which planes were taken
        if unknown := sorted(set(loops) - set("TPZ")):
            raise InputError("This ND2 has axes that are not those of a movie.", where=path, got=str(sizes),
                             expected="T, P, Z, C, Y, X", do=f"Split it along {', '.join(unknown)} in NIS-Elements.")
        if file.is_rgb:
            raise _colour(path, str(sizes))
        if (there := file.attributes.sequenceCount) < (promised := prod(sizes[axis] for axis in loops)):
            raise InputError("Planes of this ND2 are missing.", where=path, got=f"{there} of {promised}",
                             expected="a complete file", do="Copy it again, or export the complete frames.")
        channels = file.metadata.channels or []
        source = Source(None, ORDER, "ND2", channel_names=tuple(c.channel.name for c in channels))
        if channels:
            volume = channels[0].volume  # x, y, z; an axis that was not calibrated reads 1.0
            source.spacing_um = {axis: size for axis, size, known in zip(
                "xyz", volume.axesCalibration, volume.axesCalibrated, strict=True) if known}
        for loop in file.experiment:
            if loop.type == "TimeLoop":
                per = loop.parameters.periodMs or getattr(loop.parameters.periodDiff, "avg", 0)
                source.dt_s = per / 1000 if per else None
        undo.pop_all()  # from here on the file stays open, as long as its planes are in use
    if sizes.get("P", 1) > 1:
        source.notes.append(f"the file holds {sizes['P']} positions; the first is used")

    def plane(t: int, c: int, z: int) -> np.ndarray:
        at = {"T": t, "Z": z, "P": 0}
        number = 0
        for axis in loops:
            number = number * sizes[axis] + at[axis]
        frame = file.read_frame(number)
        return frame[c] if "C" in sizes else frame

    shape = tuple(sizes.get(axis, 1) for axis in ORDER.upper())
    source.data = Planes(shape, dtype, plane)
    weakref.finalize(source.data, file.close)
    return source


def read_czi(path: Path) -> Source:
    """Open a CZI file, the first scene of several.

    Raises InputError: the package pylibCZIrw is absent; a damaged file, a colour image, other axes, planes lost.
    """
    with _said_plainly(path, "CZI"):
        file = _package("pylibCZIrw.czi", path).CziReader(str(path))
        box, scenes = file.total_bounding_box, file.scenes_bounding_rectangle
        source = _czi_says(file.raw_metadata)
        kinds = sorted(set(file.pixel_types.values()))
        scene = min(scenes) if scenes else None
        planes = _czi_planes(file, scene)
    if len(kinds) != 1 or kinds[0] not in CZI_TYPES:
        raise _colour(path, ", ".join(kinds))
    if extra := {axis: size for axis, (_, size) in box.items() if axis not in "TCZYXSM" and size > 1}:
        raise InputError("This CZI has axes that are not those of a movie.", where=path, got=str(extra),
                         expected="T, C, Z, Y, X, and scenes", do="Split it along them in ZEN (Create Image Subset).")
    first = {axis: box.get(axis, (0, 1))[0] for axis in "TCZ"}
    t, c, z = (box.get(axis, (0, 1))[1] for axis in "TCZ")
    if len(scenes) > 1:
        source.notes.append(f"the file holds {len(scenes)} scenes; the first is used")
    area = scenes[scene] if scenes else file.total_bounding_rectangle
    lost = [at for at in np.ndindex(t, c, z) if tuple(map(int.__add__, at, first.values())) not in planes]
    if lost:
        raise InputError("Planes of this CZI are missing.", where=path, expected=f"{t * c * z} planes (t, c, z)",
                         got=f"{len(lost)} missing: {', '.join(map(str, lost[:6]))}" + ", ..." * (len(lost) > 6),
                         do="Copy it again, or export the complete frames in ZEN (Create Image Subset).")

    def plane(t: int, c: int, z: int) -> np.ndarray:
        at = {"T": t + first["T"], "C": c + first["C"], "Z": z + first["Z"]}
        return file.read(plane=at, scene=scene, roi=tuple(area))[..., 0]

    source.data = Planes((t, c, z, area.h, area.w), CZI_TYPES[kinds[0]], plane)
    return source


def _czi_planes(file: object, scene: int | None) -> set[tuple[int, int, int]]:
    """Return the (t, c, z) of which a scene holds pixels; libCZI reads a plane that is not there as black."""
    planes = set()

    def note(_: int, block: object) -> bool:
        at = block.coordinate.to_dict()
        if at.get("S", scene) == scene:
            planes.add(tuple(at.get(axis, 0) for axis in "TCZ"))
        return True

    file.enumerate_subblocks(note)
    return planes


def _czi_says(xml: str) -> Source:
    """Return what the metadata of a CZI says: spacing (in metre there), interval, channels, a sheared stage scan."""
    root = ElementTree.fromstring(xml)
    source = Source(None, ORDER, "CZI")
    for distance in root.iterfind(".//Scaling/Items/Distance"):
        axis, metres = (distance.get("Id") or "").lower(), float(distance.findtext("Value") or 0)
        if axis in "xyz" and metres:
            source.spacing_um[axis] = round(metres * 1e6, 9)  # 3e-07 m is 0.3 um, not 0.29999999999999999
    about = ".//Information/Image/Dimensions/"
    if step := root.findtext(about + "T/Positions/Interval/Increment"):
        source.dt_s = float(step) or None
    elif len(times := [float(s) for s in (root.findtext(about + "T/Positions/List/Offsets") or "").split()]) > 1:
        source.dt_s = statistics.median(b - a for a, b in zip(times, times[1:], strict=False)) or None
    source.channel_names = tuple(c.get("Name") or "" for c in root.iterfind(about + "Channels/Channel"))
    if (shear := root.findtext(about + "Z/ZAxisShear") or "None") != "None":
        source.notes.append(f"{RAW_SCAN} ({shear}): z is the step of the stage; deskew it before use")
    return source


def _package(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"The package that reads this file is not installed: {name.split('.')[0]}.", where=path,
                         got="no such package", expected="the optional extra `vendor`",
                         do="pip install 'cellfm_nb[vendor]', or export the file as OME-TIFF.") from None


def _colour(path: Path, got: str) -> InputError:
    return InputError("This is a colour image, or its channels differ in kind.", where=path, got=got,
                      expected="one grey value per voxel, the same kind in each channel",
                      do="Split the channels in the microscope's software and export one of them.")


@contextmanager
def _said_plainly(path: Path, kind: str) -> Iterator[None]:
    """Turn what a vendor's library raises on a damaged file, of any type, into one InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"This file can't be read as {kind}.", where=path, got=str(error).split("\n")[0][:200],
                         expected=f"a complete {kind} file", do="Copy it again and compare the sizes.") from None
