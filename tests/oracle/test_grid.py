"""The grid oracle by other routes: recursions for quadratics, tails of Gaussians, Monte-Carlo, direct optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import ndtr
from torch import Tensor, nn

from pgdlab.diffusion.analytic import Mixture
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import Diagonal, Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.schedules import Cosine, Schedule
from pgdlab.diffusion.space import Dense
from pgdlab.oracle.grid.optimum import Problem, Solution, attainable, bounded, ceiling, evaluate
from tests.exact import objective
from tests.tiny import moved, tiny_policy, tiny_schedule

SOLVERS = {"attainable": attainable, "ceiling": ceiling}


def chain(
    means: list[list[float]], stds: list[list[float]], *, weights: list[float] | None = None, steps: int = 10,
    eta: float = 1.0, schedule: Schedule | None = None,
) -> Policy:  # fmt: skip
    """Of a mixture with axis-parallel components; fp64."""
    m, s = torch.tensor(means).double(), torch.tensor(stds).double()
    w = torch.tensor(weights or [1.0] * len(means)).double()
    space = Dense((m.shape[1],))
    denoiser = Mixture(schedule or Cosine(), w, m, torch.diag_embed(s.square()))
    return Policy(denoiser, space, Standard(space=space, num_conditions=1, std=1.0).double(), DDIM(eta=eta), steps)


def two_hills(steps: int = 4) -> Policy:
    """Two Gaussians, betas from .1 to .6; the last step is deterministic, so that V there jumps with the reward."""
    return chain([[-1.0], [1.0]], [[0.3], [0.5]], weights=[0.6, 0.4], steps=steps, schedule=tiny_schedule())


def above(threshold: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (x[:, 0] > threshold).double()


def affine(policy: Policy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gain, shift and std of each step of a 1-D Gaussian chain, from the denoiser's formula."""
    denoiser, schedule = policy.denoiser, policy.denoiser.schedule
    m, var = float(denoiser.means[0, 0]), float(denoiser.spread[0, 0])  # type: ignore[index]
    t = policy.times
    a, s = schedule.alpha(t).numpy(), schedule.sigma(t).numpy()
    k = a[:-1] * var / (a[:-1] ** 2 * var + s[:-1] ** 2)
    fx, f0 = policy.from_x.numpy(), policy.from_x0.numpy()
    return fx + f0 * k, f0 * m * (1 - k * a[:-1]), policy.std.numpy()


def riccati(
    policy: Policy, rewards: dict[int, tuple[float, float]], lam: float, kind: str, rho: bool, lam0: float
) -> float:
    """J for r_h = slope z - curvature z^2, by V_h = p x^2 + q x + c, in scalars.

    A step from mean y: with U = p z^2 + q z and k = 1 - 2 p std^2 / lam,
    ceiling: lam log E exp(U / lam) = (p y^2 + q y + q^2 std^2 / (2 lam)) / k - lam/2 log k;
    attainable: max_m E U - lam (m - y)^2 / (2 std^2) = p std^2 + (p y^2 + q y + q^2 std^2 / (2 lam)) / k.
    """

    def step(p: float, q: float, var: float, lam: float) -> tuple[float, float, float]:
        k = 1 - 2 * p * var / lam
        c = -lam / 2 * math.log(k) if kind == "ceiling" else p * var
        return p / k, q / k, c + q * q * var / (2 * lam * k)

    gain, shift, std = affine(policy)
    p = q = c = 0.0
    for h in reversed(range(len(std))):
        slope, curvature = rewards.get(h, (0.0, 0.0))
        p, q = p - curvature, q + slope
        if std[h] > 0:
            p, q, more = step(p, q, std[h] ** 2, lam)
            c += more
        p, q, c = p * gain[h] ** 2, (2 * p * shift[h] + q) * gain[h], p * shift[h] ** 2 + q * shift[h] + c
    if not rho:
        return p + c
    if kind == "ceiling":
        return step(p, q, 1.0, lam0)[2] + c
    best = minimize(  # Gaussian rho: a quadratic in the mean and p s^2 - lam0 (s^2 - 1 - log s^2) / 2 in the scale
        lambda v: -(p * (v[0] ** 2 + v[1] ** 2) + q * v[0] - lam0 * 0.5 * (v[0] ** 2 + v[1] ** 2 - 1 - 2 * np.log(v[1]))),
        [0.1, 0.9], bounds=[(None, None), (1e-3, None)], tol=1e-14,
    )  # fmt: skip
    return float(-best.fun) + c


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize("rho", [False, True])
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_quadratic_rewards_against_a_recursion(kind: str, rho: bool, eta: float) -> None:
    """Also of intermediate states, and with a lam0 of its own. Tolerance: quintic splines on 1,000 nodes."""
    policy = chain([[0.5]], [[0.7]], steps=6, eta=eta)
    rewards = {5: (0.8, 0.9), 2: (-0.5, 0.2)}
    problem = Problem(
        reference=policy, lam=0.5, lam0=0.3, trains_initial=rho,
        reward=lambda x: 0.8 * x[:, 0] - 0.9 * x[:, 0] ** 2,
        running={2: lambda x: -0.5 * x[:, 0] - 0.2 * x[:, 0] ** 2},
    )  # fmt: skip
    found = SOLVERS[kind](problem)
    assert found.objective == pytest.approx(riccati(policy, rewards, 0.5, kind, rho, 0.3), abs=1e-6)
    total = found.reward - 0.5 * found.path_kl - 0.3 * found.initial_kl
    assert found.objective == pytest.approx(total, abs=1e-12)
    assert (found.initial_kl > 1e-3) == (rho and eta < 1)  # DDPM forgets s_0
    assert found.error < 1e-5


