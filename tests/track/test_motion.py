"""The filters and their closed forms against numerical integration; K5 of the references."""

from __future__ import annotations

import numpy as np
import pytest

from cellfm_nb.seeds import rng
from cellfm_nb.track.motion import Filter, Scales, log_identity, log_link_motion, log_normal


def scales(d: int = 1, k: int = 1, **changes: object) -> Scales:
    base = dict(step_um2=np.full(d, 0.04), velocity_um2=np.full(d, 0.25), switch=np.array([[0.9, 0.1], [0.3, 0.7]]),
                gap=np.array([0.9, 0.1]), birth_per_um3=1e-3, present_per_um3=0.1, end=0.01, identity_mean=np.zeros(k),
                identity_var=np.full(k, 0.3), noise=np.full(k, 0.01), walk=np.zeros(k), outlier=1e-12, bleach=0.0,
                event_rate=np.full(2, 0.01), event_um2=np.full(2, 0.1))
    return Scales(**(base | changes))


def gauss(x: np.ndarray, mean: float, var: float) -> np.ndarray:
    return np.exp(-0.5 * (x - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)


def test_link_density_equals_the_sum_over_modes_and_velocities() -> None:
    s, v = scales(), np.linspace(-8, 8, 20001)
    generator = rng(0, "test", "motion")
    for _ in range(5):
        p, q, v1, v2 = generator.uniform(0.05, 0.95, 2).tolist() + generator.normal(0, 0.4, 2).tolist()
        s1, s2, dx, g = *generator.uniform(0.02, 0.24, 2), generator.normal(0, 0.5), int(generator.integers(1, 4))
        past = Filter(np.array([p]), np.array([[v1]]), np.array([[s1]]), np.zeros((1, 1)), np.ones((1, 1)))
        future = Filter(np.array([q]), np.array([[v2]]), np.array([[s2]]), np.zeros((1, 1)), np.ones((1, 1)))
        known, prior = (gauss(v, v1, s1), gauss(v, v2, s2)), gauss(v, 0, 0.25)
        total = 0.0
        for a in (0, 1):
            for c in (0, 1):
                weight = (1 - p, p)[a] * (1 - q, q)[c] / s.stationary[c]
                total += weight * s.switch[a, 0] * s.switch[0, c] * gauss(np.array(dx), 0, g * 0.04)
                early, late = (known[0] if a else prior), (known[1] / prior if c else np.ones_like(v))
                step = np.trapezoid(early * late * gauss(np.array(dx), g * v, g * 0.04), v)
                total += weight * s.switch[a, 1] * s.switch[1, c] * step
        zero = np.zeros(1, int)
        ours = log_link_motion(past, future, zero, zero, np.array([[dx]]), np.array([g]), s)
        assert ours[0] == pytest.approx(np.log(total), abs=1e-4)


def test_link_density_integrates_to_one_without_a_future() -> None:
    s, dx = scales(), np.linspace(-12, 12, 24001)[None]
    past = Filter(np.array([0.6]), np.array([[0.7]]), np.array([[0.05]]), np.zeros((1, 1)), np.ones((1, 1)))
    future = Filter.start(np.zeros((1, 1)), np.ones((1, 1)), s)
    zero = np.zeros(dx.shape[1], int)
    density = np.exp(log_link_motion(past, future, zero, zero, dx, np.ones(dx.shape[1], int), s))
    assert np.trapezoid(density, dx[0]) == pytest.approx(1, abs=1e-6)


def test_identity_ratio_equals_its_integral() -> None:
    s, m = scales(), np.linspace(-6, 6, 40001)
    past = Filter(np.zeros(1), np.zeros((1, 1)), np.ones((1, 1)), np.array([[0.5]]), np.array([[0.02]]))
    future = Filter(np.zeros(1), np.zeros((1, 1)), np.ones((1, 1)), np.array([[0.3]]), np.array([[0.05]]))
    prior, early, late = gauss(m, 0, 0.3), gauss(m, 0.5, 0.02), gauss(m, 0.3, 0.05)
    same = np.trapezoid(prior * early * late, m)
    apart = np.trapezoid(prior * early, m) * np.trapezoid(prior * late, m)
    zero = np.zeros(1, int)
    ours = log_identity(past, future, zero, zero, np.ones(1, int), s)[0]
    assert ours == pytest.approx(np.log(same / apart), abs=1e-5)


def walk_filter(x: np.ndarray, s: Scales) -> tuple[Filter, np.ndarray]:
    """Run the filter along one path; return it and the innovations of the directed prediction, standardised."""
    n, d = x.shape
    f = Filter.start(np.zeros((1, n)), np.ones((1, n)), s)
    z = []
    for t in range(n - 1):
        spread = f.s[:, t] + s.step_um2
        z.append((x[t + 1] - x[t] - f.v[:, t]) / np.sqrt(spread))
        f.step(np.array([t]), np.array([t + 1]), (x[t + 1] - x[t])[:, None], np.ones(1, int), np.zeros((1, n)),
               np.ones((1, n)), s)
    return f, np.array(z)


def test_constant_velocity_is_predicted_exactly() -> None:
    s = scales(d=3, step_um2=np.full(3, 1e-8), switch=np.array([[0.9, 0.1], [1e-9, 1 - 1e-9]]))
    x = np.arange(30)[:, None] * np.array([0.3, -0.2, 0.5])
    f, _ = walk_filter(x, s)
    assert np.abs(f.v[:, -1] - [0.3, -0.2, 0.5]).max() < 1e-6
    assert f.p[-1] > 1 - 1e-6


def test_variances_stay_positive_and_within_the_prior() -> None:
    s, generator = scales(d=3), rng(1, "test", "motion")
    f, _ = walk_filter(np.cumsum(generator.normal(0, 0.5, (200, 3)), axis=0), s)
    assert (f.s > 0).all() and (f.s <= s.velocity_um2[:, None] + 1e-12).all()
    assert ((f.p > 0) & (f.p < 1)).all() and (f.w > 0).all()


def test_innovations_of_directed_tracks_are_white_and_of_unit_size() -> None:
    s, generator, z = scales(d=3, switch=np.array([[0.5, 0.5], [1e-9, 1 - 1e-9]])), rng(2, "test", "motion"), []
    for _ in range(60):
        velocity = generator.normal(0, 0.5, 3) + np.cumsum(generator.normal(0, 0.05, (40, 3)), axis=0)
        z.append(walk_filter(np.cumsum(velocity + generator.normal(0, 0.2, (40, 3)), axis=0), s)[1][5:])
    z = np.array(z)
    assert z.std() == pytest.approx(1, abs=0.05)
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 0.06


def test_log_normal_is_the_gaussian() -> None:
    x = np.array([[0.3], [-1.0]])
    assert log_normal(x, np.array([[0.5], [2.0]]))[0] == pytest.approx(np.log(gauss(0.3, 0, 0.5) * gauss(-1.0, 0, 2.0)))
