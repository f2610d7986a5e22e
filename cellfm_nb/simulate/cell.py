"""The room puncta move in: a cell body with a nucleus (or a plain box), with walls that reflect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng

MARGIN_UM = (0.75, 0.5, 0.5)  # between the cell and the faces of the field: about four PSF sigma, two in z
WOBBLE = 0.05  # relative height of each of the waves that make the outline uneven


@dataclass(frozen=True)
class Cell:
    """Hold the shape: centre and semi-axes in um, the phases of its uneven outline, and its nucleus.

    envelope "box" keeps only the box, whose faces lie MARGIN_UM inside the field; "open" has the cell's light, and
    walls half as far from the faces of the field.
    """

    size_um: np.ndarray
    envelope: str
    phases: np.ndarray
    seed: int

    @classmethod
    def make(cls, size_um: tuple[float, float, float], envelope: str = "cell", seed: int = 0) -> Cell:
        """Make the cell that fills a field of size_um (z, y, x). Raises InputError when the field is too small."""
        size = np.asarray(size_um, float)
        if np.any(size < 4 * np.asarray(MARGIN_UM)):
            raise InputError("The field is too small for a cell.", got=f"{tuple(np.round(size, 2).tolist())} um",
                             expected=f"at least {tuple(4 * m for m in MARGIN_UM)} um (z, y, x)",
                             do="Give more voxels, or a coarser spacing.")
        return cls(size, envelope, rng(seed, "simulate", "cell").uniform(0, 2 * np.pi, 3), seed)

    @property
    def centre_um(self) -> np.ndarray:
        """(3,) the middle of the field, in um from the centre of voxel 0's outer face."""
        return self.size_um / 2

    @property
    def box_um(self) -> np.ndarray:
        """(3,) half the edges of the box that no punctum leaves."""
        return self.size_um / 2 - np.asarray(MARGIN_UM) / (2 if self.envelope == "open" else 1)

    def depth_um(self, points_um: np.ndarray) -> np.ndarray:
        """Return about how far inside the walls points (n, 3) lie, in um; negative outside."""
        away = points_um - self.centre_um  # (n, 3)
        room = self.size_um / 2 - MARGIN_UM
        depth = (self.box_um - np.abs(away)).min(-1)
        if self.envelope == "cell":
            depth = np.minimum(depth, -_level(away, room / (1 + 2 * WOBBLE), self.phases, WOBBLE))
            depth = np.minimum(depth, _level(away - self.nucleus_um, 0.45 * room, self.phases, 0))
        return depth

    @property
    def nucleus_um(self) -> np.ndarray:
        """(3,) where the nucleus lies, from the centre."""
        return 0.12 * self.size_um * np.array([0.3, np.cos(self.phases[0]), np.sin(self.phases[0])])

    def inward(self, points_um: np.ndarray) -> np.ndarray:
        """Return the unit directions (n, 3) in which the depth grows."""
        step = 1e-4 * np.eye(3)
        slope = np.stack([self.depth_um(points_um + e) - self.depth_um(points_um - e) for e in step], -1)
        return slope / np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-12)

    def reflect(self, old_um: np.ndarray, new_um: np.ndarray) -> np.ndarray:
        """Mirror steps that leave the cell at its wall.

        Parameters: old_um (n, 3), inside; new_um (n, 3), where the steps would end.
        Returns: (n, 3), all inside. A step that four mirrorings do not bring back is not made: refusing it keeps a
        uniform distribution uniform, as mirroring does. Nothing ever comes in again on the other side of the field.
        """
        new = np.array(new_um, float)
        for _ in range(4):
            depth = self.depth_um(new)
            out = depth < 0
            if not out.any():
                return new
            new[out] += (2 * np.abs(depth[out]))[:, None] * self.inward(new[out])
        return np.where((self.depth_um(new) < 0)[:, None], old_um, new)

    def sample(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """Draw n points (n, 3), uniform in the cell, in um."""
        points = np.empty((0, 3))
        while len(points) < n:
            tried = generator.uniform(0, 1, (2 * n + 64, 3)) * self.size_um
            points = np.concatenate([points, tried[self.depth_um(tried) > 0]])
        return points[:n]

    def volume_um3(self) -> float:
        """Return the volume open to puncta, by counting on a grid."""
        axes = [np.linspace(0, s, 48, endpoint=False) + s / 96 for s in self.size_um]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        return float((self.depth_um(grid) > 0).mean() * np.prod(self.size_um))

    def background(self, shape: tuple[int, int, int], spacing_um: tuple[float, float, float],
                   sigma_um: tuple[float, float, float], gradient: float, outside: float = 0.12,
                   texture: float = 0.15, edge_um: float = 0.0) -> np.ndarray:
        """Draw the diffuse light, median 1 where puncta can be: cytoplasm, a dimmer nucleus, less light outside.

        Parameters: shape (z, y, x), spacing_um; sigma_um of the PSF that blurs the edges; gradient, relative change
        across the field; outside, light there relative to the cytoplasm; texture and edge_um, see `SceneConfig`.
        Returns: (z, y, x) float32.
        """
        light, inside = np.empty(shape, np.float32), np.empty(shape, bool)
        grid = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape[1:], spacing_um[1:], strict=True)],
                                    indexing="ij"), -1).reshape(-1, 2)
        room = self.size_um / 2 - MARGIN_UM
        for z in range(shape[0]):  # plane by plane: the coordinates of a whole volume would be 24 times its size
            points = np.column_stack([np.full(len(grid), (z + 0.5) * spacing_um[0]), grid])
            away = points - self.centre_um
            held, shine = (np.abs(away) < self.box_um).all(-1), np.ones(len(points), np.float32)
            if self.envelope != "box":
                body = _level(away, room / (1 + 2 * WOBBLE), self.phases, WOBBLE) < 0
                nucleus = _level(away - self.nucleus_um, 0.45 * room, self.phases, 0) < 0
                shine = np.where(nucleus, max(0.5, outside), np.where(body, 1.0, outside))
                held &= (body & ~nucleus) | (self.envelope == "open")
            light[z], inside[z] = shine.reshape(shape[1:]), held.reshape(shape[1:])
        soft = (0.0, edge_um, edge_um)
        blur = [np.hypot(2 * s, e) / h for s, e, h in zip(sigma_um, soft, spacing_um, strict=True)]
        light = ndimage.gaussian_filter(light, blur, mode="nearest")
        coarse = rng(self.seed, "simulate", "texture").standard_normal([max(2, round(s / 1.2)) for s in self.size_um])
        cloud = coarse
        for n in shape:  # axis by axis, each time the first: a cubic spline is a small matrix
            m = len(cloud)
            spline = ndimage.zoom(np.eye(m), (n / m, 1), order=3, mode="nearest", grid_mode=True)  # (n, m)
            cloud = np.moveaxis(np.tensordot(spline, cloud, 1), 0, -1)
        light *= 1 + texture * np.clip(cloud.astype(np.float32), -3, 3)
        light *= np.linspace(1 - gradient / 2, 1 + gradient / 2, shape[1], dtype=np.float32)[:, None]
        return light / np.median(light[inside])


def _level(away: np.ndarray, axes: np.ndarray, phases: np.ndarray, wobble: float) -> np.ndarray:
    """Return the distance (n,) to an uneven ellipsoid around 0, first order, negative inside."""
    scaled = away / axes
    radius = np.maximum(np.linalg.norm(scaled, axis=-1), 1e-9)
    uneven = 1.0
    if wobble:
        angle = np.arctan2(scaled[:, 1], scaled[:, 2])
        flat = np.hypot(scaled[:, 1], scaled[:, 2]) / radius  # 0 at the poles: the outline has no seam there
        uneven += wobble * flat**3 * (np.sin(2 * angle + phases[0]) + np.sin(3 * angle + phases[1]))
    slope = np.linalg.norm(scaled / axes, axis=-1) / radius
    return (radius - uneven) / np.maximum(slope, 1e-9)
