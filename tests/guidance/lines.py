"""Problems on a line whose laws are known: exact denoisers, three rewards, and psi by numpy on a grid of its own.

Six problems with their right values, computed elsewhere on another grid (2,402 cells, matrices of the chain), are the table
PROBLEMS: log Z, the reward's mean under the base and under T_full.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.points import Gaussian, GaussianMixture
from pgdlab.guidance.base import Potential, Source, Valued
from pgdlab.rewards.base import Reward, Score
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import Plan
from pgdlab.world import World

GRID = np.linspace(-7.0, 7.0, 1401)
FINE = np.linspace(-8.0, 8.0, 401)  # of a standard normal number


@dataclass(frozen=True)
class Line:
    """reward: "linear" x, "quadratic" -(x - b)^2, "indicator" 1[x > b]."""

    mixture: bool
    kind: str
    b: float
    lam: float
    log_z: float
    base: float
    tilted: float


PROBLEMS = {
    "GL": Line(False, "linear", 0.0, 0.5, 1.3611, 0.0, 1.3611),
    "GQ": Line(False, "quadratic", 2.0, 0.5, -2.8064, -4.6806, -0.4715),
    "GI": Line(False, "indicator", 1.5, 0.2, 1.8063, 0.0345, 0.8414),
    "ML": Line(True, "linear", 0.0, 0.5, 0.7345, -0.4413, 0.9367),
    "MQ": Line(True, "quadratic", 0.5, 0.25, -1.9793, -1.6474, -0.1432),
    "MI": Line(True, "indicator", 1.2, 0.2, 1.8587, 0.0367, 0.8498),
}


class OnALine(Reward):
    """Counts what it is asked."""

    def __init__(self, kind: str, b: float) -> None:
        super().__init__()
        self.kind, self.b, self.asked = kind, b, 0
        self.differentiable = kind != "indicator"

    def score(self, sample: Any, cond: Tensor) -> Score:
        self.asked += len(cond)
        x = sample[:, 0].double()
        values = {"linear": x, "quadratic": -((x - self.b) ** 2), "indicator": (x > self.b).double()}
        return Score.of(values[self.kind])


@dataclass(frozen=True)
class Together(Noise):
    """As keyed noise, but one draw for all rows of an iteration: for many rows, in whole batches. fp64."""

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        g = torch.Generator().manual_seed(1_000_003 * self.seed + iteration)
        return iter(torch.randn(steps, len(index), *shape, dtype=torch.float64, generator=g).unbind())

    def uniform(self, iteration: int, index: range, count: int) -> Tensor:
        g = torch.Generator().manual_seed(1_000_003 * self.seed + 500_000 + iteration)
        return torch.rand(len(index), count, dtype=torch.float64, generator=g)


def policy_of(mixture: bool, eta: float, steps: int) -> Policy:
    two = GaussianMixture(weights=(0.7, 0.3), means=((-1.0,), (1.0,)), std=(0.3, 0.3))
    domain = two if mixture else Gaussian()
    initial = Standard(space=domain.space, num_conditions=1, std=1.0).double()
    return Policy(domain.base(), domain.space, initial, DDIM(eta=eta), steps)


def source_of(name: str, slots: int, seed: int = 0, eta: float = 1.0, steps: int = 10, **plan: Any) -> Source:
    """A problem with so many slots, one condition."""
    line = PROBLEMS[name]
    policy = policy_of(line.mixture, eta, steps)
    world = World(
        domain=GaussianMixture() if line.mixture else Gaussian(), policy=policy, reference=policy,
        reward=OnALine(line.kind, line.b), plan=Plan(**({"rollout_batch": 10**9, "eval_samples": max(2, slots)} | plan)),
        noise=Noise(seed),
    )  # fmt: skip
    return Source(world, policy, torch.zeros(slots, dtype=torch.long), Together(seed))


# ---- psi, by numpy alone


@functools.cache
def chain(eta: float, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """alpha, sigma of the states, and u, v, std of the steps: DDIM(eta) between times whose angles are even."""
    angle = np.linspace(math.acos(1e-3), math.asin(1e-2), steps + 1)
    alpha, sigma = np.cos(angle), np.sin(angle)
    a, z, b, s = alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]
    std = eta * s / z * np.sqrt(z**2 - (a / b) ** 2 * s**2)
    u = np.sqrt(s**2 - std**2) / z
    return alpha, sigma, u, b - u * a, std


def mean_of(mixture: bool, x: np.ndarray, h: int, eta: float, steps: int) -> np.ndarray:
    """The reference's mean at states x of step h."""
    alpha, sigma, u, v, _ = chain(eta, steps)
    w, m, c = ([0.7, 0.3], [-1.0, 1.0], 0.3) if mixture else ([1.0], [0.0], 1.0)
    total = alpha[h] ** 2 * c**2 + sigma[h] ** 2
    off = [x - alpha[h] * mk for mk in m]
    parts = np.stack([wk * np.exp(-(ok**2) / (2 * total)) for wk, ok in zip(w, off, strict=True)]) + 1e-300
    share = parts / parts.sum(0)
    x0 = sum(rk * (mk + alpha[h] * c**2 / total * ok) for rk, mk, ok in zip(share, m, off, strict=True))
    return u[h] * x + v[h] * x0


