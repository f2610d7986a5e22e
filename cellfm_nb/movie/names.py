"""Tell frame and channel from file names: words such as stack0003, t012, frame_7, ch0, CamA, 488nm, in any order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import gcd
from pathlib import Path

from cellfm_nb.errors import InputError

_BEFORE, _AFTER = r"(?<![a-z0-9])", r"(?![a-z0-9])"
CLOCK = re.compile(_BEFORE + r"(\d+)msec(abs)?" + _AFTER, re.I)  # time stamps of lattice light-sheet software
FRAME = re.compile(_BEFORE + r"(?:(stack|frame|timepoint|time|tp|t)[_\- ]?(\d+)|(\d+)(t))" + _AFTER, re.I)
CHANNEL = re.compile(
    _BEFORE + r"(?:(?:channel|ch|c)[_\- ]?\d+|w\d+[a-z]*|cam(?:era)?[_\- ]?(?:[a-z]|\d+)"
    r"|(?:ex|em)?\d{3,4}nm|(?:ex|em)_?\d{3}"
    r"|e?[gryb]fp|cfp|m?cherry|m?scarlet|tdtomato|dapi|hoechst|fitc|tritc|cy[357]|txred|jfx?\d{3}|af\d{3}|alexa\d{3})"
    + _AFTER, re.I)  # fmt: skip

MOST_CHANNELS = 12  # of one frame; more files than this, told apart by c001, c002, ..., are frames misnamed


@dataclass
class Names:
    """Which file holds which frame of which channel."""

    files: list[list[Path]]  # [frame][channel]
    channels: tuple[str, ...]  # one name each, "" where the names tell none
    notes: list[str]
    dt_s: float | None = None  # from time stamps in the names


def read_names(folder: Path, files: list[Path]) -> Names:
    """Order the files of a folder by the frame and channel in their names.

    The frame is a number after stack, frame, time, tp or t (or before a final t); without such a word, the only number
    that differs. Raises InputError: no frame number can be told apart, names that differ in something else, two files
    for one place, a channel that lacks frames, frames that are missing.
    """
    stems = [re.sub(r"(\.ome)?\.tiff?$", "", p.name, flags=re.I) for p in files]
    channels = [_channel(stem) for stem in stems]
    frames, rests, notes = _frames(folder, stems)
    if len(odd := sorted(set(rests), key=_natural)) > 1:
        raise InputError("The names of the files differ in something that is neither frame nor channel.", where=folder,
                         got=", ".join(odd[:6]), expected="names such as cell_ch0_t012.tif: one movie in a folder",
                         do="Put each movie into a folder of its own, or name channels ch0, ch1 and frames t0, t1.")
    order = sorted(set(channels), key=lambda words: _natural(" ".join(words)))
    place: dict[tuple[int, tuple[str, ...]], Path] = {}
    for file, at in zip(files, zip(frames, channels, strict=True), strict=True):
        if at in place:
            raise InputError("Two files claim one place in the movie.", where=folder,
                             got=f"{place[at].name}, {file.name}", expected="one file per frame and channel",
                             do="Move one of them out of the folder.")
        place[at] = file
    numbers = _complete(folder, place, order)
    common = set(order[0]).intersection(*order) if len(order) > 1 else set()
    names = tuple(" ".join(w for w in words if w not in common) for words in order)
    if len(order) > 1:
        notes.append(f"{len(order)} channels told from the file names, in the order {', '.join(names)} (a guess)")
    if numbers[0] not in (0, 1) and len(numbers) > 1:
        notes.append(f"the first frame number in the names is {numbers[0]}")
    table = [[place[frame, channel] for channel in order] for frame in numbers]
    return Names(table, names, notes, _interval([row[0].name for row in table], notes))


def _channel(stem: str) -> tuple[str, ...]:
    return tuple(m[0] for m in CHANNEL.finditer(CLOCK.sub(" ", stem)))


def _frames(folder: Path, stems: list[str]) -> tuple[list[int], list[str], list[str]]:
    """Return the frame number of each name, what is left of each name without frame and channel, and notes."""
    bare = [CHANNEL.sub(" ", CLOCK.sub(" ", stem)) for stem in stems]
    found = [{(m[1] or m[4]).lower(): int(m[2] or m[3]) for m in FRAME.finditer(stem)} for stem in bare]
    differing = [w for w in found[0] if all(w in f for f in found) and len({f[w] for f in found}) > 1]
    if differing:
        frames = [f[differing[0]] for f in found]
        again = {w for w in differing if [f[w] for f in found] == frames}  # stack0003 and 0003t say the same

        def left(match: re.Match[str]) -> str:
            return " " if (match[1] or match[4]).lower() in again else match[0]

        return frames, [_tidy(FRAME.sub(left, stem)) for stem in bare], []
    numbers = [re.findall(r"\d+", stem) for stem in bare]
    rests = [_tidy(re.sub(r"\d+", "#", stem)) for stem in bare]
    if len(set(rests)) == 1:
        columns = [i for i, column in enumerate(zip(*numbers, strict=True)) if len(set(column)) > 1]
        if len(columns) == 1:
            example = f"{numbers[0][columns[0]]} in {stems[0]}"
            return [int(n[columns[0]]) for n in numbers], rests, [f"the number that differs in the names is the frame "
                                                                  f"({example}; a guess)"]
        if not columns and len(stems) <= MOST_CHANNELS:  # one file, or the channels of one frame
            return [0] * len(stems), rests, []
    raise InputError("No frame number can be told apart in the names of these files.", where=folder,
                     got=", ".join(stems[:4]) + (", ..." if len(stems) > 4 else ""),
                     expected="names such as cell_t012.tif, stack0003.tif or frame_7.tif",
                     do="Rename them so that the frame number follows t, frame or stack.")


def _complete(folder: Path, place: dict[tuple[int, tuple[str, ...]], Path], order: list[tuple[str, ...]]) -> list[int]:
    """Return the frame numbers in order; raise InputError when one is missing, in all channels or in one."""
    numbers = sorted({frame for frame, _ in place})
    step = gcd(*(b - a for a, b in zip(numbers, numbers[1:], strict=False))) or 1
    gaps = [f"frame {a + step}" if b - a == 2 * step else f"frames {a + step} to {b - step}"
            for a, b in zip(numbers, numbers[1:], strict=False) if b - a > step]
    lacking = [f"{' '.join(channel) or 'one channel'}: frame {frame}" for channel in order for frame in numbers
               if (frame, channel) not in place]
    if gaps or lacking:
        missing = gaps + lacking
        raise InputError("A channel lacks frames." if lacking else "Frames are missing.", where=folder,
                         got=f"{len(place)} files; missing: " + "; ".join(missing[:8])
                             + ("; ..." if len(missing) > 8 else ""),
                         expected=f"every frame from {numbers[0]} to {numbers[-1]}"
                                  + (f" in each of {len(order)} channels" if len(order) > 1 else ""),
                         do="Copy the missing files, or keep one unbroken part of the movie.")  # fmt: skip
    return numbers


def _interval(names: list[str], notes: list[str]) -> float | None:
    """Return the interval in s that time stamps in the names (0000006msec) tell, the median of the differences."""
    stamps = [int(m[1]) for name in names for m in CLOCK.finditer(name) if not m[2]]
    steps = sorted(b - a for a, b in zip(stamps, stamps[1:], strict=False))
    if len(stamps) != len(names) or not steps or steps[0] <= 0:
        return None
    notes.append(f"frame interval from the time stamps in the names: {steps[0] / 1e3:g} to {steps[-1] / 1e3:g} s")
    return steps[len(steps) // 2] / 1e3


def _tidy(text: str) -> str:
    """Return the words of a name in one order, so that names whose words are shuffled compare equal."""
    return " ".join(sorted(w for w in re.split(r"[_\-. ]+", text.lower()) if w))


def _natural(text: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", text) if part]
