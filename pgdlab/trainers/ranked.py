"""A rollout whose actions are compared with others from the same state."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.base import Outcome
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Batch, Sampler
from pgdlab.world import World


class Ranked(Sampler):
    """The loop of a rollout whose rows i n .. i n + n - 1 are in one state before every step; of their actions the one worth most
    and the one worth least are kept as a pair, and all go on from one that is drawn. worth: the reward of the reference's x0
    estimate of the action, of the action itself after the last step.

    u: (rows, 2 H), uniform: for the answers at a temperature, and for what goes on."""

    def __init__(self, world: World, n: int, start: int, temperature: float, u: Float[Tensor, "B H2"]) -> None:
        self.world, self.together, self.start, self.temperature, self.u = world, n, start, temperature, u
        self.points: list[Tensor] = []  # of the batches that are done: (states, steps, 3, *D)
        self.known: list[Tensor] = []
        self.queries = self.evaluated = self.rows = 0

    @property
    def compared(self) -> list[int]:
        """The steps whose actions are."""
        return [h for h in self.world.policy.stochastic_steps if h >= self.start]

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        n, last = self.together, batch.policy.steps - 1
        if h == 0:
            states = states[::n].repeat_interleave(n, 0)
            self.here: list[tuple[Tensor, Tensor]] = []
        after = batch.step(states, h)
        u = self.u[self.rows : self.rows + len(states)].to(states.device)
        if h in self.compared:
            self.here.append(self.pairs(states, after, h, u[:, h], batch.cond))
        if h < last:
            chosen = (u[::n, last + 1 + h] * n).long().clamp(max=n - 1)
            return after.unflatten(0, (-1, n))[
                torch.arange(len(chosen), device=after.device), chosen
            ].repeat_interleave(n, 0)
        self.rows += len(states)
        self.points.append(torch.stack([points for points, _ in self.here], 1))
        self.known.append(torch.stack([known for _, known in self.here], 1))
        return after

    def pairs(self, states: Tensor, after: Tensor, h: int, u: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """State, best and worst action (S, 3, *D), and whether they can be told apart (S,)."""
        world, n, seen = self.world, self.together, after
        if h < world.policy.steps - 1:
            seen = world.reference.estimate(after, torch.full((len(after),), h + 1, device=after.device), cond)
            self.evaluated += len(after)
        paid = guarded(world.reward, Outcome(world.domain.decoder(seen), cond, world.policy.steps), max_failed=1.0)
        self.queries += paid.queries
        worth, measured = paid.total.double().reshape(-1, n), paid.measured.reshape(-1, n)
        if self.temperature:  # a difference of Gumbel variables is logistic
            worth = worth / self.temperature - (-u.double().clamp(1e-300).log()).log().reshape(-1, n)
        slot = torch.arange(len(worth), device=worth.device)
        best = worth.masked_fill(~measured, -torch.inf).argmax(1)
        worst = worth.masked_fill(~measured, torch.inf).argmin(1)
        actions = after.unflatten(0, (-1, n))
        known = (measured.sum(1) > 1) & (worth[slot, best] > worth[slot, worst])
        return torch.stack([states[::n], actions[slot, best], actions[slot, worst]], 1), known
