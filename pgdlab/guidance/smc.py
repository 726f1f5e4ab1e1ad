"""Sequential Monte Carlo: weighted particles, resampled on their way (Feynman-Kac steering)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from pgdlab.guidance.base import EstimateReward, Potential, Source, Steered, Tilt, Valued
from pgdlab.guidance.particles import Form, Particles, Population, Psi
from pgdlab.guidance.shift import sloped
from pgdlab.guidance.weights import Scheme
from pgdlab.rollout.noise import Interleaved
from pgdlab.rollout.sampler import Batch
from pgdlab.trainers.interaction import OneShot

MOST_SCORED = 4  # states, of the forms that weigh anew at each


@dataclass(frozen=True, kw_only=True)
class SMC(Tilt):
    """Particles whose weights telescope to exp(r / lam), whatever the potential psi = V / lam:

        log w += psi_h(s_h) - psi_before(ancestor) + log p_base / p_policy of the steps between,

    and where the effective sample size is below threshold * n, a slot is resampled and its weights begin anew
    (Wu et al. 2023, arXiv:2306.17775; Singhal et al. 2025, arXiv:2501.06848, their difference potential; Del Moral 2004).
    One returned sample is off T_full by O(1/n).

    particles: n of a population, which has one condition; None: one population a condition, as large as the queries pay for.
    potential: V. scored: the states that are weighed, as shares of the chain (none is later than the last one that a step with
    noise follows), or "all"; the sample always is. scheme: of resampling. temper: psi_h is multiplied by
    ((h + 1) / (H + 1))^temper. form: "max" and "sum" weigh by the largest psi of a path so far, and by
    their sum, at every scored state again (Singhal et al. 2025, sec. 3.2); the last weight makes up for it, and of many scored
    states it cannot. twist: the step from a scored state is proposed with the mean moved by std^2 grad psi, at most so many std,
    and the weights have the ratio of the densities: the law stays; 0: not moved.
    """

    particles: int | None = None
    potential: Potential = field(default_factory=EstimateReward)
    scored: tuple[float, ...] | Literal["all"] = (0.4, 0.6, 0.8)
    threshold: float = 0.5
    scheme: Scheme = "systematic"
    temper: float = 0.0
    form: Form = "difference"
    twist: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.particles is not None and self.particles < 2:
            raise ValueError(
                f"particles is {self.particles}; it must be at least 2: one has no other to be weighed against"
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be a share of the particles, from 0 (never) to 1")
        for name in ("temper", "twist"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.scored != "all" and not all(0 <= share < 1 for share in self.scored):
            raise ValueError(f"scored is {self.scored}; it must hold shares of the chain, from 0 to below 1")

    def refuse(self, source: Source) -> None:
        super().refuse(source)
        self.potential.refuse(source.world)
        if self.twist:
            self.potential.refuse_slope(source.world)
        if not source.policy.stochastic_steps:
            raise ValueError("copies never part where no step has noise (eta 0): take guidance=metropolis")

    def states(self, source: Source) -> list[int]:
        """The states before the sample that are weighed, the last one that a step with noise follows at the latest: copies
        that are made later would stay copies."""
        steps, last = source.policy.steps, source.policy.stochastic_steps[-1]
        if self.scored == "all":
            return list(range(last + 1))
        return sorted({min(last, round(share * steps)) for share in self.scored})

    def sizes(self, source: Source, queries: int) -> tuple[int, int]:
        """Particles of a population, and populations: the conditions in turn. Raises ValueError where the queries do not pay."""
        asked = 1 + len(self.states(source)) * self.potential.asks
        slots = len(source.cond)
        conditions = min(len(source.world.domain.train_conditions), slots)
        affordable = queries // asked
        n = affordable // conditions if self.particles is None else self.particles
        if n < 2 or n * conditions > affordable:
            raise ValueError(
                f"{queries} reward queries pay for {affordable} particles, which are asked about {asked} times each, and there "
                f"are {conditions} conditions: lower guidance.particles, or raise plan.iterations"
            )
        populations = min(affordable // n, slots)
        return n, max(conditions, populations // conditions * conditions)

    def require(self, source: Source, queries: int) -> None:
        self.refuse(source)
        self.sizes(source, queries)

    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        n, populations = self.sizes(source, queries)
        same = torch.arange(len(source.cond), device=source.cond.device) % populations
        assert torch.equal(source.cond, source.cond[same]), "conditions are in turn"
        found = self.population(source, n, populations)
        yield found.returned(len(source.cond), source.noise)

    @torch.no_grad()
    def population(self, source: Source, n: int, populations: int) -> Population:
        """So many weighted populations of n particles, under the first conditions."""
        self.refuse(source)
        loop = Particles(
            self.psi(source), self.states(source), source.noise, n, self.threshold, self.scheme, self.form, self.twist
        )
        cond = source.cond[:populations].repeat_interleave(n)
        request = source.request(Interleaved(source.noise, range(populations), n), cond, self.ratio, loop)
        if self.twist:  # the proposal is held against what it moves
            against = request.reference if self.ratio else source.policy
            request = replace(request, reference=against, extras=request.extras._replace(reference=True))
        return loop.finished(OneShot().collect(source.world, request), self.temperature)

    def psi(self, source: Source) -> Psi:
        """The potential in nats: V_h / lam, tempered."""
        steps = source.policy.steps

        def psi(batch: Batch, states: Tensor, h: int) -> tuple[Tensor, Valued]:
            if self.twist:
                x0, found = sloped(self.potential, source.world, batch, states, h)
            else:
                x0 = batch.estimate(states, h, batch.cond)
                found = self.potential(source.world, states, x0, h, batch.cond)
            return x0, found.times(((h + 1) / (steps + 1)) ** self.temper / self.temperature)

        return psi

    def advice(self, source: Source) -> str:
        scored = len(self.states(source))
        if self.form == "difference" or scored <= MOST_SCORED:
            return ""
        return (
            f"guidance.form={self.form} with {scored} scored states applies the reward {scored} times on the way, and more "
            f"particles make it worse: score {MOST_SCORED} states at most, or take guidance.form=difference"
        )
