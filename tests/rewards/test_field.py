"""Rewards of laws: worth, parts, gradients, and what is not measured."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pytest
import torch

from pgdlab.physics import darcy, pendulum
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.field.darcy import DarcyResidual, DarcySolved
from pgdlab.rewards.field.pendulum import PendulumResidual, PendulumSolved
from pgdlab.rewards.guard import guarded

COND = torch.zeros(3, dtype=torch.long)
Over = Literal["pressure", "effect", "cells"]
OVER: tuple[Over, ...] = get_args(Over)


def flows() -> torch.Tensor:
    return darcy.draw(3, 8, seed=0)


def test_the_residual_of_a_pressure_of_zero_is_the_source() -> None:
    """Of 64 cells one has 10 and one -10: the mean of |f| is 20 / 64, whatever K is. As a pressure it is all of that of an even
    K, so that the relative one is 1."""
    sample = flows()
    sample[:, 1] = 0
    for gradients in (False, True):
        score = DarcyResidual(over="cells", gradients=gradients).score(sample, COND)
        torch.testing.assert_close(score.value, torch.full((3,), -np.log10(20 / 64), dtype=torch.float64))
        torch.testing.assert_close(score.parts["residual"], torch.full((3,), 20 / 64, dtype=torch.float64))
        score = DarcyResidual(over="effect", gradients=gradients).score(sample, COND)
        torch.testing.assert_close(score.parts["effect"], torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close(score.value, torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
        assert not DarcyResidual(gradients=gradients).score(sample, COND).measured.any()
    for over in OVER:
        assert DarcyResidual(over=over).score(flows(), COND).value.min() > 11  # data, in fp64


@pytest.mark.parametrize("over", OVER)
def test_both_forms_agree_and_one_has_the_gradient(over: Over) -> None:
    sample = flows() + 0.01 * torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    black, smooth = (DarcyResidual(over=over, gradients=gradients) for gradients in (False, True))
    assert (black.differentiable, smooth.differentiable) == (False, True)
    given = sample.clone().requires_grad_()
    value = smooth.score(given, COND).value
    torch.testing.assert_close(value.detach(), black.score(sample, COND).value, rtol=1e-10, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), given)
    along = torch.randn(sample.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-6
    ends = [black.score(sample + sign * step * along, COND).value for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((slope * along).sum((1, 2, 3)), difference, rtol=1e-4, atol=1e-5)


def test_roughness_weighs_by_the_cells_and_not_as_a_pressure() -> None:
    """Two errors of p of one size at an even K, the slowest wave and the fastest: R is 4 sin^2 times 256 of each (a few hundred
    times as much of the second), and as a pressure both are their share of p."""
    even, at = darcy.solve(np.zeros((16, 16))), np.arange(16) + 0.5
    errors = [0.01 * np.cos(np.pi * k * at / 16)[:, None] * np.ones((1, 16)) for k in (1, 15)]
    errors = [error / np.linalg.norm(error) for error in errors]
    sample = torch.from_numpy(np.stack([np.stack([0 * even, even + error]) for error in errors]))
    share = [1 / np.linalg.norm(even + error) for error in errors]
    np.testing.assert_allclose(DarcyResidual().score(sample, COND[:2]).parts["pressure"], share, rtol=1e-9)
    by_cells = DarcyResidual(over="cells").score(sample, COND[:2]).parts["residual"]
    assert by_cells[1] > 50 * by_cells[0]


def test_evener_fields_pay_by_the_cells_and_not_by_the_effect() -> None:
    """Everything that K does, and the error, at a quarter: log K and p's difference to that of an even K. The mean over cells
    falls to less than half; what is wrong of what K does stays, up to what is not linear in log K. A unit of K is no matter."""
    sample = flows()
    sample[:, 1] += 0.005 * torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    even = torch.from_numpy(darcy.solve(np.zeros((8, 8))))
    calm = torch.stack([sample[:, 0] / 4, even + (sample[:, 1] - even) / 4], 1)
    mean, relative = DarcyResidual(over="cells"), DarcyResidual(over="effect")
    gain = mean.score(calm, COND).value - mean.score(sample, COND).value
    assert gain.min() > np.log10(2)
    assert (relative.score(calm, COND).value - relative.score(sample, COND).value).mean() < 0.1
    other = torch.stack([sample[:, 0] + 0.7, sample[:, 1] * np.exp(-0.7)], 1)
    for reward in (relative, DarcyResidual()):
        torch.testing.assert_close(reward.score(other, COND).value, reward.score(sample, COND).value, rtol=1e-9, atol=0)


def test_a_calmer_pendulum_pays_by_its_sums_and_not_relatively() -> None:
    """Every path at a tenth, error and all: the drift falls a hundredfold and the defect tenfold. At small angles drift and
    energy are squares, and defect and distance are not, so that both ratios stay."""
    g = torch.Generator().manual_seed(0)
    small = 0.1 * (pendulum.draw(3, seed=0) + 0.02 * torch.randn(3, 2, 64, dtype=torch.float64, generator=g))
    sums, relative = PendulumResidual(relative=False), PendulumResidual()
    assert (sums.score(0.1 * small, COND).value - sums.score(small, COND).value).min() > 0.99
    torch.testing.assert_close(
        relative.score(0.1 * small, COND).value, relative.score(small, COND).value, rtol=0.02, atol=0
    )


def test_no_even_permeability_fakes_the_judge() -> None:
    """K = 1 under the pressure of another K: the residual falls with K, the error of the pressure stays."""
    sample = flows()
    sample[:, 0] = 0
    score = DarcySolved().score(sample, COND)
    even = darcy.solve(np.zeros((8, 8)))
    wanted = [np.linalg.norm(p - even) / np.linalg.norm(even) for p in sample[:, 1].numpy()]
    np.testing.assert_allclose(score.parts["error"], wanted, rtol=1e-9)
    np.testing.assert_allclose(score.value, -np.log10(wanted), rtol=1e-6)


RESIDUALS = (DarcyResidual(), DarcyResidual(gradients=True))


@pytest.mark.parametrize(
    ("reward", "bad"), [*((r, torch.nan) for r in (*RESIDUALS, DarcySolved())), (DarcySolved(), -2000.0)]
)
def test_a_solver_that_fails_is_counted_and_paid_nothing(reward: DarcyResidual | DarcySolved, bad: float) -> None:
    """exp(2000) is no number of fp64: a cell that conducts nothing has no pressure, while its residual is known."""
    sample = flows()
    sample[1, 0, 2, 2] = bad
    assert DarcyResidual().score(sample, COND).measured[1] == (bad == -2000)
    assert reward.score(sample, COND).measured.tolist() == [True, False, True]
    paid = guarded(reward, Outcome(sample, COND, 4), max_failed=0.5)
    assert paid.measured.tolist() == [True, False, True]
    assert paid.total[1] == 0
    assert paid.total[0] > 5


def test_of_a_pendulum_by_hand() -> None:
    path = pendulum.draw(3, seed=0)
    assert PendulumResidual().score(path, COND).value.min() > 7.9  # the integrator's own drift
    assert PendulumSolved().score(path, COND).value.min() > 11
    off = path.clone()
    off[0, 1, -1] = torch.nan
    off[1] = 0  # at rest: the law's own solution, of which no relative error is known
    law, solved = PendulumResidual(relative=False).score(off, COND), PendulumSolved().score(off, COND)
    assert law.measured.tolist() == [False, True, True]
    assert law.value[1] > 11
    for judge in (solved, PendulumResidual().score(off, COND)):
        assert judge.measured.tolist() == [False, False, True]
    moved = (path + 0.1).requires_grad_()
    drift, defect = pendulum.drift(moved), pendulum.defect(moved)
    far = moved.square().sum(1).sqrt().mean(1)
    torch.testing.assert_close(
        PendulumResidual(relative=False).score(moved, COND).value, -(drift + defect).log10(), rtol=1e-9, atol=0
    )
    score = PendulumResidual().score(moved, COND)
    wanted = -(drift / pendulum.energy(moved).mean(1) + defect / far).log10()
    torch.testing.assert_close(score.value, wanted, rtol=1e-9, atol=0)
    assert PendulumResidual.differentiable
    (slope,) = torch.autograd.grad(score.value.sum(), moved)
    assert slope.isfinite().all()
    assert (slope != 0).any()
