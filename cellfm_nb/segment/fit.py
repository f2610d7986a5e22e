"""Joint fit of Gaussian blobs to one residual: sub-voxel positions, amplitudes, sizes, and their uncertainties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


def render(blobs: Blobs, shape: tuple[int, ...], spacing_um: np.ndarray, sigma_um: np.ndarray) -> np.ndarray:
    """Return the sum of the blobs as a float32 volume."""
    out = np.zeros(int(np.prod(shape)), np.float64)
    sigma = blobs.sigma_px(spacing_um, sigma_um)
    for part in chunks(len(blobs)):
        flat, inside, offset = patch_grid(blobs.take(part), shape, sigma[part], 1.5 * sigma_um / spacing_um)
        g = shapes(offset, inside, sigma[part]) * blobs.amplitude[part, None]
        out += np.bincount(flat.ravel(), g.ravel(), minlength=out.size)
    return out.reshape(shape).astype(np.float32)


def chunks(n: int) -> list[np.ndarray]:
    """Return index ranges that bound the memory of a fit."""
    return [np.arange(a, min(a + CHUNK, n)) for a in range(0, n, CHUNK)]


def joint_fit(
    volume: np.ndarray, blobs: Blobs, spacing_um: np.ndarray, sigma_um: np.ndarray, noise: float = 1.0, sweeps: int = 8
) -> Blobs:
    """Fit all blobs to the volume together by damped Gauss-Newton on their common residual.

    Parameters
    ----------
    volume : (z, y, x) float32, background 0, noise 1.
    blobs : where to start (`start_blobs`).
    spacing_um, sigma_um : (3,) arrays, micrometre.
    noise : standard deviation the uncertainties are scaled with (above 1 where neighbouring voxels are correlated).
    sweeps : passes over all blobs.

    Returns
    -------
    Blobs with uncertainties from the Fisher information at the optimum. Each sweep moves every blob against the
    residual that all of them leave, so touching objects share their light instead of counting it twice. The object's
    own variance has a weak prior (.3 +- .3 of the lateral PSF variance), which only faint blobs feel.
    """
    if not len(blobs):
        return blobs
    lateral = sigma_um[-1] ** 2
    prior_mean, prior_precision = 0.3 * lateral, 1 / (0.3 * lateral) ** 2
    start = blobs.position.copy()
    for sweep in range(sweeps):
        residual = (volume - render(blobs, volume.shape, spacing_um, sigma_um)).ravel()
        new = [newton_step(residual, blobs.take(part), volume.shape, spacing_um, sigma_um, noise, prior_mean,
                           prior_precision, damping=0.7 if sweep < sweeps - 1 else 0.0) for part in chunks(len(blobs))]
        blobs = new[0]
        for more in new[1:]:
            blobs = blobs.join(more)
        reach = 1.5 * sigma_um / spacing_um                 # a blob that wants to go further is another blob
        blobs.position = np.clip(blobs.position, start - reach, start + reach)
    return blobs


def newton_step(
    residual: np.ndarray, blobs: Blobs, shape: tuple[int, ...], spacing_um: np.ndarray, sigma_um: np.ndarray,
    noise: float, prior_mean: float, prior_precision: float, damping: float,
) -> Blobs:
    """Return the blobs after one damped step on (amplitude, z, y, x, extra), with uncertainties."""
    sigma = blobs.sigma_px(spacing_um, sigma_um)                                      # N, 3
    flat, inside, offset = patch_grid(blobs, shape, sigma, 1.5 * sigma_um / spacing_um)
    g = shapes(offset, inside, sigma)                                                 # N, K
    ag = g * blobs.amplitude[:, None]
    u = offset / sigma.T[:, :, None] ** 2                                             # 3, N, K
    grow = 0.5 * ((u / spacing_um[:, None, None]) ** 2).sum(0) * ag                   # d model / d extra (um^2)
    jacobian = np.stack([g, ag * u[0], ag * u[1], ag * u[2], grow], axis=-1)          # N, K, 5
    information = np.einsum("nki,nkj->nij", jacobian, jacobian) / noise**2            # N, 5, 5
    gradient = np.einsum("nki,nk->ni", jacobian, residual[flat] * inside) / noise**2  # N, 5
    information[:, 4, 4] += prior_precision
    gradient[:, 4] += prior_precision * (prior_mean - blobs.extra)
    information[:, range(5), range(5)] *= 1 + 1e-6
    information[:, range(1, 4), range(1, 4)] += 1e-6                                  # a vanished blob has no place
    covariance = np.linalg.inv(information)
    step = damping * np.einsum("nij,nj->ni", covariance, gradient)
    lateral = sigma_um[-1] ** 2
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
