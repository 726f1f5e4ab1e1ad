"""Soft constraints: the multiplier of a Gaussian problem by quadrature, and what is returned and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.guidance.best_of_n import candidates
from pgdlab.guidance.constraints import Box, Known
from pgdlab.guidance.multiplier import Multiplier, multiplier
from pgdlab.guidance.smc import SMC
from pgdlab.rewards.base import Score
from pgdlab.rewards.combine import Sum
from tests.guidance.lines import OnALine, source_of
from tests.guidance.test_smc import tiny_source
from tests.guidance.test_tuned import VAR

LAM, LIMIT, EDGE = 0.5, 0.2, 1.5
IMPORTANCE: dict[str, Any] = {"lam": LAM, "scored": ()}


TILTED = NormalDist(VAR / LAM, VAR**0.5)  # N(0, .6806) tilted by x / lambda
FREE = 1 - TILTED.cdf(EDGE)  # E[c] at mu 0, .4332
PRICE = LAM * math.log(FREE / (1 - FREE) * (1 - LIMIT) / LIMIT)  # the odds of c fall by exp(mu / lambda): .5586


def closed_form() -> tuple[float, float, float]:
    """E[r], the dual's value and KL at the multiplier: means of a normal law above and below a point."""
    density = VAR * TILTED.pdf(EDGE)
    reward = LIMIT * (TILTED.mean + density / FREE) + (1 - LIMIT) * (TILTED.mean - density / (1 - FREE))
    log_z = VAR / (2 * LAM**2) + math.log(1 - FREE + FREE * math.exp(-PRICE / LAM))
    return reward, LAM * log_z + PRICE * LIMIT, (reward - PRICE * LIMIT) / LAM - log_z


def test_the_multiplier_of_a_gaussian() -> None:
    """r = x, lambda .5, c = 1[x > 1.5], E[c] <= .2. Particles that are nodes, weighed by their density too, are a quadrature, to
    a node at the edge."""
    x = torch.linspace(-6, 8, 40_001, dtype=torch.float64)
    cost, log_weight = (x > EDGE).double()[None], x / LAM - x**2 / (2 * VAR)
    mu = multiplier(log_weight[None], cost, LIMIT, LAM)
    assert mu == pytest.approx(PRICE, abs=3e-4)
    weight = (log_weight - mu * cost[0] / LAM).softmax(0)
    assert (weight @ cost[0]).item() == pytest.approx(LIMIT, abs=1e-5)
    assert (weight @ x).item() == pytest.approx(closed_form()[0], abs=3e-4)
    assert multiplier(log_weight[None], cost, 0.45, LAM) == 0  # .4332 without: it does not bind


def test_what_is_returned() -> None:
    """20,000 particles of the same problem. The tilt's effective size is a tenth of them: 4 standard errors are .04."""
    reward, dual, kl = closed_form()
    source = source_of("GL", 4000)
    how = Multiplier(particles=SMC(**IMPORTANCE), constraint=Box(low=None, high=EDGE), cost="outside", limit=LIMIT)
    found = next(iter(how.steer(source, 20_000)))
    assert found.figures["cost"] == pytest.approx(LIMIT, abs=1e-5)
    assert found.figures["violation"] < 1e-5
    assert (found.trajectory.sample > EDGE).double().mean().item() == pytest.approx(LIMIT, abs=2e-3)
    assert found.figures["multiplier"] == pytest.approx(PRICE, abs=0.15)
    assert found.figures["weighted_reward"] == pytest.approx(reward, abs=0.06)
    assert found.figures["kl_estimate_nats"] == pytest.approx(kl, abs=0.06)
    assert found.figures["dual"] == pytest.approx(dual, abs=0.03)
    assert found.queries == 20_000
    assert "at most 0.2" in how.aims_at(source)
    assert how.law == "T_full"


def test_resampled_particles_serve_too() -> None:
    """With states scored on the way the weights exp(-mu c / lam) come on top."""
    how = Multiplier(
        particles=SMC(lam=LAM, scored=(0.5, 0.8), particles=4000),
        constraint=Box(low=None, high=EDGE),
        cost="outside",
        limit=LIMIT,
    )
    found = next(iter(how.steer(source_of("GL", 4000), 12_000)))
    assert found.figures["cost"] == pytest.approx(LIMIT, abs=1e-5)
    assert found.figures["dual"] == pytest.approx(closed_form()[1], abs=0.04)
    assert found.figures["multiplier"] == pytest.approx(PRICE, abs=0.2)


