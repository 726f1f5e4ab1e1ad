"""The regulator's costs against scipy's Riccati equation, against simulation, and against a search over policies."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from pgdlab.control.linear import LinearQuadratic
from pgdlab.oracle.regulator import Charged, Regulator, matrix

MASS = LinearQuadratic()
GAIN = matrix(((-0.7, -1.1),))
NOISE = matrix(((0.09,),))


def test_without_a_horizon_the_gain_is_that_of_the_algebraic_riccati_equation() -> None:
    """scipy's, of the undiscounted problem with A and B times sqrt(gamma). Its state is paid for before the step, ours after it:
    its P is Q + gamma times ours, and its R is paid a step later, gamma R."""
    gamma = 0.9
    problem = LinearQuadratic(ends="truncated").regulator(gamma)
    a, b, q, r = (x.numpy() for x in (problem.a, problem.b, problem.q, problem.r))
    found = problem.optimum()
    m = problem.q + gamma * found.square[0]
    again = scipy.linalg.solve_discrete_are(gamma**0.5 * a, gamma**0.5 * b, q, gamma * r)
    np.testing.assert_allclose(m.numpy(), again, rtol=1e-8)  # both iterate to 1e-12 and better
    gain = -np.linalg.solve(gamma * r + gamma * b.T @ again @ b, gamma * b.T @ again @ a)
    np.testing.assert_allclose(found.gains[0].numpy(), gain, rtol=1e-8)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_cost_of_a_policy_is_that_of_simulated_episodes(gamma: float) -> None:
    """200,000 episodes, within five standard errors."""
    problem, g = MASS.regulator(gamma), torch.Generator().manual_seed(0)
    n = 200_000
    x = torch.randn(n, 2, dtype=torch.float64, generator=g)
    total = torch.zeros(n, dtype=torch.float64)
    for t in range(MASS.limit):
        action = x @ GAIN.T + 0.3 * torch.randn(n, 1, dtype=torch.float64, generator=g)
        noise = MASS.noise * torch.randn(n, 2, dtype=torch.float64, generator=g)
        x = x @ problem.a.T + action @ problem.b.T + noise
        total += gamma**t * ((x.square() @ problem.q.diag()) + action.square() @ problem.r.diag())
    error = total.std().item() / n**0.5
    assert abs(problem.of(GAIN, NOISE).cost(MASS.initial) - total.mean().item()) < 5 * error


def test_no_policy_nearby_is_cheaper_than_the_optimum() -> None:
    """Constant gains around the stationary optimum, by their exact costs; and noise costs what its own term says."""
    problem = LinearQuadratic(ends="truncated").regulator(0.9)
    best = problem.optimum(NOISE)
    own = best.cost(MASS.initial)
    assert problem.of(best.gains[0], NOISE).cost(MASS.initial) == pytest.approx(own, rel=1e-9)
    for direction in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)):
        assert problem.of(best.gains[0] + matrix((direction,)), NOISE).cost(MASS.initial) > own
    assert problem.optimum().cost(MASS.initial) < own


def test_the_tilted_policy_is_the_base_times_exp_of_minus_the_cost() -> None:
    """One step from x, on a grid of actions: p0(a) exp(-Q(x, a) / lam), its mean, variance, and -lam log of its mass."""
    lam, problem = 0.2, Regulator(*(getattr(MASS.regulator(), f) for f in "abqrw"), horizon=1)
    found, x = problem.tilted(GAIN, NOISE, lam), torch.tensor([0.7, -0.4], dtype=torch.float64)
    a = torch.linspace(-4, 4, 20_001, dtype=torch.float64)
    after = (problem.a @ x)[:, None] + problem.b @ a[None]
    cost = (after * (problem.q @ after)).sum(0) + problem.r[0, 0] * a**2 + (problem.q * problem.w).sum()
    base = torch.exp(-((a - (GAIN @ x)) ** 2) / (2 * NOISE[0, 0])) / (2 * torch.pi * NOISE[0, 0]) ** 0.5
    law = base * torch.exp(-cost / lam)
    mass = torch.trapezoid(law, a)
    mean = torch.trapezoid(law * a, a) / mass
    variance = torch.trapezoid(law * (a - mean) ** 2, a) / mass
    # the grid's error is below 1e-9: the integrands are smooth and vanish at its ends
    assert (found.gains[0] @ x).item() == pytest.approx(mean.item(), rel=1e-8)
    assert found.covariances[0].item() == pytest.approx(variance.item(), rel=1e-8)
    assert found.cost_from(x[None]).item() == pytest.approx(-lam * mass.log().item(), rel=1e-8)


def test_over_several_steps_the_tilted_policy_is_the_best_of_those_nearby() -> None:
    """The cost and the KL of constant policies are larger. With a large lam it is the base itself."""
    problem, lam = LinearQuadratic(ends="truncated").regulator(0.9), 0.1
    best = problem.tilted(GAIN, NOISE, lam)
    own = best.cost(MASS.initial)

    def price(gain: torch.Tensor, covariance: torch.Tensor) -> float:
        charged = Charged(GAIN, torch.linalg.inv(NOISE), lam)
        return problem.solve(lambda h, f: (gain, covariance), charged).cost(MASS.initial)

    assert price(best.gains[0], best.covariances[0]) == pytest.approx(own, rel=1e-9)
    for k in (0.9, 1.1):
        assert price(k * best.gains[0], best.covariances[0]) > own
        assert price(best.gains[0], k * best.covariances[0]) > own
    far = problem.tilted(GAIN, NOISE, 1e7)
    torch.testing.assert_close(far.gains[0], GAIN, rtol=1e-5, atol=1e-5)


def test_what_grows_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="without a horizon it must be"):
        LinearQuadratic(ends="truncated").regulator(1.0)
    with pytest.raises(ValueError, match="grows without bounds"):
        LinearQuadratic(ends="truncated").regulator(0.99).of(matrix(((4.0, 4.0),)), NOISE)
