"""What a simulated scene is made of: every number, with its unit, checked before anything is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cellfm_nb.errors import InputError
from cellfm_nb.movie.spacing import parse_spacing


@dataclass(frozen=True)
class SceneConfig:
    """Describe a movie of puncta in one cell; the defaults are the tiny movie of the notebooks.

    Light: snr = (median peak of the puncta above background in frame 0) / sqrt(background + read_noise^2), in
    photoelectrons; background_photons None takes the camera's. Rates are per punctum and second; what is 0 or None
    is off, and switching it on leaves the random numbers of everything else as they were.
    """

    shape: tuple[int, int, int, int] = (20, 40, 144, 144)  # frames, z, y, x
    spacing_um: tuple[float, float, float] = (0.25, 0.1, 0.1)
    dt_s: float = 2.0
    n_puncta: int = 56  # at the start
    density_per_um3: float | None = None  # of the cytoplasm; when given it decides n_puncta
    snr: float = 4.0
    # "cell": a body with a nucleus; "box": the whole field; "open": a cell's light, puncta in the whole field
    envelope: str = "cell"
    # motion
    diffusion_um2_s: float = 0.005
    directed_share: float = 0.25  # of the puncta, at any time
    speed_um_s: float = 0.15
    run_s: float = 8.0  # mean length of a directed run
    confined_share: float = 0.0  # of the puncta, for life; these make no directed runs
    confinement: str = "harmonic"  # a spring, or "walls": a ball that a punctum does not leave
    confinement_um: float = 0.15  # sd along each axis in the spring, or radius of the ball
    drift_um_s: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of stage or sample, z y x: everything moves, truth too
    # events
    split_rate_s: float = 0.005
    merge_rate_s: float = 0.004  # of setting out to meet the nearest; some do not arrive
    contact_um: float = 0.35  # two that are meant to meet fuse at this distance
    separation_um_s: float = 0.12  # speed of children leaving each other, and of partners approaching
    appear_rate_s: float = 0.0  # new puncta per second, for each one of the first frame
    vanish_rate_s: float = 0.0
    # light
    bleach_s: float = 120.0
    blink_probability: float = 0.03  # of going dark, per frame
    blink_frames: int = 3  # longest dark time
    brightness_spread: float = 0.35  # sd of log brightness
    radius_um: tuple[float, float] = (0.0, 0.12)  # range of the sigma of a punctum's body
    background_photons: float | None = None  # median in the cell
    gradient: float = 0.35  # relative change of the background across the field
    outside: float = 0.12  # background outside the cell, relative to the cytoplasm
    texture: float = 0.15  # sd of the cytoplasm's unevenness over about 1 um, relative to its light
    edge_um: float = 0.0  # sd by which the borders of cell and nucleus are softer than the optics make them, y and x
    # how it is taken
    scan_angle_deg: float | None = None  # between sheet and stage; given, frames are raw, skewed stacks (see `Scan`)
    scan_direction: int = 1  # of the stage, +1 or -1

    def __post_init__(self) -> None:
        shape = tuple(self.shape)
        if len(shape) != 4 or not all(float(n).is_integer() and n >= 1 for n in shape):
            raise _bad("shape", self.shape, "four whole numbers >= 1: frames, z, y, x")
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "spacing_um", parse_spacing(self.spacing_um, "SceneConfig.spacing_um"))
        object.__setattr__(self, "radius_um", tuple(float(r) for r in self.radius_um))
        object.__setattr__(self, "drift_um_s", tuple(float(v) for v in self.drift_um_s))
        for name in ("dt_s", "snr", "bleach_s", "run_s", "confinement_um"):
            if not getattr(self, name) > 0:
                raise _bad(name, getattr(self, name), "a number > 0")
        for name in ("diffusion_um2_s", "speed_um_s", "split_rate_s", "merge_rate_s", "contact_um", "separation_um_s",
                     "brightness_spread", "appear_rate_s", "vanish_rate_s", "outside", "texture", "edge_um"):
            if not (0 <= getattr(self, name) < math.inf):
                raise _bad(name, getattr(self, name), "a finite number >= 0")
        for name in ("directed_share", "blink_probability", "gradient"):
            if not 0 <= getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "a number from 0 to below 1")
        if not 0 <= self.confined_share <= 1:
            raise _bad("confined_share", self.confined_share, "a number from 0 to 1")
        if len(self.drift_um_s) != 3 or not all(map(math.isfinite, self.drift_um_s)):
            raise _bad("drift_um_s", self.drift_um_s, "three finite numbers: z, y, x")
        if self.scan_angle_deg is not None and not 0 < self.scan_angle_deg <= 90:
            raise _bad("scan_angle_deg", self.scan_angle_deg, "None, or an angle above 0, up to 90 degrees")
        if not (self.n_puncta >= 1 and self.blink_frames >= 1):
            raise _bad("n_puncta, blink_frames", (self.n_puncta, self.blink_frames), "whole numbers >= 1")
        for name in ("density_per_um3", "background_photons"):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise _bad(name, value, "None, or a finite number >= 0")
        if not (len(self.radius_um) == 2 and 0 <= self.radius_um[0] <= self.radius_um[1] <= 0.5):
            raise _bad("radius_um", self.radius_um, "two numbers, 0 <= smallest <= largest <= 0.5")
        for name, known in (("envelope", ("cell", "box", "open")), ("confinement", ("harmonic", "walls")),
                            ("scan_direction", (1, -1))):
            if getattr(self, name) not in known:
                raise _bad(name, getattr(self, name), "one of " + ", ".join(map(str, known)))

    @classmethod
    def from_sizes(cls, sizes: Any, **more: Any) -> SceneConfig:
        """Make a scene from a profile's movie settings (n_frames, shape, spacing_um, dt_s, n_puncta, snr)."""
        return cls(shape=(sizes.n_frames, *sizes.shape), spacing_um=parse_spacing(sizes.spacing_um), dt_s=sizes.dt_s,
                   n_puncta=sizes.n_puncta, snr=sizes.snr, **more)

    @property
    def size_um(self) -> tuple[float, float, float]:
        """The field (z, y, x) in um."""
        return tuple(n * s for n, s in zip(self.shape[1:], self.spacing_um, strict=True))


def _bad(name: str, got: object, expected: str) -> InputError:
    return InputError("Bad scene.", where=f"SceneConfig.{name}", got=got, expected=expected, do="Correct the number.")