def test_costs_of_samples() -> None:
    source = source_of("GL", 3)
    found = candidates(source, source.noise.of(0, range(3))).trajectory
    found = replace(found, sample=torch.tensor([[0.5], [1.5], [3.0]]))
    for cost, expected in (("outside", [0, 1, 1]), ("violation", [0, 0.5, 2])):
        how = Multiplier(constraint=Box(high=1.0), cost=cost)  # type: ignore[arg-type]
        assert how.costs(source.world, found).value.tolist() == expected
    own = Multiplier(constraint=None, cost=OnALine("quadratic", 1.0))
    assert own.costs(source.world, found).value.tolist() == [-0.25, -0.25, -4.0]


def test_a_cost_that_is_a_reward() -> None:
    """1[x > 1.5] as a reward is "outside" of x <= 1.5, and asks once a particle, beside the queries of the reward."""
    given: dict[str, Any] = {"particles": SMC(**IMPORTANCE), "limit": LIMIT}
    one = Multiplier(**given, constraint=Box(low=None, high=EDGE), cost="outside")
    cost = OnALine("indicator", EDGE)
    other = Multiplier(**given, constraint=None, cost=cost)
    a, b = (next(iter(how.steer(source_of("GL", 500), 2000))) for how in (one, other))
    for name in ("multiplier", "cost", "dual", "weighted_reward"):
        assert a.figures[name] == b.figures[name]
    assert torch.equal(a.trajectory.sample, b.trajectory.sample)
    assert (b.queries, b.figures["cost_queries"], cost.asked, a.figures["cost_queries"]) == (2000, 2000, 2000, 0)
    assert "mean of c, OnALine" in other.aims_at(source_of("GL", 2))


class Told(OnALine):
    """A cost that hears what conditions stand for."""

    heard: tuple[Conditioning, ...] = ()

    def meet(self, conditioning: Conditioning) -> None:
        self.heard = (conditioning,)


def test_a_cost_and_the_costs_in_it_hear_what_conditions_stand_for() -> None:
    source, own = source_of("GL", 3), Told("linear", 0.0)
    found = candidates(source, source.noise.of(0, range(3))).trajectory
    Multiplier(constraint=None, cost=Sum(rewards={"own": own})).costs(source.world, found)
    assert [type(x) for x in own.heard] == [type(source.world.domain.conditioning)]


class Picky(OnALine):
    """x, which is not measured above 1."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score(sample[:, 0].double(), sample[:, 0] <= 1)


def test_a_particle_without_a_cost_has_no_weight() -> None:
    """So that the law is that of x <= 1, where the tilt has its mean at 1.36: none above 1 is returned."""
    how = Multiplier(particles=SMC(**IMPORTANCE), constraint=None, cost=Picky("linear", 0.0), limit=0.2)
    found = next(iter(how.steer(source_of("GL", 500, max_failed=0.9), 4000)))
    assert found.trajectory.sample.max() <= 1
    assert found.figures["cost"] == pytest.approx(0.2, abs=1e-5)


def test_twisted_particles_serve_too() -> None:
    """Moved along the reward's gradient, 1,000 particles do what 20,000 do."""
    how = Multiplier(
        particles=SMC(lam=LAM, scored="all", particles=1000, twist=5.0),
        constraint=Box(low=None, high=EDGE),
        cost="outside",
        limit=LIMIT,
    )
    found = next(iter(how.steer(source_of("GL", 1000), 11_000)))
    assert found.figures["cost"] == pytest.approx(LIMIT, abs=1e-5)
    assert found.figures["dual"] == pytest.approx(closed_form()[1], abs=0.04)
    assert found.figures["weighted_reward"] == pytest.approx(closed_form()[0], abs=0.08)


def test_two_conditions_share_the_limit() -> None:
    """The mean over both populations is at the limit, not each of them."""
    log_weight, cost = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]).double()
    mu = multiplier(log_weight, cost, 0.3, 1.0)
    weight = (-mu * cost).softmax(1)
    assert (weight * cost).sum(1).mean().item() == pytest.approx(0.3, abs=1e-5)
    assert (weight * cost).sum(1).tolist() != pytest.approx([0.3, 0.3], abs=0.05)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"guidance.limit is 0.1, but the cheapest of 8 particles cost"):
        list(
            Multiplier(particles=SMC(**IMPORTANCE, particles=8), constraint=Box(low=50.0, high=None)).steer(
                source_of("GL", 8), 8
            )
        )
    with pytest.raises(ValueError, match=r"limit is 0.0; it must be above 0"):
        Multiplier(limit=0.0)
    with pytest.raises(ValueError, match="about no set: set constraint to null"):
        Multiplier(cost=OnALine("linear", 0.0))
    with pytest.raises(ValueError, match="constraint is missing"):
        Multiplier(constraint=None)
    with pytest.raises(ValueError, match="samples of"):
        Multiplier(constraint=Known(values=[1.0, 1.0, 1.0])).refuse(tiny_source())
    with pytest.raises(ValueError, match="guidance=metropolis"):
        Multiplier().refuse(source_of("GL", 3, eta=0.0))
