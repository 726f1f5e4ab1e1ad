"""Particles on their way: the loop that weighs and resamples them, and the weighted populations that come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.guidance.base import Steered, Valued, log_ratio, means
from pgdlab.guidance.weights import Scheme, at, effective, log_mean, lost, normalised, points, resample
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import Batch, Sampler
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.interaction import Collected

Psi = Callable[[Tensor, Tensor, int, Tensor], Valued]  # of states, x0 estimates, h, conditions: values in nats


@dataclass(frozen=True)
class Weights:
    """The weights of the particles of S slots so far: log w = psi - log_ratio - paid, where `paid` is what the first two were
    when a particle's line was resampled last (0 before), so that nothing is lost or counted twice on the way.

    psi, paid: (S N,). ancestor: (S, N), the particle whose initial state each comes from. log_z: (S,), of the resamplings.
    ess: of every scored state. resampled: how often.
    """

    psi: Float[Tensor, " P"]
    paid: Float[Tensor, " P"]
    ancestor: Int[Tensor, "S N"]
    log_z: Float[Tensor, " S"]
    ess: tuple[Float[Tensor, " S"], ...]
    resampled: Int[Tensor, " S"]

    @staticmethod
    def of(slots: int, n: int, device: torch.device) -> Weights:
        """Before anything is weighed."""
        zero = torch.zeros(slots * n, dtype=torch.float64, device=device)
        order = torch.arange(n, device=device).repeat(slots, 1)
        return Weights(zero, zero, order, zero[::n], (), torch.zeros_like(order[:, 0]))

    def log(self, ratio: Float[Tensor, " P"]) -> Float[Tensor, "S N"]:
        """log w. ratio: log p_policy / p_base of the paths."""
        return (self.psi - ratio - self.paid).reshape(self.ancestor.shape)


class Particles(Sampler):
    """The loop of a rollout whose rows i n .. i n + n - 1 are the particles of slot i: at the scored states they are weighed, and
    resampled within their slot. What is returned to a rollout is weighted still: see Population."""

    def __init__(self, psi: Psi, states: list[int], noise: Noise, n: int, threshold: float, scheme: Scheme) -> None:
        self.psi, self.states, self.noise = psi, states, noise
        self.together, self.threshold, self.scheme = n, threshold, scheme
        self.done: list[Weights] = []
        self.queries = self.unscored = self.slots = 0

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        x0 = None
        if h == 0:
            self.now = Weights.of(len(states) // self.together, self.together, states.device)
        if h in self.states:
            x0 = batch.estimate(states, h, batch.cond)
            states, x0 = self.weigh(batch, states, x0, h)
        after = batch.step(states, h, x0)
        if h == batch.policy.steps - 1:
            self.done.append(self.now)
            self.slots += len(self.now.log_z)
        return after

    def weigh(self, batch: Batch, states: Tensor, x0: Tensor, h: int) -> tuple[Tensor, Tensor]:
        """States and estimates after the resampling at state h."""
        valued = self.psi(states, x0, h, batch.cond)
        self.queries += valued.queries
        self.unscored += int((~valued.measured).sum())
        now = replace(self.now, psi=torch.where(valued.measured, valued.value, self.now.psi))
        log_w = now.log(log_ratio(batch.out, h))
        weight = normalised(log_w)
        ess = effective(weight)
        again = ess < self.threshold * self.together
        u = self.noise.uniform(h, range(self.slots, self.slots + len(ess)), self.together).to(weight)
        order = torch.arange(self.together, device=weight.device).expand_as(now.ancestor)
        index = torch.where(again[:, None], resample(weight, u, self.scheme), order)
        rows = (index + self.together * torch.arange(len(ess), device=weight.device)[:, None]).flatten()
        batch.keep(rows)
        psi = now.psi[rows]
        fresh = psi - log_ratio(batch.out, h)
        self.now = Weights(
            psi, torch.where(again.repeat_interleave(self.together), fresh, now.paid), now.ancestor.gather(1, index),
            now.log_z + torch.where(again, log_mean(log_w), 0.0), (*now.ess, ess), now.resampled + again,
        )  # fmt: skip
        return states[rows], x0[rows]

    def finished(self, found: Collected, lam: float) -> Population:
        """The populations, weighed once more, with the rewards of the samples."""
        rewards, done = found.rewards, self.done
        psi = torch.where(rewards.measured, rewards.total.double() / lam, -torch.inf)
        last = Weights(
            psi, torch.cat([part.paid for part in done]), torch.cat([part.ancestor for part in done]),
            torch.cat([part.log_z for part in done]), tuple(map(torch.cat, zip(*(part.ess for part in done), strict=True))),
            torch.cat([part.resampled for part in done]),
        )  # fmt: skip
        log_w = last.log(log_ratio(found.trajectory))
        return Population(
            trajectory=found.trajectory, value=rewards.total, measured=rewards.measured, log_weight=log_w,
            ancestor=last.ancestor, log_z=last.log_z + log_mean(log_w),
            ess=torch.stack([*last.ess, effective(normalised(log_w))], 1), resampled=last.resampled, lam=lam,
            unscored=self.unscored, queries=self.queries + rewards.queries, evaluations=found.evaluations,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Population:
    """Weighted particles of S slots: row i N + k is particle k of slot i. log_weight, ancestor: (S, N). log_z: log of the
    estimate of Z, whose mean is Z. ess: at every scored state, the sample's last. unscored: states whose potential was not
    measured."""

    trajectory: Trajectory
    value: Float[Tensor, " P"]
    measured: Bool[Tensor, " P"]
    log_weight: Float[Tensor, "S N"]
    ancestor: Int[Tensor, "S N"]
    log_z: Float[Tensor, " S"]
    ess: Float[Tensor, "S K"]
    resampled: Int[Tensor, " S"]
    lam: float
    unscored: int
    queries: int
    evaluations: int

    def returned(self, slots: int, noise: Noise) -> Steered:
        """A sample for each of so many slots: population g's are the slots g, g + S, ..., drawn by its weights, each particle as
        often as its weight says to within one (systematic)."""
        s, n = self.log_weight.shape
        weight, steps = normalised(self.log_weight), self.trajectory.steps
        point = noise.uniform(steps, range(s), 1).to(weight)
        rows = torch.empty(slots, dtype=torch.long, device=weight.device)
        more = slots % s
        for first, stop, count in ((0, more, slots // s + 1), (more, s, slots // s)):
            drawn = at(weight[first:stop], points(point[first:stop], count))
            own = torch.arange(first, stop, device=weight.device)[:, None]
            rows[own + s * torch.arange(count, device=weight.device)] = own * n + drawn
        value = torch.where(self.measured, self.value, -torch.inf)[rows]
        figures = self.figures(weight) | {"distinct": len(rows.unique())}
        return Steered(self.trajectory.rows(rows), value, self.queries, self.evaluations, figures, s)

    def figures(self, weight: Float[Tensor, "S N"]) -> dict[str, Any]:
        """Of summary.json, means over populations."""
        s, n = weight.shape
        dead = lost(self.log_weight)
        reward = (weight * self.value.reshape(s, n).where(self.measured.reshape(s, n), 0.0)).sum(1)[~dead]
        family = torch.zeros_like(weight).scatter_add(1, self.ancestor, weight)
        return {
            "particles": n, "populations": s, "ess": self.ess[:, -1].mean().item(),
            "resamplings": self.resampled.double().mean().item(), "ancestors": effective(family).mean().item(),
            "weighted_reward": means(reward)[0], "lost_populations": int(dead.sum()), "unscored": self.unscored,
            **evidence(self.log_z[~dead], reward, self.lam),
        }  # fmt: skip


def evidence(log_z: Float[Tensor, " S"], reward: Float[Tensor, " S"], lam: float) -> dict[str, float | None]:
    """log of the estimate of Z with its standard error over slots, and E[r] / lam - log Z: the distance KL(T_full || base) of the
    law that is aimed at, which is estimated too high by half the variance of log Z."""
    value, error = means(log_z)
    kl = means(reward / lam - log_z)[0]
    return {"log_z": value, "log_z_stderr": error, "kl_estimate_nats": kl}
