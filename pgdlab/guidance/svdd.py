"""SVDD and beam search: of several next states one, or the best few, are chosen, at every step."""

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

    beam: states of a slot that go on at once, each with so many next ones; the best of all of them, of whatever state, are kept,
    and at the last choice one. It takes greedy: drawn by exp(psi), lines would be tilted anew at every step, and the weights of
    particles are what undoes that. scored: the states among whose candidates is chosen, as shares of the chain, the sample's is
    1; "all": those that a step with noise leads to.
    """

    candidates: int = 4
    beam: int = 1
    greedy: bool = False
    potential: Potential = field(default_factory=EstimateReward)
    scored: tuple[float, ...] | Literal["all"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ValueError(f"candidates is {self.candidates}; it must be at least 1, which is the base")
        if self.beam < 1:
            raise ValueError(f"beam is {self.beam}; it must be at least 1")
        if self.beam > 1 and not self.greedy:
            raise ValueError(
                f"beam is {self.beam}, and states are drawn: a beam keeps the best. Set guidance.greedy=true, or take "
                "guidance=smc, which draws among lines and weighs them"
            )
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
        asked = self.beam * self.candidates * ((len(states) - last) * self.potential.asks + last) + (not last)
        if queries < slots * asked:
            raise ValueError(
                f"{slots} samples (plan.eval_samples) take {asked} reward queries each, and there are {queries}: lower them, "
                "guidance.candidates, guidance.beam or guidance.scored, or raise plan.iterations"
            )

    @torch.no_grad()
    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.require(source, queries)
        states, slots, world = self.states(source), len(source.cond), source.world
        each = self.beam * self.candidates
        before = [h for h in states if h < source.policy.steps]
        whole = len(before) < len(states)  # the sample is chosen too
        loop = Choice(self, source, before, source.policy.steps if whole else max(before, default=0))
        request = source.request(
            Interleaved(source.noise, range(slots), each), source.cond.repeat_interleave(each), self.ratio, loop
        )
        found = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=world.capacity.rollout_batch,
            extras=request.extras, sampler=loop,
        )  # fmt: skip
        heads = torch.arange(slots, device=found.cond.device) * each
        found = found if whole else found.rows(heads)
        paid = guarded(world.reward, decoded(world, found), world.plan.max_failed)
        value = torch.where(paid.measured, paid.total, -torch.inf)
        if whole:
            rows = heads + loop.chosen(value.double() / self.temperature, found, source.policy.steps, 0, 1)[:, 0]
            found, value = found.rows(rows), value[rows]
        bound = {} if source.tuned or self.beam > 1 else {"kl_bound_nats": len(states) * selection_bound(each)}
        yield Steered(found, value, loop.queries + paid.queries, loop.evaluated, {"unscored": loop.unscored, **bound})


class Choice(Sampler):
    """The loop of a rollout with beam x candidates rows a slot, one after another: of the candidates as many as the beam is wide
    are chosen, one after the last choice, and all rows go on as copies of them."""

    def __init__(self, how: SVDD, source: Source, states: list[int], last: int) -> None:
        self.how, self.source, self.states, self.last = how, source, states, last
        self.together = how.beam * how.candidates
        self.weighed = how.ratio and source.tuned and not how.greedy  # by the densities, where nothing is scored too
        self.queries = self.unscored = self.evaluated = self.slots = 0

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        width = self.how.beam if h < self.last else 1
        copies = self.together // width
        slots = len(states) // self.together
        own = torch.arange(slots, device=states.device)[:, None] * self.together
        heads = own + copies * torch.arange(width, device=states.device)
        x0 = batch.estimate(states, h, batch.cond) if h in self.states else None
        if x0 is not None or (self.weighed and h > 0):
            zero = torch.zeros(len(states), dtype=torch.float64, device=states.device)
            psi = zero if x0 is None else self.psi(batch, states, x0, h)
            heads = own + self.chosen(psi, batch.out, h, self.slots, width)
        best = heads.flatten()
        head = x0[best] if x0 is not None else batch.estimate(states[best], h, batch.cond[best])
        rows = best.repeat_interleave(copies)
        batch.keep(rows)
        after = batch.step(states[rows], h, head.repeat_interleave(copies, 0))
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

    def chosen(
        self, psi: Float[Tensor, " P"], trajectory: Trajectory, h: int, first: int, width: int
    ) -> Int[Tensor, "S W"]:
        """The candidates that each slot goes on with. first: the number of the first slot."""
        shape = (-1, self.together)
        if self.how.greedy:
            return psi.reshape(shape).argsort(dim=1, descending=True, stable=True)[:, :width]
        weight = normalised(
            (psi - log_ratio(trajectory, h)).reshape(shape)
        )  # of the ratio all but the last step is shared
        return at(weight, self.source.noise.uniform(h, range(first, first + len(weight)), 1).to(weight))
