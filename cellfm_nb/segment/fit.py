"""Joint fit of Gaussian blobs to one residual: sub-voxel positions, amplitudes, sizes, and their uncertainties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OWN_SIZE = 0.3                                              # PSF variances: an object's own size, give or take as much
CHUNK = 2000                                                # blobs fitted at a time: bounds memory, not the result


@dataclass
class Blobs:
    """N blobs A exp(-1/2 sum_k (x_k - p_k)^2 / (psf_k^2 + extra)), in voxels and normalised units.

    position (N, 3) voxels; amplitude (N,); extra (N,) um^2, the object's own variance over the PSF's; sd_position
    (N, 3) voxels; sd_amplitude (N,); sd_log_mass (N,), relative uncertainty of a blob's whole light, its size unknown.
    """

    position: np.ndarray
    amplitude: np.ndarray
    extra: np.ndarray
    sd_position: np.ndarray
    sd_amplitude: np.ndarray
    sd_log_mass: np.ndarray

    def __len__(self) -> int:
        return len(self.amplitude)

    def take(self, index: np.ndarray) -> Blobs:
        """Return the chosen blobs."""
        return Blobs(*(getattr(self, f)[index] for f in self.__dataclass_fields__))

    def join(self, other: Blobs) -> Blobs:
        """Return both lists as one."""
        return Blobs(*(np.concatenate([getattr(self, f), getattr(other, f)]) for f in self.__dataclass_fields__))

    def sigma_px(self, spacing_um: np.ndarray, sigma_um: np.ndarray) -> np.ndarray:
        """Return (N, 3) standard deviations in voxels."""
        return np.sqrt(sigma_um**2 + self.extra[:, None]) / spacing_um


@dataclass(frozen=True)
class Prior:
    """What is known of N blobs before the fit: place (N, 3) voxels with its precision, own variance um^2 with its."""

    position: np.ndarray
    position_precision: np.ndarray
    extra: np.ndarray
    extra_precision: np.ndarray

    def take(self, index: np.ndarray) -> Prior:
        """Return that of the chosen blobs."""
        return Prior(*(getattr(self, f)[index] for f in self.__dataclass_fields__))


def weak_prior(n: int, sigma_um: np.ndarray) -> Prior:
    """Return the prior of blobs of which nothing is known: any place, a size that only faint blobs feel."""
    size = OWN_SIZE * sigma_um[-1] ** 2
    return Prior(np.zeros((n, 3)), np.zeros((n, 3)), np.full(n, size), np.full(n, size**-2))


def start_blobs(position: np.ndarray, amplitude: np.ndarray, extra: np.ndarray | float) -> Blobs:
    """Return blobs at candidate positions (N, 3), before any fit."""
    n = len(amplitude)
    return Blobs(np.array(position, float).reshape(n, 3), np.array(amplitude, float),
                 np.broadcast_to(np.asarray(extra, float), (n,)).copy(), np.full((n, 3), np.nan), np.full(n, np.nan),
                 np.full(n, np.nan))


def patch_grid(
    blobs: Blobs, shape: tuple[int, ...], sigma_px: np.ndarray, limit_px: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (flat index (N, K), inside (N, K) bool, offsets from each centre (3, N, K)) of the blobs' boxes.

    A box reaches 2.5 sigma of the larger blobs, but not more than the limit: a blob much larger than the PSF is
    fitted by its middle.
    """
    reach = np.ceil(2.5 * np.minimum(np.quantile(sigma_px, 0.9, axis=0), limit_px)).astype(int)
    box = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")).reshape(3, 1, -1)  # 3, 1, K
    voxel = np.rint(blobs.position).astype(int).T[:, :, None] + box                                       # 3, N, K
    size = np.array(shape)[:, None, None]
    inside = ((voxel >= 0) & (voxel < size)).all(0)
    flat = np.ravel_multi_index(tuple(np.clip(voxel, 0, size - 1)), shape)
    return flat, inside, voxel - blobs.position.T[:, :, None]


def shapes(offset: np.ndarray, inside: np.ndarray, sigma_px: np.ndarray) -> np.ndarray:
    """Return (N, K) Gaussian of peak 1 at the offsets, 0 outside the volume."""
    u = offset / sigma_px.T[:, :, None]
    return np.exp(-0.5 * (u**2).sum(0)) * inside


@dataclass(frozen=True)
class Boxes:
    """The voxels that N blobs are fitted to: one index (N, K_axis) an axis, and which of them lie inside the volume."""

    index: list[np.ndarray]
    inside: list[np.ndarray]
    shape: tuple[int, ...]

    def flat(self, part: np.ndarray) -> np.ndarray:
        """Return (n, Kz, Ky, Kx) positions in the raveled volume."""
        z, y, x = (np.clip(i[part], 0, n - 1) for i, n in zip(self.index, self.shape, strict=True))
        row = (z * self.shape[1])[:, :, None] + y[:, None]
        return (row * self.shape[2])[..., None] + x[:, None, None]


