"""A pendulum without friction: theta'' = -sin(theta), lengths and times in units of its length and gravity's.

A path is theta and omega at even times, POINTS of them, INTERVAL apart. All of it has gradients.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

POINTS, INTERVAL = 64, 0.2  # of a path; the time between two
SUBSTEPS = 8  # of the integrator in an interval
ANGLE, SPEED = 2.0, 1.0  # theta and omega start evenly within these: every pendulum swings, none turns over


def energy(path: Float[Tensor, "*B 2 T"]) -> Float[Tensor, "*B T"]:
    """omega^2 / 2 + 1 - cos(theta): 0 at rest, 2 at the top."""
    theta, omega = path.unbind(-2)
    return omega.square() / 2 + 1 - theta.cos()


def advance(state: Float[Tensor, "*B 2 T"]) -> Float[Tensor, "*B 2 T"]:
    """States (theta, omega) an INTERVAL later, by SUBSTEPS of the classical Runge-Kutta method of order 4."""
    step = INTERVAL / SUBSTEPS
    for _ in range(SUBSTEPS):
        k1 = slope(state)
        k2 = slope(state + step / 2 * k1)
        k3 = slope(state + step / 2 * k2)
        k4 = slope(state + step * k3)
        state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state


def slope(state: Float[Tensor, "*B 2 T"]) -> Float[Tensor, "*B 2 T"]:
    """d(theta, omega)/dt = (omega, -sin(theta))."""
    theta, omega = state.unbind(-2)
    return torch.stack([omega, -theta.sin()], -2)


def integrate(start: Float[Tensor, "B 2"], points: int = POINTS) -> Float[Tensor, "B 2 T"]:
    """Paths from states (theta, omega), the first of which they are."""
    found = [start[..., None]]
    for _ in range(points - 1):
        found.append(advance(found[-1]))
    return torch.cat(found, -1)


def drift(path: Float[Tensor, "B 2 T"]) -> Float[Tensor, " B"]:
    """The mean over times of |E_t - E_0|."""
    e = energy(path)
    return (e[:, 1:] - e[:, :1]).abs().mean(1)


def defect(path: Float[Tensor, "B 2 T"]) -> Float[Tensor, " B"]:
    """The mean over times of the distance of a state to where the integrator leads from the one before."""
    return (path[..., 1:] - advance(path[..., :-1])).norm(dim=1).mean(1)


def relative_residual(path: Float[Tensor, "B 2 T"]) -> Float[Tensor, " B"]:
    """drift over the mean energy plus defect over the mean distance from rest, which a smaller swing does not make smaller; not
    finite for a path at rest."""
    return drift(path) / energy(path).mean(1) + defect(path) / path.norm(dim=1).mean(1)


def relative_error(path: Float[Tensor, "B 2 T"]) -> Float[Tensor, " B"]:
    """||x - x*|| / ||x*||, x* integrated again from the first state of x; not finite where that is at rest, or not finite."""
    exact = integrate(path[..., 0], path.shape[-1])
    return (path - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)


def draw(count: int, seed: int) -> Float[Tensor, "N 2 T"]:
    """Paths of the law, in fp64."""
    start = np.random.default_rng(seed).uniform(-1, 1, (count, 2)) * (ANGLE, SPEED)
    return integrate(torch.from_numpy(start))
