"""The scene before the camera: any frame of a simulated movie, with its exact label masks, in any order."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from scipy import ndimage

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.simulate.camera import Camera
from cellfm_nb.simulate.cell import Cell
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.motion import simulate_tracks
from cellfm_nb.simulate.optics import Psf, gaussian_psf, overlap
from cellfm_nb.simulate.scan import Scan
from cellfm_nb.simulate.truth import Truth

Sparse = tuple[np.ndarray, np.ndarray]  # flat indices of the labelled voxels, ascending; their labels, uint32


class Scene:
    """Set up a simulated movie: tracks, light and background; then draw its frames, each on its own.

    Parameters: config; psf, default a Gaussian one; camera, default a common sCMOS; seed, the run's one seed.
    Attributes: truth, tables with masses in photoelectrons; background (z, y, x) float32 photoelectrons, of the field
    in frame 0; frame_shape (z, y, x) and frame_spacing_um of what is drawn: the field's, or with `scan_angle_deg` the
    raw stack's, whose light and masks are skewed as a microscope takes them, while the tables stay in the field.
    A frame depends on (config, psf, camera, seed, its number) alone: drawn in any order, by any number of workers,
    it has the same bits. Raises InputError when the field can't hold a cell or the PSF.
    """

    def __init__(self, config: SceneConfig, psf: Psf | None = None, camera: Camera | None = None,
                 seed: int = 0) -> None:
        self.config, self.psf, self.camera, self.seed = config, psf or gaussian_psf(), camera or Camera(), seed
        shape, spacing = config.shape[1:], config.spacing_um
        reach = [2 * 2.355 * s for s in self.psf.sigma_um]
        if any(size < r for size, r in zip(config.size_um, reach, strict=True)):
            raise InputError("The field is smaller than the PSF.", got=f"{config.size_um} um (z, y, x)",
                             expected=f"at least {tuple(round(r, 2) for r in reach)} um, twice its width",
                             do="Give more voxels.")
        self.level = self.camera.background if config.background_photons is None else config.background_photons
        tracks = simulate_tracks(config, seed)
        cell = Cell.make(config.size_um, config.envelope, seed)
        self.background = np.float32(self.level) * cell.background(shape, spacing, self.psf.sigma_um, config.gradient,
                                                                   config.outside, config.texture, config.edge_um)
        self.scan = Scan.of(config)
        self.frame_shape, self.frame_spacing_um = (self.scan.raw_shape, self.scan.raw_spacing_um) if self.scan else \
            (shape, spacing)
        self._pixels = self.camera.pixels(self.frame_shape[1:], seed)
        light = config.snr * self.noise / self._median_peak(tracks)
        positions = tracks.positions.assign(mass=tracks.positions["mass"] * light)
        self.truth = dataclasses.replace(tracks, positions=positions, made_with={
            "simulated": True, "psf": self.psf.source, "psf_sigma_um": list(self.psf.sigma_um), "seed": seed,
            "camera": dataclasses.asdict(self.camera), "background_photons": float(self.level), "snr": config.snr,
            "scan": self.scan and self.scan.record()})
        self._rows = {int(t): rows for t, rows in positions.groupby("frame")}

    @property
    def noise(self) -> float:
        """The noise the SNR is measured in: sqrt(background + read_noise^2), photoelectrons."""
        return float(np.sqrt(self.level + self.camera.read_noise**2))

    def expected(self, frame: int) -> np.ndarray:
        """Return the noise-free light of a frame: (z, y, x) float32 photoelectrons."""
        return self._draw(frame)[0]

    def labels(self, frame: int) -> np.ndarray:
        """Return the exact masks of a frame: (z, y, x) uint32, track_id + 1.

        A punctum's mask is where its own noise-free image reaches half its peak; where two claim a voxel the brighter
        model there has it; every visible punctum keeps at least its brightest voxel no brighter punctum keeps.
        """
        return dense(self._draw(frame)[1], self.frame_shape)

    def render(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame as the camera gives it, (z, y, x) uint16, and its masks (see `labels`)."""
        counts, masks = self.take(frame)
        return counts, dense(masks, self.frame_shape)

    def take(self, frame: int) -> tuple[np.ndarray, Sparse]:
        """Return a frame as `render` does, its masks as the few voxels they have (see `dense`)."""
        light, masks = self._draw(frame)
        return self.camera.expose(light, rng(self.seed, "simulate", "noise", frame), self._pixels), masks

    def _draw(self, frame: int) -> tuple[np.ndarray, Sparse]:
        if frame not in range(self.config.shape[0]):
            raise InputError("No such frame.", got=frame, expected=f"0 to {self.config.shape[0] - 1}",
                             do="Count from 0.")
        light, claims, tops = self._diffuse(frame), [], []
        shear, first = (self.scan.shift_px, self.scan.first_px) if self.scan else (0.0, 0.0)
        rows = self._rows.get(frame, self.truth.positions[:0])
        for row in rows[rows["visible"]].itertuples():
            patch, corner = self.psf.patch(np.array([row.z, row.y, row.x + first]), row.radius_um,
                                           self.config.spacing_um, shear)
            inside, part = overlap(corner, patch.shape, light.shape)
            image = (row.mass * patch[part]).astype(np.float32)
            light[inside] += image
            peak = image.max()
            near = np.nonzero(image > peak / 20)
            values = image[near]
            where = np.ravel_multi_index([n + s.start for n, s in zip(near, inside, strict=True)], light.shape)
            mask = values >= peak / 2
            claims.append((where[mask], values[mask], np.full(mask.sum(), row.track_id + 1, np.uint32)))
            tops.append((float(peak), row.track_id + 1, where[np.argsort(-values, kind="stable")[:8]]))
        return light, _settle(claims, tops)

    @cached_property
    def _still(self) -> np.ndarray:
        """(z, y, x) float32, the background as every frame shows it while nothing drifts."""
        return self._moved(np.zeros(3)) if self.scan else self.background

    def _diffuse(self, frame: int) -> np.ndarray:
        """Return the background of a frame, drifted and seen as the scan sees it: (z, y, x) float32, a copy."""
        drift = np.multiply(self.config.drift_um_s, frame * self.config.dt_s / np.asarray(self.config.spacing_um))
        if not drift.any():
            return self._still.copy()
        return self._moved(drift)

    def _moved(self, drift_px: np.ndarray) -> np.ndarray:
        matrix, offset = (self.scan.matrix, self.scan.offset) if self.scan else (np.ones(3), np.zeros(3))
        # smooth light: linear interpolation loses nothing
        return ndimage.affine_transform(self.background, np.asarray(matrix), offset - drift_px, self.frame_shape,
                                        order=1, mode="nearest")

    def _median_peak(self, tracks: Truth) -> float:
        """Return the median, over the puncta visible in frame 0, of the peak of each one's own image."""
        first = tracks.positions.query("frame == 0 and visible")
        peaks = [row.mass * self.psf.patch(np.array([row.z, row.y, row.x]), row.radius_um,
                                           self.config.spacing_um)[0].max() for row in first.itertuples()]
        if not peaks:
            raise InputError("No punctum is visible in the first frame.", expected="at least one",
                             do="Raise n_puncta or lower blink_probability.")
        return float(np.median(peaks))