@pytest.mark.parametrize("kind", SOLVERS)
def test_an_optimum_many_stds_away(kind: str) -> None:
    """A reward of the first state that moves its mean by 8 stds: grids and integrals follow. The recursion, as above."""
    policy = chain([[0.0]], [[1.0]], steps=2)
    problem = Problem(
        reference=policy, reward=lambda x: x[:, 0], running={0: lambda x: -12 * x[:, 0] - 0.5 * x[:, 0] ** 2}, lam=0.5
    )
    found = SOLVERS[kind](problem)
    exact = riccati(policy, {0: (-12.0, 0.5), 1: (1.0, 0.0)}, 0.5, kind, False, 0.5)
    assert found.objective == pytest.approx(exact, rel=1e-6)
    assert found.mean(torch.zeros(1, 1).double(), 0).item() < -7 * float(policy.std[0])


def test_the_two_optima_of_the_page() -> None:
    """The two examples of docs/oracle/grid.md: the cosine schedule (alpha_min 1e-3, sigma_min 1e-2), DDPM, 10 steps, N(0, 1).

    For 1[x > 1] the attainable value is .7350; the .730 in circulation is what a grid of 1,400 nodes gives by cell-wise sums
    (5,600 nodes: .7347). The ceiling is lam log(1 + (e^(1/lam) - 1) P), P the chain's own tail.
    """
    policy = chain([[0.0]], [[1.0]])
    square = Problem(reference=policy, reward=lambda x: -2 * x[:, 0] ** 2, lam=0.5)
    assert attainable(square).objective == pytest.approx(-0.533, abs=5e-4)
    assert ceiling(square).objective == pytest.approx(-0.466, abs=5e-4)
    gain, _, std = affine(policy)
    var = 1.0
    for g, s in zip(gain, std, strict=True):
        var = g * g * var + s * s
    tail = ndtr(-1 / math.sqrt(var))
    step = Problem(reference=policy, reward=above(1.0), lam=0.1)
    best = ceiling(step)
    assert best.objective == pytest.approx(0.1 * math.log1p(math.expm1(10) * tail), abs=1e-4)
    assert best.reward == pytest.approx(math.exp(10) * tail / (1 + math.expm1(10) * tail), abs=1e-4)
    assert attainable(step).objective == pytest.approx(0.7350, abs=1e-4)
    assert evaluate(policy, step).reward == pytest.approx(tail, rel=1e-5)


