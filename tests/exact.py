"""The objective of the tiny world in closed form, from the betas up: nothing of pgdlab is used.

The chain is linear and Gaussian: states keep a mean and a variance per coordinate, a quadratic's expectation and a KL
that is quadratic in the state follow from them, and autograd differentiates the lot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.tiny import BETA_END, BETA_START


@dataclass(frozen=True)
class Coefficients:
    """Of one DDIM step: next = from_x x + from_x0 x0(x) + std noise, with x0(x) = a0 x + b0 before tuning."""

    from_x: float
    from_x0: float
    std: float
    a0: float
    b0: Tensor


def steps_of(times: int, eta: float, data_mean: Tensor, data_std: float) -> list[Coefficients]:
    """Song et al. 2021 (arXiv:2010.02502), eq. 12 and 16, in the paper's alpha-bar; t = T-1 .. 0, then alpha-bar 1."""
    bar = np.cumprod(1 - np.linspace(BETA_START, BETA_END, times))
    out = []
    for t in reversed(range(times)):
        now, following = bar[t], bar[t - 1] if t else 1.0
        std = eta * np.sqrt((1 - following) / (1 - now)) * np.sqrt(1 - now / following)
        # x_s = sqrt(b_s) x0 + sqrt(1 - b_s - std^2) (x - sqrt(b) x0) / sqrt(1 - b) + std z
        from_x = np.sqrt(1 - following - std**2) / np.sqrt(1 - now)
        a0 = np.sqrt(now) * data_std**2 / (now * data_std**2 + 1 - now)
        b0 = data_mean * (1 - a0 * np.sqrt(now))
        out.append(Coefficients(from_x, np.sqrt(following) - from_x * np.sqrt(now), std, a0, b0))
    return out


def quadratic(mean: Tensor, var: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
    """E[sum slope x - curvature x^2]."""
    return (slope * mean - curvature * (mean.square() + var)).sum()


def objective(
    shift: Tensor, gain: Tensor, mean: Tensor, log_scale: Tensor, *, eta: float, lam: float, lam0: float,
    slope: Tensor, curvature: Tensor, every: float | None = None, data_mean: Tensor | None = None,
    data_std: float = 0.5, gamma: float = 1.0,
) -> Tensor:  # fmt: skip
    """J = E[sum r] - lam sum_h E[KL_h] - lam0 KL(rho || N(0, I)); shift, gain (T, d) are added to x0's estimate.

    every: the weight of the same reward on the pretrained x0 estimate of each state after the first; None: only the
    sample is paid, with weight 1. The deterministic last step is the pretrained one. gamma: what is paid and charged for
    step h counts gamma^h.
    """
    data_mean = torch.zeros_like(mean) if data_mean is None else data_mean
    steps = steps_of(len(shift), eta, data_mean, data_std)
    m, v = mean, (2 * log_scale).exp()
    total = -lam0 * (0.5 * (m.square() + v - 1) - log_scale).sum()
    for h, c in enumerate(steps):
        t = len(steps) - 1 - h
        off, slant = (shift[t], gain[t]) if c.std > 0 else (torch.zeros_like(m), torch.zeros_like(m))
        if c.std > 0:  # E||c0 (off + slant x)||^2 / (2 std^2)
            moved = (off + slant * m).square() + slant.square() * v
            total = total - gamma**h * lam * c.from_x0**2 * moved.sum() / (2 * c.std**2)
        m, v = (
            (c.from_x + c.from_x0 * (c.a0 + slant)) * m + c.from_x0 * (c.b0 + off),
            (c.from_x + c.from_x0 * (c.a0 + slant)).square() * v + c.std**2,
        )
        if every is not None:
            seen = (steps[h + 1].a0 * m + steps[h + 1].b0, steps[h + 1].a0 ** 2 * v) if h + 1 < len(steps) else (m, v)
            total = total + gamma**h * every * quadratic(*seen, slope, curvature)
    return total if every is not None else total + gamma ** (len(steps) - 1) * quadratic(m, v, slope, curvature)