def boxes_around(blobs: Blobs, shape: tuple[int, ...], sigma_px: np.ndarray, limit_px: np.ndarray) -> Boxes:
    """Return boxes that reach 2.5 sigma of the larger blobs, but not more than the limit.

    A blob much larger than the PSF is fitted by its middle.
    """
    reach = np.ceil(2.5 * np.minimum(np.quantile(sigma_px, 0.9, axis=0), limit_px)).astype(int)
    middle = np.rint(blobs.position).astype(int)
    index = [middle[:, [a]] + np.arange(-reach[a], reach[a] + 1) for a in range(3)]
    return Boxes(index, [(i >= 0) & (i < n) for i, n in zip(index, shape, strict=True)], shape)


def profiles(blobs: Blobs, boxes: Boxes, sigma_px: np.ndarray, part: np.ndarray) -> tuple[list, list]:
    """Return the blobs' Gaussians along each axis (n, K), 0 outside the volume, and the distances from the centre."""
    away = [boxes.index[a][part] - blobs.position[part, a, None] for a in range(3)]
    return [np.exp(-0.5 * (away[a] / sigma_px[part, a, None]) ** 2) * boxes.inside[a][part] for a in range(3)], away


def add_blobs(volume: np.ndarray, blobs: Blobs, boxes: Boxes, sigma_px: np.ndarray, sign: float = 1.0) -> None:
    """Add the blobs' light to a float32 volume, in place."""
    flat = volume.reshape(-1)
    for part in chunks(len(blobs)):
        (z, y, x), _ = profiles(blobs, boxes, sigma_px, part)
        plane = (sign * blobs.amplitude[part, None] * z)[:, :, None] * y[:, None]
        light = plane.astype(np.float32)[..., None] * x.astype(np.float32)[:, None, None]
        np.add.at(flat, boxes.flat(part).ravel(), light.ravel())


def render(blobs: Blobs, shape: tuple[int, ...], spacing_um: np.ndarray, sigma_um: np.ndarray) -> np.ndarray:
    """Return the sum of the blobs as a float32 volume."""
    out = np.zeros(shape, np.float32)
    if len(blobs):
        sigma = blobs.sigma_px(spacing_um, sigma_um)
        add_blobs(out, blobs, boxes_around(blobs, shape, sigma, 1.5 * sigma_um / spacing_um), sigma)
    return out


def chunks(n: int) -> list[np.ndarray]:
    """Return index ranges that bound the memory of a fit."""
    return [np.arange(a, min(a + CHUNK, n)) for a in range(0, n, CHUNK)]


def joint_fit(
    volume: np.ndarray, blobs: Blobs, spacing_um: np.ndarray, sigma_um: np.ndarray, noise: float = 1.0, sweeps: int = 8,
    prior: Prior | None = None,
) -> Blobs:
    """Fit all blobs to the volume together by damped Gauss-Newton on their common residual.

    Parameters
    ----------
    volume : (z, y, x) float32, background 0, noise 1.
    blobs : where to start (`start_blobs`).
    spacing_um, sigma_um : (3,) arrays, micrometre.
    noise : standard deviation the uncertainties are scaled with (above 1 where neighbouring voxels are correlated).
    sweeps : passes over all blobs.
    prior : what is known of the blobs; None = their own variance is .3 +- .3 of the lateral PSF variance.

    Returns
    -------
    Blobs with uncertainties from the Fisher information at the optimum. Each sweep moves every blob against the
    residual that all of them leave, so touching objects share their light instead of counting it twice. No blob leaves
    the volume: of light that falls in from beyond its border, the nearest place within is given.
    """
    if not len(blobs):
        return blobs
    prior = prior or weak_prior(len(blobs), sigma_um)
    reach, edge = 1.5 * sigma_um / spacing_um, np.array(volume.shape) - 0.5
    low, high = np.maximum(blobs.position - reach, -0.5), np.minimum(blobs.position + reach, edge)
    sigma = blobs.sigma_px(spacing_um, sigma_um)
    boxes = boxes_around(blobs, volume.shape, sigma, reach)
    residual = np.array(volume, np.float32)
    add_blobs(residual, blobs, boxes, sigma, -1)
    for sweep in range(sweeps):
        last = sweep == sweeps - 1                          # it moves nothing: the uncertainties at the optimum
        new = [newton_step(residual, blobs, boxes, part, spacing_um, sigma_um, noise, prior,
                           damping=0.0 if last else 0.7)
               for part in chunks(len(blobs))]
        new = Blobs(*(np.concatenate([getattr(b, f) for b in new]) for f in Blobs.__dataclass_fields__))
        if last:
            return new
        new.position = np.clip(new.position, low, high)     # one that goes further is another blob, or not in view
        add_blobs(residual, blobs, boxes, sigma)
        blobs, sigma = new, new.sigma_px(spacing_um, sigma_um)
        add_blobs(residual, blobs, boxes, sigma, -1)