def paths(solution: Solution, policy: Policy, n: int) -> tuple[Tensor, Tensor]:
    """Final states, and the path's KL, of n draws of the optimal policy."""
    g = torch.Generator().manual_seed(1)
    x = solution.rho.mean + solution.rho.std * torch.randn(n, 1, generator=g, dtype=torch.float64)
    kl, cond = torch.zeros(n).double(), torch.zeros(n).long()
    for h in range(policy.steps):
        m, std = solution.mean(x, h), float(policy.std[h])
        if std > 0:
            kl += (m - policy(x, cond + h, cond).mean).square().sum(1) / (2 * std**2)
        x = m + std * torch.randn(n, 1, generator=g, dtype=torch.float64)
    return x, kl


def test_the_optimal_policy_earns_what_it_should() -> None:
    """By sampling it, with a reward that jumps after a deterministic step, two modes, and a trained rho; 4 errors."""
    policy, n = two_hills(), 100_000
    problem = Problem(reference=policy, reward=above(1.2), lam=0.2, trains_initial=True)
    found = attainable(problem)
    x, kl = paths(found, policy, n)
    paid = problem.reward(x)
    assert found.reward == pytest.approx(float(paid.mean()), abs=4 * float(paid.std()) / math.sqrt(n))
    assert found.path_kl == pytest.approx(float(kl.mean()), abs=4 * float(kl.std()) / math.sqrt(n))
    mean, std = found.rho.mean.item(), found.rho.std.item()
    assert found.initial_kl == pytest.approx(0.5 * (mean**2 + std**2 - 1) - math.log(std), abs=1e-12)
    assert found.initial_kl > 0.01
    again = found.value(torch.tensor([[0.3]]).double(), 0)
    alone = replace(found, rho=type(found.rho)(torch.tensor([[0.3]]), torch.tensor([[0.0]])))
    x, kl = paths(alone, policy, n)
    worth = problem.reward(x) - 0.2 * kl
    assert float(again) == pytest.approx(float(worth.mean()), abs=4 * float(worth.std()) / math.sqrt(n))


def test_the_ceiling_against_weighted_samples() -> None:
    """With rho free and lam0 = lam: lam log mean exp(r / lam) over the reference's samples, E[r] by those weights; 4
    errors."""
    policy, lam, n = two_hills(), 0.3, 200_000
    problem = Problem(reference=policy, reward=lambda x: (x[:, 0].abs() < 0.4).double() - x[:, 0].abs(), lam=lam)
    found = ceiling(replace(problem, trains_initial=True))
    still = attainable(replace(problem, trains_denoiser=False))  # with nothing to train: the reference
    x, kl = paths(still, policy, n)
    assert float(kl.max()) == 0.0 == still.path_kl
    w, r = (problem.reward(x) / lam).exp(), problem.reward(x)
    error = float(w.std() / w.mean()) / math.sqrt(n)
    assert found.objective == pytest.approx(lam * float(w.mean().log()), abs=4 * lam * error)
    reward = float((w * r).mean() / w.mean())
    spread = float((w * (r - reward)).std() / w.mean()) / math.sqrt(n)
    assert found.reward == pytest.approx(reward, abs=4 * spread)
    assert still.reward == pytest.approx(float(r.mean()), abs=4 * float(r.std()) / math.sqrt(n))
    assert still.objective < attainable(problem).objective < ceiling(problem).objective < found.objective


