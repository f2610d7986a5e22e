"""Stage-scan geometry: where a tilted sheet, moved through a field, puts every point of it in the raw stack."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cellfm_nb.simulate.config import SceneConfig


@dataclass(frozen=True)
class Scan:
    """Map the field of a scene, "lab" voxels (z, y, x), to the raw stack of a stage scan, and back.

    Sheets lie in planes of the field, one for each z; between two the stage moves step_um at angle_deg to the sheet:
    step * sin(angle) across it, the field's z spacing, and step * cos(angle) along x. So the camera sees plane z at
    raw x = lab x - shift_px * z + first_px, and the raw stack is wide enough to hold all of the field.
    Deskewing (shear by +shift_px a plane, canvas from its leftmost column on) puts lab x at |shift_px| (nz - 1) + x.
    """

    shape: tuple[int, int, int]  # of the field, voxels
    spacing_um: tuple[float, float, float]
    angle_deg: float
    direction: int = 1

    @classmethod
    def of(cls, config: SceneConfig) -> Scan | None:
        """Return the scan a scene asks for, or None."""
        if config.scan_angle_deg is None:
            return None
        return cls(config.shape[1:], config.spacing_um, config.scan_angle_deg, config.scan_direction)

    @property
    def step_um(self) -> float:
        """Stage step between two planes, um."""
        return self.spacing_um[0] / math.sin(math.radians(self.angle_deg))

    @property
    def shift_px(self) -> float:
        """Shift along x from one plane to the next, voxels: cos(angle) * step / pixel."""
        return self.direction * math.cos(math.radians(self.angle_deg)) * self.step_um / self.spacing_um[2]

    @property
    def first_px(self) -> float:
        """Raw x of the field's first column in plane 0."""
        return max(0.0, self.shift_px * (self.shape[0] - 1))

    @property
    def raw_shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the raw stack."""
        nz, ny, nx = self.shape
        return nz, ny, nx + math.ceil(abs(self.shift_px) * (nz - 1) - 1e-9)  # cos(90 degrees) is not quite 0

    @property
    def raw_spacing_um(self) -> tuple[float, float, float]:
        """(step, pixel, pixel) in um."""
        return self.step_um, *self.spacing_um[1:]

    @property
    def matrix(self) -> list[list[float]]:
        """3 x 3: lab voxel = matrix @ raw voxel + offset."""
        return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [self.shift_px, 0.0, 1.0]]

    @property
    def offset(self) -> list[float]:
        """3: see `matrix`."""
        return [0.0, 0.0, -self.first_px]

    def record(self) -> dict[str, object]:
        """Return what a reader of scene.json needs to bring raw voxels to the truth, or the truth to them."""
        return {"angle_deg": self.angle_deg, "direction": self.direction, "step_um": self.step_um,
                "pixel_um": self.spacing_um[2], "shift_px": self.shift_px, "raw_shape": list(self.raw_shape),
                "lab_voxel": "matrix @ raw_voxel + offset", "matrix": self.matrix, "offset": self.offset,
                "deskewed_x": f"lab x + {abs(self.shift_px) * (self.shape[0] - 1):.6g}"}
