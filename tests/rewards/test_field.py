"""Rewards of laws: worth, parts, gradients, and what is not measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgdlab.physics import darcy, pendulum
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.field.darcy import DarcyResidual, DarcySolved
from pgdlab.rewards.field.pendulum import PendulumResidual, PendulumSolved
from pgdlab.rewards.guard import guarded

COND = torch.zeros(3, dtype=torch.long)


def flows() -> torch.Tensor:
    return darcy.draw(3, 8, seed=0)


def test_the_residual_of_a_pressure_of_zero_is_the_source() -> None:
    """Of 64 cells one has 10 and one -10: the mean of |f| is 20 / 64, whatever K is."""
    sample = flows()
    sample[:, 1] = 0
    for reward in (DarcyResidual(), DarcyResidual(gradients=True)):
        score = reward.score(sample, COND)
        torch.testing.assert_close(score.value, torch.full((3,), -np.log10(20 / 64), dtype=torch.float64))
        torch.testing.assert_close(score.parts["residual"], torch.full((3,), 20 / 64, dtype=torch.float64))
    assert DarcyResidual().score(flows(), COND).value.min() > 11  # data, in fp64


def test_both_forms_agree_and_one_has_the_gradient() -> None:
    sample = flows() + 0.01 * torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    black, smooth = DarcyResidual(), DarcyResidual(gradients=True)
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
    law, solved = PendulumResidual().score(off, COND), PendulumSolved().score(off, COND)
    assert law.measured.tolist() == [False, True, True]
    assert solved.measured.tolist() == [False, False, True]
    assert law.value[1] > 11
    moved = (path + 0.1).requires_grad_()
    score = PendulumResidual().score(moved, COND)
    value = -(pendulum.drift(moved) + pendulum.defect(moved)).log10()
    torch.testing.assert_close(score.value, value, rtol=1e-9, atol=0)
    assert PendulumResidual.differentiable
    (slope,) = torch.autograd.grad(score.value.sum(), moved)
    assert slope.isfinite().all()
    assert (slope != 0).any()