def test_no_mean_function_does_better() -> None:
    """Means of 3 steps at 161 nodes each, optimised by L-BFGS on a Markov chain over the nodes: from below, to 1e-3
    (one basin: with several, L-BFGS stays in that of the start)."""
    policy = chain([[-0.8], [1.0]], [[0.5], [0.6]], steps=3, schedule=Cosine(sigma_min=0.2))
    lam, x = 0.2, torch.linspace(-5, 5, 161, dtype=torch.float64)
    reward = lambda z: torch.sigmoid(2 * (z[:, 0] - 1))  # noqa: E731
    zero = torch.zeros(161).long()
    y = torch.stack([policy(x[:, None], zero + h, zero).mean[:, 0] for h in range(3)]).detach()
    start, std = (-0.5 * x**2).softmax(0), policy.std[:, None]
    moves = torch.zeros_like(y, requires_grad=True)  # in stds

    def worth() -> Tensor:
        p, total = start, torch.zeros(()).double()
        for h in range(3):
            total = total - lam * (p * moves[h].square() / 2).sum()
            p = p @ (-0.5 * ((x - (y[h] + std[h] * moves[h])[:, None]) / std[h]).square()).softmax(1)
        return total + (p * reward(x[:, None])).sum()

    optimizer = torch.optim.LBFGS(
        [moves], max_iter=400, history_size=30, line_search_fn="strong_wolfe", tolerance_change=1e-10
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -worth()
        loss.backward()
        return loss

    optimizer.step(closure)
    problem = Problem(reference=policy, reward=reward, lam=lam)
    best = attainable(problem)
    assert best.objective - 1e-3 < worth().item() <= best.objective + 1e-5
    assert best.objective > evaluate(policy, problem).objective + 0.1  # so that there was something to find
    here = start * (y[0] + std[0] * moves[0].detach() - best.mean(x[:, None], 0)[:, 0]).abs()
    assert float(here.sum()) < 0.02  # the means agree where states are


@pytest.mark.parametrize("kind", SOLVERS)
def test_separate_coordinates_add(kind: str) -> None:
    """A product base and a sum of rewards are two problems of one dimension. Data: N((.5, -.3), diag(.7, 1)^2)."""
    first, second = chain([[0.5]], [[0.7]], steps=3), chain([[-0.3]], [[1.0]], steps=3)
    both = chain([[0.5, -0.3]], [[0.7, 1.0]], steps=3)
    one, other = (lambda x: torch.sin(3 * x)), (lambda x: -((x - 1) ** 2))
    shared = {"lam": 0.4, "lam0": 0.6, "trains_initial": True}
    a = SOLVERS[kind](Problem(reference=first, reward=lambda x: one(x[:, 0]), **shared))
    b = SOLVERS[kind](Problem(reference=second, reward=lambda x: other(x[:, 0]), **shared))
    total = Problem(reference=both, reward=lambda x: one(x[:, 0]) + other(x[:, 1]), points=70, **shared)
    found = SOLVERS[kind](total)
    for name in ("objective", "reward", "path_kl", "initial_kl"):
        assert getattr(found, name) == pytest.approx(getattr(a, name) + getattr(b, name), abs=2e-4)
    x = torch.tensor([[0.2, -0.5], [1.0, 0.7]]).double()
    apart = torch.cat([a.mean(x[:, :1], 1), b.mean(x[:, 1:], 1)], 1)
    torch.testing.assert_close(found.mean(x, 1), apart, rtol=0, atol=1e-3)


def test_a_moved_policy_is_evaluated_exactly() -> None:
    """The tiny world's policy, off its optimum, with rho: against its closed form. 2-D, rotated by nothing."""
    reference = tiny_policy(eta=0.8, rho=True)
    policy = moved(tiny_policy(eta=0.8, rho=True), seed=3)
    slope, curvature = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.8, 0.3]).double()
    p = dict(policy.named_parameters())
    exact = objective(
        p["denoiser.shift"], p["denoiser.gain"], p["initial.mean"], p["initial.log_scale"], eta=0.8, lam=0.3,
        lam0=0.2, slope=slope, curvature=curvature,
    )  # fmt: skip
    problem = Problem(
        reference=reference.reference(), lam=0.3, lam0=0.2, reward=lambda x: x @ slope - x.square() @ curvature
    )
    found = evaluate(policy, problem)
    assert found.objective == pytest.approx(exact.item(), abs=1e-6)
    assert found.path_kl > 0.1 < found.initial_kl
    assert evaluate(reference, problem).path_kl == 0.0


class Detour(Denoiser):
    """A reference and a bump on it: no affine policy."""

    def __init__(self, base: Denoiser) -> None:
        super().__init__()
        self.base, self.schedule, self.size = base, base.schedule, nn.Parameter(torch.tensor(0.4).double())

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.base(x, t, cond) + self.size * torch.cos(2 * x)

    def frozen(self) -> Denoiser:
        return self.base