def last(line: Line, mean: np.ndarray, std: float) -> np.ndarray:
    """log E exp(r / lam) under N(mean, std^2): closed forms."""
    k = 1 / line.lam
    if line.kind == "linear":
        return k * mean + (k * std) ** 2 / 2
    if line.kind == "quadratic":
        spread = 1 + 2 * k * std**2
        return -k * (mean - line.b) ** 2 / spread - 0.5 * np.log(spread)
    above = ndtr((mean - line.b) / std) if std > 0 else (mean > line.b).astype(float)
    return np.log1p(np.expm1(k) * above)


@functools.cache
def soft_values(name: str, eta: float = 1.0, steps: int = 10) -> list[np.ndarray]:
    """psi_h = log E[exp(r / lam) | s_h] on the grid, h = 0..H-1: backwards, by trapezoids over the step's noise."""
    line, std = PROBLEMS[name], chain(eta, steps)[4]
    weight = np.exp(-(FINE**2) / 2)
    weight /= weight.sum()
    psi = [last(line, mean_of(line.mixture, GRID, steps - 1, eta, steps), std[-1])]
    for h in reversed(range(steps - 1)):
        after = mean_of(line.mixture, GRID, h, eta, steps)[:, None] + std[h] * FINE
        values = np.interp(after, GRID, psi[0])
        top = values.max(1, keepdims=True)
        psi.insert(0, (top + np.log(np.exp(values - top) @ weight)[:, None])[:, 0])
    return psi


def log_z(name: str, eta: float = 1.0, steps: int = 10) -> float:
    """log E exp(r / lam) of the base."""
    rho = np.exp(-(GRID**2) / 2)
    return float(np.log(np.exp(soft_values(name, eta, steps)[0]) @ (rho / rho.sum())))


def interpolated(table: np.ndarray, x: Tensor) -> Tensor:
    """A function on the grid, linear between its nodes."""
    return torch.from_numpy(np.interp(x[:, 0].double().numpy(), GRID, table))


@dataclass(frozen=True, kw_only=True)
class Exact(Potential):
    """V_h = lam psi_h."""

    name: str
    eta: float = 1.0
    steps: int = 10

    def __call__(self, world: World, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Valued:
        value = PROBLEMS[self.name].lam * interpolated(soft_values(self.name, self.eta, self.steps)[h], x)
        return Valued(value, torch.ones(len(x), dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class Wrong(Potential):
    """sin(3 x), whatever the reward is: weights are right all the same."""

    lam: float

    def __call__(self, world: World, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Valued:
        return Valued(self.lam * (3 * x[:, 0]).sin(), torch.ones(len(x), dtype=torch.bool))
