"""Projection on the way: exact covariances of a linear chain, shares outside against a grid, what is last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.points import Gaussian
from pgdlab.guidance.base import Source, Steered
from pgdlab.guidance.constraints import Box, Known, Linear
from pgdlab.guidance.gradient import Gradient
from pgdlab.guidance.projection import Projection
from pgdlab.guidance.smc import SMC
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import Plan
from pgdlab.training.build import build_world
from pgdlab.world import World
from tests.guidance.lines import GRID, OnALine, chain, mean_of, source_of
from tests.guidance.test_gradient import Silent
from tests.guidance.test_smc import tiny_source
from tests.worlds import graphs, tiny

STEPS = 10
DATA = np.diag([4.0, 1.0])


@dataclass(frozen=True)
class Basis(Noise):
    """Row i is 1 at number i of a path and 0 else: the samples of a linear chain are the columns of its matrix."""

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        numbers = torch.eye(len(index), dtype=torch.float64)[:, : steps * shape[0]]
        return iter(numbers.reshape(len(index), steps, *shape).unbind(1))


def plane_source(slots: int, noise: Noise) -> Source:
    """N(0, diag(4, 1)) in the plane, fp64."""
    domain = Gaussian(mean=(0.0, 0.0), covariance=((4.0, 0.0), (0.0, 1.0)))
    initial = Standard(space=domain.space, num_conditions=1, std=1.0).double()
    policy = Policy(domain.base().double(), domain.space, initial, DDIM(eta=1.0), STEPS).double()
    world = World(
        domain=domain, policy=policy, reference=policy, reward=OnALine("linear", 0.0),
        plan=Plan(rollout_batch=10**9, eval_samples=slots), noise=Noise(0),
    )  # fmt: skip
    return Source(world, policy, torch.zeros(slots, dtype=torch.long), noise)


def covariance(what: str) -> np.ndarray:
    """Of the samples before the last projection, by the recursion of matrices; the plane is x + y = 0."""
    alpha, sigma, u, v, std = chain(1.0, STEPS)
    along = np.array([1.0, -1.0]) / 2**0.5
    project, cov = np.outer(along, along), np.eye(2)
    for h in range(STEPS):
        estimate = np.diag(alpha[h] * np.diag(DATA) / (alpha[h] ** 2 * np.diag(DATA) + sigma[h] ** 2))
        step = u[h] * np.eye(2) + v[h] * (project @ estimate if what == "x0" else estimate)
        step = project @ step if what == "mean" else step
        cov = step @ cov @ step.T + std[h] ** 2 * np.eye(2)
    return cov


def run(source: Source, **how: Any) -> Steered:
    return next(iter(Projection(**how).steer(source, 10**6)))


@pytest.mark.parametrize(("what", "along"), [("x0", 1.370), ("mean", 1.314)])
def test_the_covariance_of_an_equality(what: str, along: float) -> None:
    """Exactly, since the chain is linear; .0005 to another program. The conditional law has 1.600 along the plane: projecting is
    not conditioning where data are not isotropic. The last projection takes the 1e-4 off the plane away."""
    rows = 2 * (STEPS + 1)
    found = run(plane_source(rows, Basis(0)), constraint=Linear(matrix=[[1.0, 1.0]]), what=what)
    samples = found.trajectory.sample.numpy()
    direction = np.array([1.0, -1.0]) / 2**0.5
    expected = direction @ covariance(what) @ direction
    assert direction @ samples.T @ samples @ direction == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(along, abs=5e-4)
    assert np.abs(samples.sum(1)).max() < 1e-12
    across = np.array([1.0, 1.0]) / 2**0.5
    assert across @ covariance(what) @ across == pytest.approx(1e-4, rel=0.02)


def outside(mixture: bool, low: float, high: float, what: str) -> float:
    """The share outside after the last noise: matrices on a grid up to the last step, whose noise (.01) is integrated."""
    _, _, u, v, std = chain(1.0, STEPS)
    p = np.exp(-(GRID**2) / 2)
    for h in range(STEPS):
        mean = mean_of(mixture, GRID, h, 1.0, STEPS)
        if what == "mean":
            mean = np.clip(mean, low, high)
        else:
            mean = u[h] * GRID + v[h] * np.clip((mean - u[h] * GRID) / v[h], low, high)
        p = p / p.sum()
        if h < STEPS - 1:
            p = p @ np.exp(-((GRID - mean[:, None]) ** 2) / (2 * std[h] ** 2))
    return float(p @ (ndtr((low - mean) / std[-1]) + ndtr((mean - high) / std[-1])))


@pytest.mark.parametrize("what", ["x0", "mean"])
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("GL", 1.0, None), ("GL", -0.5, 0.5), ("ML", None, 0.0)],
    ids=["above", "between", "mixture"],
)
def test_the_share_outside_before_the_last_projection(name: str, low: Any, high: Any, what: Any) -> None:
    """4 standard errors of 20,000. After the last projection there is none."""
    slots, ends = 20_000, (-np.inf if low is None else low, np.inf if high is None else high)
    found = run(source_of(name, slots), constraint=Box(low=low, high=high), what=what)
    share = outside(name == "ML", *ends, what)
    assert 0.005 < share < 0.3
    # less what is within ROUNDING of the border: a hundredth of the noise
    assert found.figures["outside"] == pytest.approx(share, abs=4 * (share / slots) ** 0.5 + 0.01 * share)
    assert found.figures["violation"] > found.figures["violation_after"] == 0
    x = found.trajectory.sample
    assert (x >= ends[0]).all()
    assert (x <= ends[1]).all()


def test_given_coordinates() -> None:
    """The other coordinate of N(0, diag(4, 1)) is independent of the given one: it keeps the base's law."""
    known = run(plane_source(50, Noise(1)), constraint=Known(values=[0.7, None]))
    assert (known.trajectory.sample[:, 0] == 0.7).all()
    base = run(plane_source(50, Noise(1)), constraint=Box(low=-1e9, high=1e9))
    torch.testing.assert_close(known.trajectory.sample[:, 1], base.trajectory.sample[:, 1])