def test_a_nonlinear_policy_against_samples() -> None:
    """J of a policy that no recursion covers, 200,000 paths, 4 errors; and below the optimum."""
    reference, n = two_hills(), 200_000
    rho = Diagonal(space=reference.space, num_conditions=1, std=1.0).double()
    rho.mean.data.fill_(0.3)
    rho.log_scale.data.fill_(-0.2)
    policy = Policy(Detour(reference.denoiser), reference.space, rho, DDIM(eta=1.0), 4)
    problem = Problem(reference=reference, reward=above(0.9), lam=0.3, trains_initial=True)
    found = evaluate(policy, problem)
    g, cond = torch.Generator().manual_seed(2), torch.zeros(n).long()
    draw = lambda: torch.randn(n, 1, generator=g, dtype=torch.float64)  # noqa: E731
    with torch.no_grad():
        x, kl = 0.3 + math.exp(-0.2) * draw(), torch.zeros(n).double()
        for h in range(4):
            base, own = reference(x, cond + h, cond), policy(x, cond + h, cond)
            if h < 3:
                kl += ((own.mean - base.mean) / own.std).square().sum(1) / 2
            x = (own if h < 3 else base).sample(draw())
    paid = problem.reward(x)
    assert found.reward == pytest.approx(float(paid.mean()), abs=4 * float(paid.std()) / math.sqrt(n))
    assert found.path_kl == pytest.approx(float(kl.mean()), abs=4 * float(kl.std()) / math.sqrt(n))
    assert found.initial_kl == pytest.approx(0.5 * (0.09 + math.exp(-0.4) - 1) + 0.2, abs=1e-12)
    assert found.objective < attainable(problem).objective < ceiling(problem).objective


def test_rho_alone_under_the_ode() -> None:
    """A Gaussian chain without noise is x -> a x + b, so V_0 = 1[x > c]: the ceiling's tilt of the prior is a sum of two
    tails, the best Gaussian's E[V_0] = Phi((m - c) / s)."""
    policy = chain([[0.3]], [[0.6]], steps=5, eta=0.0)
    gain, shift, _ = affine(policy)
    a, b = 1.0, 0.0
    for g, s in zip(gain, shift, strict=True):
        a, b = a * g, b * g + s
    c, lam0 = (1.0 - b) / a, 0.25
    problem = Problem(reference=policy, reward=above(1.0), lam=1.0, lam0=lam0, trains_initial=True)
    assert ceiling(problem).objective == pytest.approx(lam0 * math.log1p(math.expm1(1 / lam0) * ndtr(-c)), abs=2e-5)
    best = minimize(
        lambda v: lam0 * (0.5 * (v[0] ** 2 + np.exp(2 * v[1]) - 1) - v[1]) - ndtr((v[0] - c) / np.exp(v[1])),
        [1.0, -0.5], tol=1e-12,
    )  # fmt: skip
    found = attainable(problem)
    assert found.objective == pytest.approx(-best.fun, abs=2e-5)
    assert found.rho.mean.item() == pytest.approx(best.x[0], abs=1e-2)
    assert found.path_kl == 0.0
    assert evaluate(policy, problem).objective == pytest.approx(ndtr(-c), abs=2e-5)


def test_the_hard_maximum_pushes_to_the_edge_of_its_box() -> None:
    """With 1[x > 1] and an affine chain of positive gains every mean moves up by box std: a shifted Gaussian's tail."""
    policy, box = chain([[0.0]], [[0.5]], steps=5), 0.3
    gain, shift, std = affine(policy)
    mean, var = 0.0, 1.0
    for g, b, s in zip(gain, shift, std, strict=True):
        mean, var = g * mean + b + box * s, g * g * var + s * s
    problem = Problem(reference=policy, reward=above(1.0), lam=1.0, trains_initial=True, points=400)
    found = bounded(problem, box)
    assert found.objective == found.reward == pytest.approx(ndtr((mean - 1) / math.sqrt(var)), abs=5e-5)
    assert found.path_kl < 5 * box**2 / 2  # of equally good means, the one that costs nothing
    assert found.initial_kl == 0.0
    plane = chain([[0.0, 0.0]], [[0.5, 0.5]], steps=3)
    quiet = Problem(reference=plane, reward=lambda x: -x.square().sum(1), lam=1.0, points=24, tolerance=0.1)
    line = Problem(reference=chain([[0.0]], [[0.5]], steps=3), reward=lambda x: -x[:, 0].square(), lam=1.0)
    assert bounded(quiet, box).objective == pytest.approx(2 * bounded(line, box).objective, abs=2e-3)


