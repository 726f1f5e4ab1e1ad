"""The linear-Gaussian oracle against published figures, direct optimisation, Monte Carlo and tilted Gaussians."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.analytic import Mixture
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.schedules import Cosine, DiffusersSchedule, Schedule
from pgdlab.diffusion.space import Dense
from pgdlab.oracle.grid import induction
from pgdlab.oracle.grid import optimum as grid
from pgdlab.oracle.linear_gaussian import AffineChain, Optimum, Problem, affine_chain, evaluate, moments, optimum
from pgdlab.rollout.sampler import rollout
from tests.exact import objective
from tests.tiny import FastNoise, tiny_schedule

ONE = torch.zeros(1, dtype=torch.long)


def base(schedule: Schedule, covariance: Tensor, steps: int, eta: float, mean: Tensor | None = None) -> Policy:
    size = len(covariance)
    mean = torch.zeros(size) if mean is None else mean
    denoiser = Mixture(schedule, torch.ones(1), mean[None], covariance[None])
    space = Dense((size,))
    return Policy(denoiser, space, Standard(space=space, num_conditions=1, std=1.0), DDIM(eta=eta), steps)


def problem(policy: Policy, slope: list[float], curvature: list[float], **more: Any) -> Problem:
    lam = more.pop("lam", 0.5)
    a, b = torch.tensor(slope, dtype=torch.float64), torch.tensor(curvature, dtype=torch.float64).diag()
    return Problem(affine_chain(policy, ONE), a, b, lam, more.pop("lam0", lam), **more)


def linear_betas() -> DiffusersSchedule:
    """The chain of the published table: 20 steps, betas linear from 1e-4 to .4."""
    config = {
        "num_train_timesteps": 20, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.4,
        "prediction_type": "sample", "clip_sample": False, "timestep_spacing": "leading", "set_alpha_to_one": True,
    }  # fmt: skip
    return DiffusersSchedule(config)


@pytest.mark.parametrize(
    ("eta", "shares"), [(1.0, (100, 0, 100)), (0.5, (71, 29, 100)), (0.2, (17, 83, 100)), (0.0, (0, 100, 100))]
)
def test_the_table_of_shares(eta: float, shares: tuple[int, ...]) -> None:
    # reward 2x, KL weight 1, data N(0, .25); the ideal tilt moves the mean by 2 Var: +4 Var of reward
    policy = base(linear_betas(), 0.25 * torch.eye(1), 20, eta)
    found = []
    for denoiser, rho in ((True, False), (False, True), (True, True)):
        p = problem(policy, [2.0], [0.0], lam=1.0, trains_denoiser=denoiser, trains_initial=rho)
        variance = moments(p.reference)[-1][1].item()
        gain = optimum(p).value.reward - evaluate(p.reference, p).reward
        found.append(100 * gain.item() / (4 * variance))
    assert found == pytest.approx(shares, abs=0.5)  # the table is given in whole percents


def test_ceiling_and_attainable_differ_for_a_quadratic_reward() -> None:
    best = optimum(problem(base(Cosine(), torch.eye(1), 10, 1.0), [0.0], [2.0]))
    assert best.value.objective.item() == pytest.approx(-0.533, abs=5e-4)
    assert best.ceiling.item() == pytest.approx(-0.466, abs=5e-4)


@pytest.mark.parametrize(("eta", "rho", "value"), [(1.0, False, 1.359), (1.0, True, 1.359), (0.5, False, 0.906),
                                                   (0.5, True, 1.534), (0.0, False, 0.0), (0.0, True, 1.566)])  # fmt: skip
def test_the_sum_of_two_coordinates(eta: float, rho: bool, value: float) -> None:
    p = problem(base(Cosine(), torch.eye(2), 10, eta), [1.0, 1.0], [0.0, 0.0], trains_initial=rho)
    # the figures were derived on a grid of times slightly different from ours
    assert optimum(p).value.objective.item() == pytest.approx(value, abs=0.003)


@pytest.mark.parametrize(("denoiser", "rho"), [(True, False), (False, True), (True, True)])
def test_it_is_what_direct_optimisation_finds(denoiser: bool, rho: bool) -> None:
    # the objective of tests.exact, written from the betas up, maximised by L-BFGS over all steps' gains and shifts
    settings = {"eta": 0.7, "lam": 0.6, "lam0": 0.25}
    slope, curvature = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.8, 0.3]).double()
    free = [torch.zeros(4, 2, dtype=torch.float64, requires_grad=denoiser) for _ in range(2)]
    free += [torch.zeros(2, dtype=torch.float64, requires_grad=rho) for _ in range(2)]
    trained = [x for x in free if x.requires_grad]
    solver = torch.optim.LBFGS(
        trained, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = -objective(*free, slope=slope, curvature=curvature, **settings)
        value.backward()
        return value

    solver.step(loss)
    policy = base(tiny_schedule(), 0.25 * torch.eye(2), 4, settings["eta"])
    p = problem(
        policy, slope.tolist(), curvature.tolist(), lam=0.6, lam0=0.25, trains_denoiser=denoiser, trains_initial=rho
    )
    # both are exact; the optimiser stops where the gradient is 1e-12 or the line search gives up
    assert optimum(p).value.objective.item() == pytest.approx(-loss().item(), abs=1e-7)


def correlated(**more: Any) -> tuple[Policy, Problem]:
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]])
    policy = base(Cosine(), covariance, 6, 0.8, torch.tensor([0.5, -0.5]))
    return policy, problem(policy, [1.0, 0.5], [0.8, 0.3], **more)


def test_no_perturbation_is_better() -> None:
    _, p = correlated(trains_initial=True)
    best = optimum(p)
    g = torch.Generator().manual_seed(0)
    for name in ("gain", "shift", "mean", "scale"):
        for size in (0.03, 0.003):
            field = getattr(best.chain, name)
            moved = field + size * torch.randn(field.shape, generator=g, dtype=torch.float64)
            changed = AffineChain(**{**vars(best.chain), name: moved})
            assert evaluate(changed, p).objective.item() < best.value.objective.item()


def test_figures_of_a_policy_by_monte_carlo() -> None:
    policy, p = correlated(trains_initial=True)
    best = optimum(p)
    n = 200_000
    x = best.chain.mean + best.chain.scale * torch.randn(n, 2, generator=torch.Generator().manual_seed(1)).double()
    path = torch.zeros(n, dtype=torch.float64)
    z = torch.randn(policy.steps, n, 2, generator=torch.Generator().manual_seed(2)).double()
    for h in range(policy.steps):
        reference = policy(x, torch.full((n,), h), torch.zeros(n, dtype=torch.long))
        mean = x @ best.chain.gain[0, h].T + best.chain.shift[0, h]
        path += (mean - reference.mean).square().sum(1) / (2 * policy.std[h] ** 2)
        x = mean + policy.std[h] * z[h]
    reward = x @ p.slope - (x.square() @ p.curvature.diag())
    for sampled, exact in ((reward, best.value.reward), (path, best.value.path_kl)):
        assert abs(sampled.mean() - exact.item()) < 4.5 * sampled.std() / n**0.5  # one in 150,000 by chance


def test_the_value_function_by_monte_carlo_from_a_state() -> None:
    policy, p = correlated()
    best = optimum(p)
    start, n = torch.tensor([[0.7, -1.2]]).double(), 100_000
    for first in (0, 3):
        x, value = start.expand(n, 2).clone(), torch.zeros(n, dtype=torch.float64)
        g = torch.Generator().manual_seed(first)
        for h in range(first, policy.steps):
            reference = policy(x, torch.full((n,), h), torch.zeros(n, dtype=torch.long))
            mean = x @ best.chain.gain[0, h].T + best.chain.shift[0, h]
            value -= p.lam * (mean - reference.mean).square().sum(1) / (2 * policy.std[h] ** 2)
            x = mean + policy.std[h] * torch.randn(n, 2, generator=g).double()
        value += x @ p.slope - (x.square() @ p.curvature.diag())
        exact = best.functions[first](start).item()
        assert abs(value.mean().item() - exact) < 4.5 * value.std().item() / n**0.5


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_the_joint_ceiling_is_the_tilt_of_the_samples(eta: float) -> None:
    # with lam0 = lam and every random number steerable, the ceiling is lam log E[exp(r / lam)] over the final samples,
    # here the Gaussian integral of a quadratic
    p = problem(base(Cosine(), torch.eye(1), 8, eta), [0.7], [0.4], trains_initial=True)
    mean, variance = (x.item() for x in moments(p.reference)[-1])
    assert mean == pytest.approx(0, abs=1e-12)
    b, c = 0.7 / p.lam, 0.4 / p.lam
    # E exp(bx - cx^2) = (1 + 2cv)^-1/2 exp(b^2 v / (2 (1 + 2cv)))
    exact = p.lam * (b**2 * variance / (2 * (1 + 2 * c * variance)) - 0.5 * math.log(1 + 2 * c * variance))
    assert optimum(p).ceiling.item() == pytest.approx(exact, abs=1e-10)


def test_for_a_linear_reward_the_ceiling_is_attained() -> None:
    for rho in (False, True):
        best: Optimum = optimum(
            problem(base(Cosine(), torch.eye(2), 7, 0.6), [1.0, -2.0], [0.0, 0.0], trains_initial=rho)
        )
        assert best.value.objective.item() == pytest.approx(best.ceiling.item(), abs=1e-10)


def test_the_chains_moments_are_those_of_its_rollouts() -> None:
    policy, p = correlated()
    n = 100_000
    trajectory = rollout(policy, policy, FastNoise(0).of(0, range(n)), torch.zeros(n, dtype=torch.long), batch=n)
    mean, cov = moments(p.reference)[-1]
    error = trajectory.sample.std(0) / n**0.5
    assert ((trajectory.sample.mean(0) - mean[0]).abs() < 4.5 * error).all()
    assert torch.allclose(trajectory.sample.double().T.cov(), cov[0], atol=0.02)  # 4 errors of a variance near 1


def test_what_has_no_optimum_or_is_not_affine_is_refused() -> None:
    with pytest.raises(ValueError, match="unbounded at step"):
        optimum(problem(base(Cosine(), torch.eye(1), 5, 1.0), [0.0], [-2.0]))
    two = Mixture(Cosine(), torch.ones(2), torch.tensor([[-1.0], [1.0]]), 0.1 * torch.eye(1).expand(2, 1, 1))
    space = Dense((1,))
    policy = Policy(two, space, Standard(space=space, num_conditions=1, std=1.0), DDIM(), 5)
    with pytest.raises(ValueError, match="must be affine"):
        affine_chain(policy, ONE)


@pytest.mark.parametrize(("eta", "rho"), [(1.0, False), (0.4, True)])
def test_the_grid_oracle_finds_the_same(eta: float, rho: bool) -> None:
    # two routes with nothing in common: Riccati matrices, and tables of the value on a grid
    policy = base(Cosine(), 0.7 * torch.eye(1), 6, eta, torch.tensor([0.3]))
    p = problem(policy, [0.8], [0.9], trains_initial=rho)
    exact = optimum(p)
    on_grid = induction.Problem(
        reference=policy, reward=lambda x: 0.8 * x[:, 0] - 0.9 * x[:, 0] ** 2, lam=p.lam, trains_initial=rho
    )
    found = grid.attainable(on_grid)
    pairs = [
        (found.objective, exact.value.objective), (found.reward, exact.value.reward), (found.path_kl, exact.value.path_kl),
        (found.initial_kl, exact.value.initial_kl), (grid.ceiling(on_grid).objective, exact.ceiling),
    ]  # fmt: skip
    for one, other in pairs:
        assert one == pytest.approx(other.item(), abs=1e-5)  # smooth rewards: the grid's own error is below 1e-8
    x = torch.tensor([[-1.0], [0.2], [1.5]]).double()
    torch.testing.assert_close(found.value(x, 2), exact.functions[2](x[None])[0], rtol=0, atol=1e-5)