def test_costs_and_batches() -> None:
    """A row a step, and a query for the value of each sample."""
    whole = run(tiny_source(slots=5), constraint=Box(low=0.0), what="mean")
    source = tiny_source(slots=5, rollout_batch=2)
    source.world.reference.denoiser.rows = 0
    parts = run(source, constraint=Box(low=0.0), what="mean")
    torch.testing.assert_close(parts.trajectory.sample, whole.trajectory.sample)
    assert (parts.queries, parts.evaluations) == (5, 5 * 4)
    assert source.world.reference.denoiser.rows == 5 * 4
    assert Projection().law == "none"


def test_particles_inside_the_set() -> None:
    """The projected chain is linear, its samples N(0, C) before the last projection: tilted by x_1 / lam their mean is
    C e_1 / lam, projected 1.370 / 2 lam (1, -1). 4 standard errors, of an effective size of a third."""
    lam, n = 1.0, 4000
    how = SMC(lam=lam, scored=(), particles=n)
    whole = Projection(constraint=Linear(matrix=[[1.0, 1.0]]), then=how)
    found = next(iter(whole.steer(plane_source(1000, Noise(5)), n + 1000)))
    mean = np.eye(2) - 0.5  # the projection onto x + y = 0
    expected = mean @ covariance("x0")[:, 0] / lam
    error = (1.370 / 2 / 1000) ** 0.5 + (3 * 1.370 / 2 / n) ** 0.5
    np.testing.assert_allclose(found.trajectory.sample.mean(0).numpy(), expected, atol=4 * error)
    assert found.figures["violation_after"] < 1e-9
    assert found.figures["particles"] == n
    assert found.value.mean().item() == pytest.approx(expected[0], abs=4 * error)
    assert found.queries == n + 1000


def test_a_gradient_inside_the_set() -> None:
    """psi_h of x_1 by the projected estimate is (P E_h)^T e_1 s / lam, of the sample e_1: the mean of a linear chain."""
    alpha, sigma, u, v, std = chain(1.0, STEPS)
    project, mean = np.eye(2) - 0.5, np.zeros(2)
    data = np.diag(DATA)
    each = [project @ np.diag(a * data / (a**2 * data + s**2)) for a, s in zip(alpha, sigma, strict=True)]
    for h in range(STEPS):
        slope = each[h + 1][0] if h + 1 < STEPS else np.array([1.0, 0.0])
        mean = (u[h] * np.eye(2) + v[h] * each[h]) @ mean + std[h] ** 2 * slope
    source = plane_source(2, Silent(0))
    found = run(source, constraint=Linear(matrix=[[1.0, 1.0]]), then=Gradient(lam=1.0, bound=None))
    np.testing.assert_allclose(found.trajectory.sample[0].numpy(), project @ mean, atol=1e-4)
    with pytest.raises(ValueError, match="what is mean, and then is given"):
        Projection(what="mean", then=Gradient())
    with pytest.raises(ValueError, match=r"2 samples .* take 11 reward queries each, and there are 21"):
        list(Projection(constraint=Linear(matrix=[[1.0, 1.0]]), then=Gradient()).steer(source, 23))


def test_a_tuned_policy_is_projected_itself() -> None:
    tuned, base = (run(tiny_source(slots=5, tuned=t), constraint=Box(low=-5.0, high=5.0)) for t in (True, False))
    assert not torch.equal(tuned.trajectory.sample, base.trajectory.sample)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"values are of shape \(3,\), and samples of \(2,\)"):
        run(tiny_source(), constraint=Known(values=[1.0, None, None]))
    molecules = build_world(compose(tiny(*graphs(), "reward=valid")))
    with pytest.raises(ValueError, match="no plain tables of numbers"):
        run(replace(tiny_source(), policy=molecules.policy))
