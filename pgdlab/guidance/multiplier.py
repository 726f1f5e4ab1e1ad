"""Soft constraints: the price of a cost is raised until its mean is at the limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.guidance.base import Guidance, Law, Source, Steered, Valued, means
from pgdlab.guidance.constraints import ROUNDING, Box, Constraint
from pgdlab.guidance.particles import Population
from pgdlab.guidance.smc import SMC
from pgdlab.guidance.temperature import Settling
from pgdlab.guidance.weights import effective, log_mean, lost, normalised
from pgdlab.rewards.base import Reward
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.interaction import decoded
from pgdlab.world import World

UPDATES, NEAR = 10_000, 1e-6  # at most; the share of the costs' range at which the ascent has arrived


@dataclass(frozen=True, kw_only=True)
class Multiplier(Guidance):
    """max E[r] - lam KL(. || p) subject to E[c] <= limit: the tilt by (r - mu c) / lam, mu >= 0 where the dual
    lam log Z_mu + mu limit is least (Boyd & Vandenberghe 2004, ch. 5). It is convex, its slope is limit - E_mu[c], and particles
    of the tilt by r / lam give it for any mu by further weights exp(-mu c / lam): the ascent costs no query.

    particles: of the tilt by the reward alone. constraint: the set that c is about. cost: c is 1 outside of it ("outside": the
    limit is on a probability), or by how much the coordinate furthest off misses it ("violation"); or a reward, which is a cost
    here, and needs no constraint: a particle that it cannot measure has no weight. limit: on the mean over conditions.
    """

    particles: SMC = field(default_factory=SMC)
    constraint: Constraint | None = field(default_factory=Box)
    cost: Literal["outside", "violation"] | Reward = "violation"
    limit: float = 0.1

    def __post_init__(self) -> None:
        own = isinstance(self.cost, Reward)
        if own and self.constraint is not None:
            raise ValueError("cost is a reward, which is about no set: set constraint to null")
        if not own and self.constraint is None:
            raise ValueError(f"cost {self.cost} is that of a set: constraint is missing")
        if not own and not self.limit > 0:
            raise ValueError(f"limit is {self.limit}; it must be above 0 (for none at all take guidance=projection)")

    @property
    def law(self) -> Law:
        return self.particles.law

    def aims_at(self, source: Source) -> str:
        what = self.cost.called if isinstance(self.cost, Reward) else f"{self.cost} of the set"
        priced = f"(r(x) - mu c(x)), mu such that the mean of c, {what}, is at most {self.limit:g}"
        return self.particles.aims_at(source).replace("r(x)", "R(x)") + f", R = {priced}"

    def asks_before(self) -> int:
        return self.particles.asks_before()

    def settled(self, source: Source) -> tuple[Guidance, Settling]:
        particles, costs = self.particles.settled(source)
        assert isinstance(particles, SMC)
        return replace(self, particles=particles), costs

    def refuse(self, source: Source) -> None:
        self.particles.refuse(source)
        if isinstance(self.cost, Reward):
            if self.cost.needs_estimates():
                raise ValueError(f"{self.cost.called} pays intermediate states, and a cost is that of samples")
        elif self.constraint is not None:
            self.constraint.refuse(source.policy.space.shape)

    def require(self, source: Source, queries: int) -> None:
        self.refuse(source)
        self.particles.require(source, queries)

    @torch.no_grad()
    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.require(source, queries)
        slots, lam = len(source.cond), self.particles.temperature
        n, populations = self.particles.sizes(source, queries)
        found = self.particles.population(source, n, populations)
        c = self.costs(source.world, found.trajectory)
        known = c.measured.reshape(found.log_weight.shape)
        found = replace(found, log_weight=found.log_weight.masked_fill(~known, -torch.inf))
        cost = torch.where(c.measured, c.value, 0.0).reshape(known.shape)
        mu = multiplier(found.log_weight, cost, self.limit, lam)
        priced = repriced(found, cost, mu)
        alive, weight = ~lost(priced.log_weight), normalised(priced.log_weight)
        spent = (weight * cost).sum(1)[alive]
        reward = (weight * found.value.double().reshape(cost.shape)).sum(1)[alive]
        log_z = priced.log_z[alive]
        own = {
            "multiplier": mu, "cost": means(spent)[0], "cost_queries": c.queries,
            "violation": max(0.0, spent.mean().item() - self.limit),
            "dual": lam * log_z.mean().item() + mu * self.limit,
            "kl_estimate_nats": means((reward - mu * spent) / lam - log_z)[0],
        }  # fmt: skip
        out = priced.returned(slots, source.noise)
        yield replace(out, figures={**out.figures, **own})

    def costs(self, world: World, trajectory: Trajectory) -> Valued:
        """c of samples, fp64."""
        if isinstance(self.cost, Reward):
            for part in self.cost.modules():
                if isinstance(part, Reward):
                    part.meet(world.domain.conditioning)
            paid = guarded(self.cost.to(world.device), decoded(world, trajectory), world.plan.max_failed)
            return Valued(paid.total.double(), paid.measured, paid.queries)
        assert self.constraint is not None
        off = self.constraint.violation(trajectory.sample).double()
        value = (off > ROUNDING).double() if self.cost == "outside" else off
        return Valued(value, torch.ones_like(value, dtype=torch.bool))


def multiplier(log_weight: Float[Tensor, "S N"], cost: Float[Tensor, "S N"], limit: float, lam: float) -> float:
    """mu, by dual ascent from 0: mu <- max(0, mu + (E_mu[c] - limit) / L), L = range^2 / 4 lam, which the slope's slope, a
    variance of costs by lam, never exceeds. Raises ValueError where no weights bring the mean down to the limit."""
    seen = ~log_weight.isneginf()
    least = cost.where(seen, torch.inf).amin(1)[seen.any(1)].mean().item()
    if least >= limit:
        raise ValueError(
            f"guidance.limit is {limit:g}, but the cheapest of {cost.shape[1]} particles cost {least:.3g} on average: raise it, "
            "take more particles, or guidance=projection"
        )
    spread = (cost[seen].max() - cost[seen].min()).item()
    mu = 0.0
    for _ in range(UPDATES if spread else 0):
        weight = normalised(log_weight - mu * cost / lam)
        over = (weight * cost).sum(1).mean().item() - limit
        mu, before = max(0.0, mu + over * 4 * lam / spread**2), mu
        if abs(over) < NEAR * spread or mu == before:
            break
    return mu


def repriced(found: Population, cost: Float[Tensor, "S N"], mu: float) -> Population:
    """The particles, weighed by exp(-mu c / lam) too."""
    log_w = found.log_weight - mu * cost / found.lam
    ess = torch.cat([found.ess[:, :-1], effective(normalised(log_w))[:, None]], 1)
    log_z = found.log_z - log_mean(found.log_weight) + log_mean(log_w)
    return replace(found, log_weight=log_w, log_z=log_z, ess=ess)