def newton_step(
    residual: np.ndarray, blobs: Blobs, boxes: Boxes, part: np.ndarray, spacing_um: np.ndarray, sigma_um: np.ndarray,
    noise: float, prior: Prior, damping: float,
) -> Blobs:
    """Return a part of the blobs after one damped step on (amplitude, z, y, x, extra), with uncertainties.

    The Jacobian is never formed: each derivative of a Gaussian is itself times a polynomial, so all sums over a box are
    products of one-dimensional moments.
    """
    sigma = blobs.sigma_px(spacing_um, sigma_um)
    g, away = profiles(blobs, boxes, sigma, part)
    blobs, sigma, prior = blobs.take(part), sigma[part], prior.take(part)
    lateral = sigma_um[-1] ** 2
    slopes = derivatives(blobs.amplitude, sigma, spacing_um)
    # of g^2, moment by moment an axis; of the residual, all axes' moments up to the second at once
    z, y, x = ([np.einsum("nk,nk->n", g[a] ** 2, away[a] ** k) for k in range(5)] for a in range(3))
    light = residual.reshape(-1)[boxes.flat(part)]
    for a in (2, 1, 0):
        powers = np.stack([g[a], g[a] * away[a], g[a] * away[a] ** 2], 1).astype(np.float32)
        light = contract(light, powers, a)
    information, gradient = np.zeros((len(blobs), 5, 5)), np.zeros((len(blobs), 5))
    for i, terms in enumerate(slopes):
        gradient[:, i] = sum(c * light[(slice(None), *k)] for c, k in terms) / noise**2
        for j in range(i, 5):
            moment = sum(c * d * z[k[0] + m[0]] * y[k[1] + m[1]] * x[k[2] + m[2]]
                         for c, k in terms for d, m in slopes[j])
            information[:, i, j] = information[:, j, i] = moment / noise**2
    information[:, 4, 4] += prior.extra_precision
    gradient[:, 4] += prior.extra_precision * (prior.extra - blobs.extra)
    information[:, range(1, 4), range(1, 4)] += prior.position_precision
    gradient[:, 1:4] += prior.position_precision * (prior.position - blobs.position)
    information[:, range(5), range(5)] *= 1 + 1e-6
    information[:, range(1, 4), range(1, 4)] += 1e-6                                  # a vanished blob has no place
    covariance = np.linalg.inv(information)
    step = damping * np.einsum("nij,nj->ni", covariance, gradient)
    sd = np.sqrt(np.maximum(covariance[:, range(5), range(5)], 0))
    # mass = amplitude x product of sigmas: its logarithm's slope along amplitude and along extra
    slope = np.stack([1 / blobs.amplitude, 0.5 * (1 / (sigma * spacing_um) ** 2).sum(1)], 1)             # N, 2
    log_mass = np.einsum("ni,nij,nj->n", slope, covariance[:, ::4, ::4], slope)
    return Blobs(
        position=blobs.position + np.clip(step[:, 1:4], -0.5, 0.5),
        amplitude=np.maximum(blobs.amplitude + step[:, 0], 1e-3),
        extra=np.clip(blobs.extra + np.clip(step[:, 4], -0.5 * lateral, 0.5 * lateral), 0.0, 6 * lateral),
        sd_position=sd[:, 1:4], sd_amplitude=sd[:, 0], sd_log_mass=np.sqrt(np.maximum(log_mass, 0)),
    )


def contract(light: np.ndarray, powers: np.ndarray, axis: int) -> np.ndarray:
    """Return (N, ...) light with one axis' K voxels replaced by their three moments (N, 3, K)."""
    n, shape = len(light), light.shape[1:]
    flat = light.reshape(n, int(np.prod(shape[:axis])), shape[axis], -1)
    return (powers[:, None] @ flat).reshape(n, *shape[:axis], 3, *shape[axis + 1 :])


def derivatives(amplitude: np.ndarray, sigma_px: np.ndarray, spacing_um: np.ndarray) -> list[list[tuple]]:
    """Return, for each of (amplitude, z, y, x, extra), the terms (factor, powers of z, y, x) that multiply g."""
    unit = np.eye(3, dtype=int)
    place = [[(amplitude / sigma_px[:, a] ** 2, tuple(unit[a]))] for a in range(3)]
    grow = [(0.5 * amplitude / (sigma_px[:, a] ** 4 * spacing_um[a] ** 2), tuple(2 * unit[a])) for a in range(3)]
    return [[(np.ones_like(amplitude), (0, 0, 0))], *place, grow]
