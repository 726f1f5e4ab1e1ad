"""Steering a tuned policy: with the ratio to the base the law stays the base's tilt, without it the reward counts twice.

The tuned policy is the best Gaussian one of GL: every mean is moved by std^2 times the slope of psi at the next state, a number
a step, since psi is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.guidance.base import Potential, Source, Valued
from pgdlab.guidance.metropolis import Metropolis
from pgdlab.guidance.particles import Population
from pgdlab.guidance.smc import SMC
from pgdlab.guidance.soft_best_of_n import SoftBestOfN
from pgdlab.guidance.svdd import SVDD
from pgdlab.world import World
from tests.guidance.lines import chain, source_of
from tests.guidance.test_smc import mean_reward
from tests.guidance.test_soft_best_of_n import mean_of

LAM, STEPS = 0.5, 10
VAR = 0.680566  # of the base's samples: T_full has the mean VAR / LAM = 1.3611


def slopes() -> np.ndarray:
    """d psi_h / dx = (product of the gains of the steps h..H-1) / LAM, h = 0..H."""
    alpha, _, u, v, _ = chain(1.0, STEPS)
    gain = u + v * alpha[:-1]  # x0hat is alpha x for N(0, 1)
    return np.concatenate([np.cumprod(gain[::-1])[::-1], [1.0]]) / LAM


class Moved(Denoiser):
    """The base whose estimate is moved by a number a step."""

    def __init__(self, inner: Denoiser, times: Tensor, shift: np.ndarray) -> None:
        super().__init__()
        self.schedule, self.inner = inner.schedule, inner
        self.times, self.shift = times, torch.from_numpy(shift)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        step = (t[:, None] - self.times[None, :STEPS]).abs().argmin(1)
        return self.inner(x, t, cond) + self.shift[step][:, None]

    def frozen(self) -> Denoiser:
        return self.inner


def tuned_source(slots: int, share: float = 1.0, seed: int = 0) -> Source:
    """share: of the way from the base to the optimum."""
    source = source_of("GL", slots, seed)
    base = source.policy
    _, _, _, v, std = chain(1.0, STEPS)
    shift = share * std**2 * slopes()[1:] / v
    initial = Standard(space=base.space, num_conditions=1, std=1.0).double()
    policy = Policy(Moved(base.denoiser, base.times, shift), base.space, initial, DDIM(eta=1.0), STEPS)
    return replace(source, policy=policy, world=replace(source.world, policy=policy))


@dataclass(frozen=True, kw_only=True)
class Linear(Potential):
    """The exact one: V_h = LAM (psi_h slope x + half the variance that is to come, in nats)."""

    def __call__(self, world: World, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Valued:
        std, slope = chain(1.0, STEPS)[4], slopes()
        constant = 0.5 * float((std[h:] ** 2 * slope[h + 1 :] ** 2).sum())
        return Valued(LAM * (slope[h] * x[:, 0].double() + constant), torch.ones(len(x), dtype=torch.bool))


def particles(n: int, slots: int, seed: int = 0, **how: Any) -> Population:
    return SMC(**({"lam": LAM, "scored": "all"} | how)).population(tuned_source(slots, seed=seed), n, slots)


def test_the_policy_has_the_mean_that_it_should() -> None:
    """1.3611, T_full's: with psi linear the best Gaussian policy has no loss."""
    found, error = mean_of(particles(2, 10_000, threshold=0.0, scored=()).value)
    assert found == pytest.approx(VAR / LAM, abs=4 * error)


def test_exact_psi_and_the_policy_that_follows_it_leave_no_weight() -> None:
    """All weights are exp(psi_0(s_0)) up to rounding, and the estimate of Z is Z but for s_0, which DDPM forgets."""
    found = particles(8, 50, potential=Linear(), threshold=0.0)
    psi0 = Linear()(None, found.trajectory.initial, None, 0, None).value / LAM  # type: ignore[arg-type]
    assert (found.log_weight.flatten() - psi0).var() < 1e-10
    # exp(VAR / 2 LAM^2) = Z
    assert found.log_z.mean().item() == pytest.approx(VAR / (2 * LAM**2), abs=1e-4)
    assert found.log_z.std() < 0.005


def test_with_the_ratio_the_law_is_the_tilt_of_the_base() -> None:
    """1.364 by another program with n 64; the log of the estimate of Z varies by less than .005."""
    found = particles(64, 400)
    mean, error = mean_reward(found)
    assert mean == pytest.approx(1.3611, abs=4 * error + 0.004)
    assert found.log_z.std() < 0.005
    assert found.log_z.mean().item() == pytest.approx(VAR / (2 * LAM**2), abs=1e-3)


def test_without_it_the_reward_counts_twice() -> None:
    """1/lambda = 1/.5 + 1/.5: the mean tends to 2.722, and is 2.67 with n 64."""
    mean, error = mean_reward(particles(64, 1500, tilted="policy"))
    assert mean == pytest.approx(2.67, abs=4 * error + 0.02)


def test_half_the_way_has_the_same_law() -> None:
    found = SMC(lam=LAM, scored=(0.5, 0.8)).population(tuned_source(1500, share=0.5), 64, 1500)
    mean, error = mean_reward(found)
    assert mean == pytest.approx(1.3611, abs=4 * error + 0.006)
    z = (found.log_z - VAR / (2 * LAM**2)).exp()
    assert z.mean().item() == pytest.approx(1, abs=4 * (z.std() / len(z) ** 0.5).item())


@pytest.mark.parametrize(
    "how", [SoftBestOfN(lam=LAM), Metropolis(lam=LAM), SVDD(lam=LAM, candidates=8, potential=Linear())]
)
def test_the_others_weigh_with_the_ratio_too(how: Any) -> None:
    """The policy is at the tilt already: its paths have equal weights, and steering with the ratio leaves it there."""
    *_, found = how.steer(tuned_source(3000), 30_000 if not isinstance(how, SVDD) else 10**9)
    mean, error = mean_of(found.value)
    assert mean == pytest.approx(1.3611, abs=4 * error + 0.01)
    *_, twice = replace(how, tilted="policy").steer(tuned_source(3000), 30_000 if not isinstance(how, SVDD) else 10**9)
    assert mean_of(twice.value)[0] > 1.8
    assert "kl_bound_nats" not in found.figures


def test_costs_with_the_ratio() -> None:
    """The reference's row a step beside the policy's."""
    found = particles(4, 10)
    assert found.evaluations == 40 * 2 * STEPS


def test_a_tuned_policy_without_noise_has_no_ratio() -> None:
    source = tuned_source(4)
    ode = replace(source, policy=source.policy.with_kernel(DDIM(eta=0.0)))
    with pytest.raises(ValueError, match=r"no density.*guidance.tilted=policy"):
        SoftBestOfN().refuse(ode)
    SoftBestOfN(tilted="policy").refuse(ode)
    assert "tuned policy" in SoftBestOfN(tilted="policy").aims_at(ode)
    assert math.isfinite(next(iter(SoftBestOfN(tilted="policy").steer(ode, 4))).value.sum().item())