@pytest.mark.parametrize("kind", SOLVERS)
def test_the_error_is_about_what_it_says(kind: str) -> None:
    """Few nodes against many, for a jump; a tolerance that is not kept names a number of points that does."""
    problem = Problem(reference=two_hills(), reward=above(1.237), lam=0.1, tolerance=1.0)
    solve = SOLVERS[kind]
    exact = solve(replace(problem, points=1500)).objective
    off, said = [], []
    for points in (60, 100, 160, 320):
        found = solve(replace(problem, points=points))
        off.append(abs(found.objective - exact))
        said.append(found.error)
    assert sum(off) <= sum(said)
    assert off[-1] < 1e-4 > said[-1] / 10
    wanted = found.error / 3
    with pytest.raises(ValueError, match=r"points=\d+") as refused:
        solve(replace(problem, points=40, tolerance=wanted))
    enough = int(str(refused.value).split("points=")[1].split()[0])
    assert solve(replace(problem, points=enough, tolerance=wanted)).error <= wanted


@pytest.mark.parametrize("kind", SOLVERS)
def test_the_value_can_be_differentiated(kind: str) -> None:
    """Value guidance: autograd against central differences of step 1e-4; and V_H = 0, nothing being left to earn."""
    found = SOLVERS[kind](Problem(reference=two_hills(), reward=lambda x: torch.sin(2 * x[:, 0]), lam=0.3))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].requires_grad_()
    for h in range(4):
        (slope,) = torch.autograd.grad(found.value(x, h).sum(), x)
        ahead, behind = found.value(x.detach() + 1e-4, h), found.value(x.detach() - 1e-4, h)
        torch.testing.assert_close(slope[:, 0], (ahead - behind) / 2e-4, rtol=1e-4, atol=1e-5)
    assert not found.value(x, 4).any()


def test_the_ceilings_mean_is_the_tilted_mean() -> None:
    """E[z exp(V_1(z) / lam)] / E[exp(V_1(z) / lam)] over 200,000 draws of the reference's step."""
    policy, lam = two_hills(), 0.3
    found = ceiling(Problem(reference=policy, reward=above(1.2), lam=lam))
    x, zero = torch.tensor([[0.4]]).double(), torch.zeros(1).long()
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = policy(x, zero, zero).sample(noise)
    w = (found.value(z, 1) / lam).softmax(0)
    mean = w @ z[:, 0]
    error = float((w.square() * (z[:, 0] - mean).square()).sum().sqrt())
    assert found.mean(x, 0).item() == pytest.approx(float(mean), abs=4 * error)


def test_what_cannot_be_solved_is_refused() -> None:
    policy = chain([[0.0]], [[1.0]], steps=3)
    good = Problem(reference=policy, reward=above(1.0), lam=0.5)
    with pytest.raises(ValueError, match="above 0"):
        replace(good, lam=0.0)
    with pytest.raises(ValueError, match="steps 0 to 2"):
        replace(good, running={3: above(0.0)})
    with pytest.raises(ValueError, match=r"shape \(3,\); .* must be"):
        replace(good, reference=chain([[0.0] * 3], [[1.0] * 3]))
    with pytest.raises(ValueError, match="box is 0"):
        bounded(good, 0.0)
    with pytest.raises(ValueError, match="share schedule"):
        evaluate(chain([[0.0]], [[1.0]], steps=3, eta=0.5), good)
    with pytest.raises(ValueError, match="aise lam"):
        attainable(replace(good, reward=lambda x: 5 * x[:, 0] ** 2, points=100))
