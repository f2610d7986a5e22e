"""What lamp, lens and camera do to the grey values of a view. All take (..., C, z, y, x), one draw per leading index.

Views are normalised first: noise added to raw counts and scaled away by a later normalisation is no noise.
Generators are CPU generators, one or one for each sample (`draws.draw`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.augment.draws import Source, draw
from cellfm_nb.errors import InputError

Range = tuple[float, float]


def change_contrast(views: Tensor, brightness: Range, gamma: Range, generator: Source,
                    pivot: float = 3.0) -> Tensor:
    """Scale the brightness and bend the grey values of each view: gain * pivot * sign(v) * |v / pivot| ** gamma.

    Parameters: views (..., C, z, y, x) float; brightness, gamma, ranges drawn from; generator; pivot, the value
    that bending leaves where it is (3 where the noise is 1; 1 for images in [0, 1]).
    """
    check_normalized(views, "change_contrast")
    gain = uniform(brightness, views, generator)
    power = uniform(gamma, views, generator)
    return gain * views.sign() * pivot * (views.abs() / pivot) ** power


def add_camera_noise(views: Tensor, gain: Range, read_noise: Range, generator: Source) -> Tensor:
    """Add the noise of a camera: Poisson with variance gain * v, and Gaussian of s.d. read_noise, in units of views.

    Parameters: views (..., C, z, y, x) float; gain, range: the value one photoelectron adds (0: no shot noise, as
    after variance stabilisation); read_noise, range; generator.
    Returns: views + noise of s.d. sqrt(gain * max(v, 0) + read_noise^2), mean 0. Poisson-Gaussian model of Foi 2008.
    """
    check_normalized(views, "add_camera_noise")
    g, read = uniform(gain, views, generator), uniform(read_noise, views, generator)
    out = views + read * draw(torch.randn, views.shape, generator, device=views.device)
    if gain[1] > 0:
        light, g = views.clamp(min=0).double(), g.double().clamp(min=1e-12)
        out = out + (g * photons(light / g, generator) - light).to(views.dtype)
    return out


def photons(rate: Tensor, generator: Source) -> Tensor:
    """Draw Poisson counts of a rate (float64, any shape), by inversion: one number per voxel, on the rate's device.

    Rates that differ in the last digit so differ in single photons at most; sampling by rejection would draw a
    different number of numbers, and everything after would differ. Rates over 16 take the normal quantile
    corrected for skewness (Cornish and Fisher 1938), right to a photon or so.
    """
    u = draw(torch.rand, rate.shape, generator, torch.float64, rate.device).clamp(1e-12, 1 - 1e-12)
    z = torch.special.ndtri(u)
    count = torch.round(rate + z * rate.sqrt() + (z**2 - 1) / 6)
    few = rate < 16
    low, u = rate[few], u[few]
    exact, term = torch.zeros_like(low), torch.exp(-low)
    total = term.clone()
    for k in range(1, 70):
        more = u > total
        if not more.any():
            break
        exact += more
        term *= low / k
        total += term
    count[few] = exact
    return count


def recorrupt(views: Tensor, noise: Range, generator: Source) -> tuple[Tensor, Tensor]:
    """Make two copies of a noisy image whose noises are independent (recorrupted-to-recorrupted, Pang et al. 2021).

    Parameters: views (..., C, z, y, x) with noise of standard deviation 1; noise, range of the factor a.
    Returns: y + a n and y - n / a with n ~ N(0, 1): their noises are uncorrelated, so predicting the second from the
    first is predicting the signal.
    """
    a = uniform(noise, views, generator)
    n = draw(torch.randn, views.shape, generator, device=views.device)
    return views + a * n, views - n / a


def split_noise(views: Tensor, generator: Source) -> tuple[Tensor, Tensor]:
    """Make two pictures of one, whose noises are independent and again of standard deviation 1.

    Parameters: views (..., C, z, y, x) with noise of standard deviation 1; generator.
    Returns: (y + n) / sqrt 2 and (y - n) / sqrt 2 with n ~ N(0, 1): the price is a signal smaller by sqrt 2 in each.
    Source: Gaussian data thinning (Neufeld et al. 2024).
    """
    n = draw(torch.randn, views.shape, generator, device=views.device)
    return (views + n) * 0.5**0.5, (views - n) * 0.5**0.5


def blur(views: Tensor, sigma_um: Range, spacing_um: tuple[float, float, float], generator: Source,
         elongation: float = 2.5) -> Tensor:
    """Blur each view by a Gaussian shaped like a point-spread function.

    Parameters: views (..., C, z, y, x) float; sigma_um, range of the s.d. in y and x, micrometre; spacing_um (z,y,x);
    generator; elongation, how many times wider it is along z (light-sheet PSFs: 2 to 3).
    Returns: the views blurred, faces continued by their edge voxels; noise is averaged too, so add noise afterwards.
    """
    check_normalized(views, "blur")
    sigma = uniform(sigma_um, views, generator).flatten()  # (N,)
    flat = views.reshape(1, -1, *views.shape[-3:])  # (1, N*C, z, y, x)
    sigma = sigma.repeat_interleave(flat.shape[1] // len(sigma))
    for axis, (step, times) in enumerate(zip(spacing_um, (elongation, 1, 1), strict=True)):
        radius = max(1, int(3 * sigma_um[1] * times / step + 0.5))
        away = torch.arange(-radius, radius + 1, device=views.device) * step
        kernel = torch.exp(-0.5 * (away / (sigma[:, None] * times).clamp(min=1e-6)) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).to(views.dtype)
        along = [1, 1, 1]
        along[axis] = 2 * radius + 1
        pad = [0] * 6
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
        flat = F.conv3d(F.pad(flat, pad, mode="replicate"), kernel.view(-1, 1, *along), groups=flat.shape[1])
    return flat.view(views.shape)


def uniform(limits: Range, views: Tensor, generator: Source) -> Tensor:
    """Draw one number per leading index of views (..., C, z, y, x), shaped (..., 1, 1, 1, 1), on their device."""
    u = draw(torch.rand, views.shape[:-4], generator)
    return (limits[0] + (limits[1] - limits[0]) * u)[..., None, None, None, None].to(views.device)


def check_normalized(views: Tensor, who: str) -> None:
    """Raise InputError unless views are floating point (..., C, z, y, x)."""
    if not views.is_floating_point() or views.dim() < 4:
        raise InputError("Grey values are changed after normalisation, not on raw counts.", where=who,
                         got=f"{views.dtype} {tuple(views.shape)}", expected="floating point (..., C, z, y, x)",
                         do="Normalise first: what is added to counts is scaled away by a later normalisation.")
