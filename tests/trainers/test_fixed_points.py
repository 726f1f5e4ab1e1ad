"""The fixed point that the losses on final samples have in common, and the optimum of the last steps alone, derived here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.training.build import build_module
from tests.tiny import gradient

# ---- the fixed point, derived here: N(0, 1), eta 1, ten steps, lambda .5


class Line:
    """Ten DDIM steps of eta 1 on the cosine schedule, from its formulas; estimates are slope_h x + shift_h."""

    def __init__(self) -> None:
        first, last = math.acos(1e-3), math.asin(1e-2)
        angles = torch.linspace(first, last, 11, dtype=torch.float64)
        a, s = angles.cos(), angles.sin()
        self.alpha, self.sigma = a[:-1], s[:-1]
        self.std = s[1:] / s[:-1] * (1 - (a[:-1] / a[1:]).square()).sqrt()
        # sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 = 1 - (alpha_t / alpha_s)^2 where alpha^2 + sigma^2 = 1
        self.u = (s[1:].square() - self.std.square()).sqrt() / s[:-1]
        self.v = a[1:] - self.u * a[:-1]

    def final(self, slope: Tensor, shift: Tensor) -> tuple[float, float]:
        """Mean and variance of the sample."""
        mean, var = 0.0, 1.0
        for u, v, std, k, c in zip(*(x.tolist() for x in (self.u, self.v, self.std, slope, shift)), strict=True):
            mean, var = (u + v * k) * mean + v * c, (u + v * k) ** 2 * var + std**2
        return mean, var

    def fixed_point(self, kind: str, lam: float) -> tuple[Tensor, Tensor]:
        """x0hat = pre + Cov(r, x0 | x_h) / lam on its own samples, iterated. r = x: the posterior variance P; r = -2 x^2, mean 0:
        -4 P E[x0 | x_h]. Of N(0, V): P = V sigma^2 / (alpha^2 V + sigma^2), E[x0 | x_h] = alpha V x_h / (alpha^2 V + sigma^2)."""
        slope, shift = self.alpha.clone(), torch.zeros(10, dtype=torch.float64)
        for _ in range(200):
            _, var = self.final(slope, shift)
            wide = self.alpha.square() * var + self.sigma.square()
            posterior, regression = var * self.sigma.square() / wide, self.alpha * var / wide
            if kind == "linear":
                shift = posterior / lam
            else:
                slope = slope + 0.5 * (self.alpha - 4 * posterior * regression / lam - slope)
        return slope, shift

    def without_critic(self, lam: float) -> Tensor:
        """Slopes for r = -2 x^2 where E[(A (x0 - x0hat) - lam (x0hat - pre)) x_h] = 0, A = -2 (x0^2 - V), on its own samples:
        E[A x0 x_h] = -4 alpha V^2 and E[A x_h^2] = -4 alpha^2 V^2. Of straight lines alone: without a baseline at x_h the fixed
        point itself is none."""
        slope = self.alpha.clone()
        for _ in range(200):
            _, var = self.final(slope, torch.zeros(10, dtype=torch.float64))
            wide = lam * (self.alpha.square() * var + self.sigma.square())
            slope = self.alpha * (wide - 4 * var**2) / (wide - 4 * self.alpha.square() * var**2)
        return slope

    def objective(self, slope: Tensor, lam: float) -> Tensor:
        """E[-2 x^2] - lam sum_h KL_h of straight lines, all means 0: KL_h = v^2 (slope - alpha)^2 E[s_h^2] / (2 std^2)."""
        var, cost = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for u, v, std, a, k in zip(self.u, self.v, self.std, self.alpha, slope, strict=True):
            cost = cost + (v * (k - a)).square() * var / (2 * std.square())
            var = (u + v * k).square() * var + std.square()
        return -2 * var - lam * cost

    def best(self, last: int, lam: float) -> Tensor:
        """Slopes with the largest objective where all but the last ones are the base's."""
        tuned = self.alpha[-last:].clone().requires_grad_()
        search = torch.optim.LBFGS([tuned], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            found = -self.objective(torch.cat([self.alpha[:-last], tuned]), lam)
            found.backward()
            return found

        search.step(loss)
        return torch.cat([self.alpha[:-last], tuned.detach()])


def test_the_fixed_points_of_the_published_problems() -> None:
    """E[r] and variance of the sample. The tilts of the chain's own samples have 1.361, and -2 / (1 / .681 + 8) = -.211."""
    line = Line()
    mean, var = line.final(*line.fixed_point("linear", 0.5))
    assert (mean, var) == pytest.approx((1.602, 0.680), abs=2e-3)
    mean, var = line.final(*line.fixed_point("quadratic", 0.5))
    assert (mean, -2 * var) == pytest.approx((0.0, -0.2960), abs=1e-4)


def test_regression_on_own_samples_shrinks_them_round_after_round() -> None:
    """Without any reward: the exact denoiser of N(0, V), alpha V x / (alpha^2 V + sigma^2), through the same steps. Losses whose
    weights sum to 0 do not have it; rwr's weights sum to the samples."""
    line, var, seen = Line(), 1.0, []
    for _ in range(4):
        slope = line.alpha * var / (line.alpha.square() * var + line.sigma.square())
        _, var = line.final(slope, torch.zeros(10, dtype=torch.float64))
        seen.append(var)
    assert seen == pytest.approx([0.681, 0.454, 0.293, 0.181], abs=1e-3)


REPLICAS, SAMPLES = 32, 128
CRITICAL = ("awm", "nft", "ram", "crd", "dgpo")  # with a critic


def set_slopes(world: Any, line: Line, slope: Tensor) -> None:
    """The policy's estimates become slope_h x."""
    with torch.no_grad():
        world.policy.denoiser.correction.weight[:, :, 0, 0] = (slope - line.alpha) * line.v / line.std


def at_fixed_point(trainer: str, *more: str, off: float = 0.0) -> tuple[Any, Any]:
    """oracle/quadratic with the policy at its fixed point, or `off` in the slopes beside it, and the critic of the first."""
    group, alone, line = 8 if trainer in ("crd", "dgpo") else SAMPLES, trainer == "fpo", Line()
    sizes = [f"domain.replicas={REPLICAS}", f"plan.samples={REPLICAS * SAMPLES}", f"plan.group={group}"]
    own = [f"trainer={trainer}", "penalty=none", f"trainer.coefficient={8.0 if alone else 0.5}", "trainer.updates=1"]
    own += [f"trainer.batch={4 * REPLICAS * SAMPLES // (8 if alone else 1)}"]
    own += [] if alone else ["trainer.critic={_target_: pgdlab.credit.critic.Quadratic}"]
    module = build_module(compose(["experiment=oracle/quadratic", *sizes, *own, *more]))
    world = module.world
    slope, shift = line.fixed_point("quadratic", 0.5)
    slope = line.without_critic(8.0) if alone else slope
    _, var = line.final(slope, shift)
    wide = line.alpha.square() * var + line.sigma.square()
    set_slopes(world, line, slope + off)
    with torch.no_grad():
        if not alone:  # E[r - E[r] | x_h] = -2 (P + E[x0 | x_h]^2) + 2 V
            world.critic.square[:, :, 0] = -2 * (line.alpha * var / wide).square()
            world.critic.constant[:] = -2 * var * line.sigma.square() / wide + 2 * var
    return world, module.algorithm


def deviations(world: Any, algorithm: Any) -> Tensor:
    """Mean gradient of the replicas' slopes and shifts over its standard error: (2, H)."""
    found = gradient(world, algorithm)
    rows = [found[name][:REPLICAS].flatten(2)[..., 0] for name in sorted(found)]
    return torch.stack([g.mean(0) / (g.std(0) / REPLICAS**0.5) for g in rows])


@pytest.mark.parametrize(
    ("trainer", "target"), [(t, "noise") for t in (*CRITICAL, "fpo")] + [("awm", "v"), ("nft", "v"), ("ram", "v")]
)
def test_the_gradient_is_zero_at_the_fixed_point_and_nowhere_near(trainer: str, target: str) -> None:
    """Whatever the weights of the times are. 20 numbers: one beyond 4.5 errors in 7,000 such tests by chance. Groups share their
    times, so that there are fewer draws of them."""
    more = f"trainer.target={target}"
    assert deviations(*at_fixed_point(trainer, more)).abs().max() < 4.5
    assert deviations(*at_fixed_point(trainer, more, off=0.2 if trainer in ("crd", "dgpo") else 0.1)).abs().max() > 10


@pytest.mark.parametrize("last", [2, 5])
def test_the_last_steps_of_draft_have_an_optimum_of_their_own(last: int) -> None:
    """The best J of two steps is -1.1792 where all ten have -.5331 and the base -1.3611. DRaFT's gradient is 0 there, its KL
    being that of those steps; a fifth more of the way and it is not. Tolerance: four decimals; 4.5 errors."""
    line = Line()
    values = {k: float(line.objective(line.best(k, 0.5), 0.5)) for k in (2, 5, 10)}
    assert values == pytest.approx({2: -1.1792, 5: -0.6002, 10: -0.5331}, abs=1e-4)
    sizes = [f"domain.replicas={REPLICAS}", f"plan.samples={REPLICAS * SAMPLES}", f"plan.group={SAMPLES}"]
    own = ["trainer=draft", f"trainer.last={last}", "penalty=path_kl", "penalty.path_kl.coefficient=0.5"]
    module = build_module(compose(["experiment=oracle/quadratic", *sizes, *own]))
    best = line.best(last, 0.5)
    for slope, limit in ((best, True), (best + 0.2 * (best - line.alpha), False)):
        set_slopes(module.world, line, slope)
        far = deviations(module.world, module.algorithm)[:, -last:].abs().max()
        assert far < 4.5 if limit else far > 10
