"""The pendulum against scipy's integrator, an elliptic integral, and paths whose error is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipk

from pgdlab.physics import pendulum


def test_paths_are_those_of_another_integrator() -> None:
    path = pendulum.draw(5, seed=3).numpy()
    times = np.arange(pendulum.POINTS) * pendulum.INTERVAL
    for theta, omega in path:
        found = solve_ivp(
            lambda _, s: (s[1], -np.sin(s[0])),
            (0, times[-1]),
            (theta[0], omega[0]),
            "DOP853",
            times,
            rtol=1e-12,
            atol=1e-12,
        )
        # order 4 in steps of .025: .025^4 / 120 a unit of time, 12.6 of them
        np.testing.assert_allclose(np.stack([theta, omega]), found.y, atol=1e-6)


def test_the_period_is_an_elliptic_integral() -> None:
    """T = 4 K(sin^2(theta_0 / 2)): a quarter of it after a start at rest, theta is 0."""
    start = 1.5
    quarter = ellipk(np.sin(start / 2) ** 2)
    path = pendulum.integrate(torch.tensor([[start, 0.0]], dtype=torch.float64))[0, 0].numpy()
    times = np.arange(len(path)) * pendulum.INTERVAL
    near = np.abs(times - quarter).argsort()[:4]
    crossing = np.polyval(np.polyfit(path[near], times[near], 3), 0.0)
    assert crossing == pytest.approx(quarter, abs=1e-4)  # of a cubic through four points


def test_data_keep_their_energy_and_follow_the_step() -> None:
    path = pendulum.draw(100, seed=0)
    energy = pendulum.energy(path)
    assert (energy - energy[:, :1]).abs().max() < 1e-8
    assert energy.max() < 2  # none turns over
    assert pendulum.drift(path).max() < 1e-8
    assert pendulum.defect(path).max() < 1e-14
    assert pendulum.relative_error(path).max() < 1e-14
    assert pendulum.energy(torch.tensor([[[torch.pi], [0.0]]])).item() == pytest.approx(2)


def test_errors_by_hand() -> None:
    rest = torch.zeros(1, 2, 4, dtype=torch.float64)
    kicked = rest.clone()
    kicked[0, 1, 2] = 0.6  # energy .18 at one of three later times
    assert pendulum.drift(kicked).item() == pytest.approx(0.06)
    # the kick itself, and that it is gone at the next time: where the kicked state leads is the distance
    led = pendulum.advance(kicked[..., 2:3]).norm().item()
    assert pendulum.defect(kicked).item() == pytest.approx((0 + 0.6 + led) / 3)
    path = pendulum.draw(3, seed=1)
    off = path.clone()
    off[..., 1:] *= 1.5
    share = 0.5 * path[..., 1:].flatten(1).norm(dim=1) / path.flatten(1).norm(dim=1)
    torch.testing.assert_close(pendulum.relative_error(off), share, rtol=1e-9, atol=0)
    assert not pendulum.relative_error(rest).isfinite().any()
