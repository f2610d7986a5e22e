"""Confined motion: a punctum on a spring, or in a ball it does not leave."""

from __future__ import annotations

import numpy as np

from cellfm_nb.simulate.config import SceneConfig


def confined_step(away_um: np.ndarray, free_um: np.ndarray, config: SceneConfig,
                  draw: np.random.Generator) -> np.ndarray:
    """Return the step of a confined punctum.

    Parameters: away_um (3,), from the middle of its domain; free_um (3,), the diffusive step it would make if it were
    free; config; draw, the generator of the steps between walls.
    Returns: (3,) um. Spring: the exact step of an Ornstein-Uhlenbeck process of stationary sd `confinement_um`, for
    any dt. Walls: steps of a quarter of the ball's radius at most; one that would leave it is not made, which keeps a
    uniform distribution uniform.
    """
    size, sd = config.confinement_um, np.sqrt(2 * config.diffusion_um2_s * config.dt_s)
    if config.confinement == "harmonic":
        decay = np.exp(-config.diffusion_um2_s * config.dt_s / size**2)
        return away_um * (decay - 1) + size * np.sqrt(1 - decay**2) * free_um / max(sd, 1e-12)
    n, place = int(np.ceil((4 * sd / size) ** 2)), away_um
    for step in draw.standard_normal((n, 3)) * sd / np.sqrt(max(n, 1)):
        place = place + step if np.linalg.norm(place + step) <= size else place
    return place - away_um


def anchor(position_um: np.ndarray, config: SceneConfig, draw: np.random.Generator) -> np.ndarray:
    """Draw the middle (3,) of the domain of a punctum that is at a typical place in it."""
    if config.confinement == "walls":
        return position_um - direction(draw) * config.confinement_um * np.cbrt(draw.uniform())
    return position_um - config.confinement_um * draw.standard_normal(3)


def direction(draw: np.random.Generator) -> np.ndarray:
    """Draw a unit vector (3,), uniform on the sphere."""
    vector = draw.standard_normal(3)
    return vector / np.linalg.norm(vector)
