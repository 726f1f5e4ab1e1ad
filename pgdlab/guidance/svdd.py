"""SVDD: of several next states one is chosen, at every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.guidance.base import (
    EstimateReward,
    Law,
    Potential,
    Source,
    Steered,
    Tilt,
    log_ratio,
    require_temperature,
)
from pgdlab.guidance.best_of_n import selection_bound
from pgdlab.guidance.weights import at, normalised
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.noise import Interleaved
from pgdlab.rollout.sampler import Batch, Sampler, rollout
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.interaction import decoded


@dataclass(frozen=True, kw_only=True)
class SVDD(Tilt):
    """From every state `candidates` next ones; one goes on, with probability proportional to exp(psi), psi = V / lam, or, greedy,
    the one of the highest psi (Li et al. 2024, arXiv:2408.08252). The initial state is the base's: where it decides much (a small
    eta) T_rho is far from T_full. It has no weights that would mend a wrong potential, and a wrong one stays wrong with more
    candidates. The step to a state that is not scored is the base's.

    scored: the states among whose candidates is chosen, as shares of the chain, the sample's is 1; "all": those that a step with
    noise leads to.
    """

    candidates: int = 4
    greedy: bool = False
    potential: Potential = field(default_factory=EstimateReward)
    scored: tuple[float, ...] | Literal["all"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ValueError(f"candidates is {self.candidates}; it must be at least 1, which is the base")
        if self.scored != "all" and not all(0 < share <= 1 for share in self.scored):
            raise ValueError(f"scored is {self.scored}; it must hold shares of the chain, above 0 and at most 1")

    @property
    def law(self) -> Law:
        return "none" if self.greedy else "T_rho"

    def refuse(self, source: Source) -> None:
        super().refuse(source)
        self.potential.refuse(source.world)
        require_temperature(self.potential, self.lam)
        if not source.policy.stochastic_steps:
            raise ValueError(
                "there is nothing to choose from where no step has noise (eta 0): take guidance=metropolis"
            )
        self.states(source)

    def states(self, source: Source) -> list[int]:
        """The states that are chosen. Raises ValueError for one that a step without noise leads to."""
        steps, noisy = source.policy.steps, [h + 1 for h in source.policy.stochastic_steps]
        if self.scored == "all":
            return noisy
        found = sorted({max(1, round(share * steps)) for share in self.scored})
        for h in set(found) - {*noisy}:
            raise ValueError(
                f"scored has {h / steps:.3g}, state {h} of {steps}: the step to it has no noise, so that its candidates are one"
            )
        return found

    def require(self, source: Source, queries: int) -> None:
        self.refuse(source)
        states, slots = self.states(source), len(source.cond)
        last = source.policy.steps in states
        asked = self.candidates * ((len(states) - last) * self.potential.asks + last) + (not last)
        if queries < slots * asked:
            raise ValueError(
                f"{slots} samples (plan.eval_samples) take {asked} reward queries each, and there are {queries}: lower them, "
                "guidance.candidates or guidance.scored, or raise plan.iterations"
            )

    @torch.no_grad()
    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.require(source, queries)
        states, slots, m, world = self.states(source), len(source.cond), self.candidates, source.world
        before = [h for h in states if h < source.policy.steps]
        whole = len(before) < len(states)  # the sample is chosen among m too
        loop = Choice(self, source, before)
        request = source.request(
            Interleaved(source.noise, range(slots), m), source.cond.repeat_interleave(m), self.ratio, loop
        )
        found = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=world.capacity.rollout_batch,
            extras=request.extras, sampler=loop,
        )  # fmt: skip
        heads = torch.arange(slots, device=found.cond.device) * m
        found = found if whole else found.rows(heads)
        paid = guarded(world.reward, decoded(world, found), world.plan.max_failed)
        value = torch.where(paid.measured, paid.total, -torch.inf)
        if whole:
            rows = heads + loop.chosen(value.double() / self.temperature, found, source.policy.steps, 0)
            found, value = found.rows(rows), value[rows]
        bound = {} if source.tuned else {"kl_bound_nats": len(states) * selection_bound(m)}
        yield Steered(found, value, loop.queries + paid.queries, loop.evaluated, {"unscored": loop.unscored, **bound})


class Choice(Sampler):
    """The loop of a rollout whose rows i m .. i m + m - 1 are candidates of slot i: one of them is chosen, and they all go on as
    copies of it."""

    def __init__(self, how: SVDD, source: Source, states: list[int]) -> None:
        self.how, self.source, self.states, self.together = how, source, states, how.candidates
        self.weighed = how.ratio and source.tuned  # by the densities, where nothing is scored too
        self.queries = self.unscored = self.evaluated = self.slots = 0

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        m = self.together
        slots = len(states) // m
        heads = torch.arange(slots, device=states.device) * m
        x0 = batch.estimate(states, h, batch.cond) if h in self.states else None
        if x0 is not None or (self.weighed and h > 0):
            zero = torch.zeros(len(states), dtype=torch.float64, device=states.device)
            psi = zero if x0 is None else self.psi(batch, states, x0, h)
            heads = heads + self.chosen(psi, batch.out, h, self.slots)
        head = x0[heads] if x0 is not None else batch.estimate(states[heads], h, batch.cond[heads])
        rows = heads.repeat_interleave(m)
        batch.keep(rows)
        after = batch.step(states[rows], h, head.repeat_interleave(m, 0))
        if h == batch.policy.steps - 1:
            self.slots += slots
            self.evaluated += batch.evaluated
        return after

    def psi(self, batch: Batch, states: Tensor, x0: Tensor, h: int) -> Float[Tensor, " P"]:
        """V / lam of candidates, -inf where not measured."""
        found = self.how.potential(self.source.world, states, x0, h, batch.cond)
        self.queries += found.queries
        self.unscored += int((~found.measured).sum())
        return torch.where(found.measured, found.value.double() / self.how.temperature, -torch.inf)

    def chosen(self, psi: Float[Tensor, " P"], trajectory: Trajectory, h: int, first: int) -> Int[Tensor, " S"]:
        """The candidate that each slot goes on with. first: the number of the first slot."""
        shape = (-1, self.together)
        if self.how.greedy:
            return psi.reshape(shape).argmax(1)
        weight = normalised(
            (psi - log_ratio(trajectory, h)).reshape(shape)
        )  # of the ratio all but the last step is shared
        u = self.source.noise.uniform(h, range(first, first + len(weight)), 1).to(weight)
        return at(weight, u)[:, 0]