def dense(masks: Sparse, shape: tuple[int, int, int]) -> np.ndarray:
    """Return masks as a volume (z, y, x) uint32, 0 where there is none."""
    labels = np.zeros(shape, np.uint32)
    labels.flat[masks[0]] = masks[1]
    return labels


def _settle(claims: list[tuple], tops: list[tuple]) -> Sparse:
    """Give every claimed voxel to the brightest who claims it, and every punctum a voxel of its own.

    Parameters: claims, (voxels, light there, label) of every punctum; tops, its peak, label and brightest voxels.
    """
    if not claims:
        return np.empty(0, np.intp), np.empty(0, np.uint32)
    where, light, labels = (np.concatenate(parts) for parts in zip(*claims, strict=True))
    kept: dict[int, int] = {}
    for _, label, voxels in sorted(tops, key=lambda top: -top[0]):
        place = next((v for v in voxels.tolist() if v not in kept), None)
        if place is not None:
            kept[place] = label
    order = np.argsort(-light, kind="stable")  # the first of a voxel's claims is the brightest, or its keeper's
    where = np.concatenate([np.array(list(kept), where.dtype), where[order]])
    where, first = np.unique(where, return_index=True)
    return where, np.concatenate([np.array(list(kept.values()), np.uint32), labels[order]])[first]
