"""The scene before the camera: any frame of a simulated movie, with its exact label masks, in any order."""

from __future__ import annotations

import dataclasses

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
                                                                   config.outside)
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
        return self._draw(frame)[1]

    def render(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame as the camera gives it, (z, y, x) uint16, and its masks (see `labels`)."""
        light, labels = self._draw(frame)
        return self.camera.expose(light, rng(self.seed, "simulate", "noise", frame), self._pixels), labels

    def _draw(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        if frame not in range(self.config.shape[0]):
            raise InputError("No such frame.", got=frame, expected=f"0 to {self.config.shape[0] - 1}",
                             do="Count from 0.")
        light, labels = self._diffuse(frame), np.zeros(self.frame_shape, np.uint32)
        best, anchors = np.zeros(labels.shape, np.float32), []
        shear, first = (self.scan.shift_px, self.scan.first_px) if self.scan else (0.0, 0.0)
        rows = self._rows.get(frame, self.truth.positions[:0])
        for row in rows[rows["visible"]].itertuples():
            patch, corner = self.psf.patch(np.array([row.z, row.y, row.x + first]), row.radius_um,
                                           self.config.spacing_um, shear)
            inside, part = overlap(corner, patch.shape, labels.shape)
            image = (row.mass * patch[part]).astype(np.float32)
            light[inside] += image
            wins = (image >= image.max() / 2) & (image > best[inside])
            labels[inside][wins] = row.track_id + 1
            best[inside][wins] = image[wins]
            flat = image.ravel()
            order = np.argpartition(flat, -8)[-8:]
            order = order[np.argsort(-flat[order])]
            voxels = np.stack(np.unravel_index(order, image.shape), -1) + [s.start for s in inside]
            anchors.append((float(flat[order[0]]), row.track_id + 1, voxels))
        kept: set[tuple[int, ...]] = set()
        for _, label, voxels in sorted(anchors, key=lambda a: -a[0]):
            place = next((v for v in map(tuple, voxels.tolist()) if v not in kept), None)
            if place is not None:
                kept.add(place)
                labels[place] = label
        return light, labels

    def _diffuse(self, frame: int) -> np.ndarray:
        """Return the background of a frame, drifted and seen as the scan sees it: (z, y, x) float32, a copy."""
        drift = np.multiply(self.config.drift_um_s, frame * self.config.dt_s / np.asarray(self.config.spacing_um))
        if not (self.scan or drift.any()):
            return self.background.copy()
        matrix, offset = (self.scan.matrix, self.scan.offset) if self.scan else (np.ones(3), np.zeros(3))
        return ndimage.affine_transform(self.background, np.asarray(matrix), offset - drift, self.frame_shape, order=1,
                                        mode="nearest")  # smooth light: linear interpolation loses nothing

    def _median_peak(self, tracks: Truth) -> float:
        """Return the median, over the puncta visible in frame 0, of the peak of each one's own image."""
        first = tracks.positions.query("frame == 0 and visible")
        peaks = [row.mass * self.psf.patch(np.array([row.z, row.y, row.x]), row.radius_um,
                                           self.config.spacing_um)[0].max() for row in first.itertuples()]
        if not peaks:
            raise InputError("No punctum is visible in the first frame.", expected="at least one",
                             do="Raise n_puncta or lower blink_probability.")
        return float(np.median(peaks))
