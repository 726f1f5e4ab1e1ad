"""Particles on their way: the loop that weighs and resamples them, and the weighted populations that come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.guidance.base import Steered, Valued, log_ratio, means
from pgdlab.guidance.shift import bounded
from pgdlab.guidance.weights import Scheme, at, effective, log_mean, lost, normalised, points, resample
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import Batch, Sampler
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.interaction import Collected

# of a batch, its states and h: x0 estimates, and values in nats, with gradients where proposals are moved
Psi = Callable[[Batch, Tensor, int], tuple[Tensor, Valued]]
Form = Literal["difference", "max", "sum"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Weights:
    """The weights of the particles of S slots so far: log w = psi - log_ratio - paid, where `paid` is what the first two were
    when a particle's line was resampled last (0 before), so that nothing is lost or counted twice on the way.

    psi, paid: (S N,). so_far: (S N,) the largest value on the way, or their sum. ancestor: (S, N), the particle whose initial
    state each comes from. log_z: (S,), of the resamplings. ess: of every scored state. resampled: how often.
    """

    psi: Float[Tensor, " P"]
    paid: Float[Tensor, " P"]
    so_far: Float[Tensor, " P"]
    ancestor: Int[Tensor, "S N"]
    log_z: Float[Tensor, " S"]
    ess: tuple[Float[Tensor, " S"], ...]
    resampled: Int[Tensor, " S"]

    @staticmethod
    def of(slots: int, n: int, device: torch.device, form: Form) -> Weights:
        """Before anything is weighed."""
        zero = torch.zeros(slots * n, dtype=torch.float64, device=device)
        order, so_far = torch.arange(n, device=device).repeat(slots, 1), zero - torch.inf if form == "max" else zero
        return Weights(zero, zero, so_far, order, zero[::n], (), torch.zeros_like(order[:, 0]))

    def valued(self, found: Valued, form: Form) -> Weights:
        """After states were valued: psi is the value itself, which replaces the one before, or what was there and, once more,
        the largest value so far, or the sum of them. A state that is not measured changes nothing."""
        so_far = {
            "difference": self.so_far, "max": torch.maximum(self.so_far, found.value), "sum": self.so_far + found.value,
        }[form]  # fmt: skip
        psi = found.value if form == "difference" else self.psi + so_far
        known = found.measured
        return replace(self, psi=torch.where(known, psi, self.psi), so_far=torch.where(known, so_far, self.so_far))

    def log(self, ratio: Float[Tensor, " P"]) -> Float[Tensor, "S N"]:
        """log w. ratio: log p_policy / p_base of the paths."""
        return (self.psi - ratio - self.paid).reshape(self.ancestor.shape)


class Particles(Sampler):
    """The loop of a rollout whose rows i n .. i n + n - 1 are the particles of slot i: at the scored states they are weighed, and
    resampled within their slot. What is returned to a rollout is weighted still: see Population. twist: by how many standard
    deviations the next step's mean may be moved along the gradient of psi."""

    def __init__(
        self, psi: Psi, states: list[int], noise: Noise, n: int, threshold: float, scheme: Scheme, form: Form = "difference",
        twist: float = 0.0,
    ) -> None:  # fmt: skip
        self.psi, self.states, self.noise = psi, states, noise
        self.together, self.threshold, self.scheme = n, threshold, scheme
        self.form, self.twist = form, twist
        self.done: list[Weights] = []
        self.queries = self.unscored = self.slots = self.evaluated = 0

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        x0 = shift = None
        if h == 0:
            self.now = Weights.of(len(states) // self.together, self.together, states.device, self.form)
        if h in self.states:
            x0, found = self.psi(batch, states, h)
            rows = self.weigh(batch, found, h)
            states, x0 = states[rows], x0[rows]
            shift = self.moved(batch, found, rows, h)
        elif self.twist:
            x0 = batch.estimate(states, h, batch.cond)
        after = batch.step(states, h, x0, shift)
        if h == batch.policy.steps - 1:
            self.done.append(self.now)
            self.slots += len(self.now.log_z)
            self.evaluated += batch.evaluated
        return after

    def moved(self, batch: Batch, found: Valued, rows: Int[Tensor, " P"], h: int) -> Float[Tensor, "P *D"] | None:
        """The shift std^2 grad psi of the proposal (Wu et al. 2023, arXiv:2306.17775, eq. 9); rows: after the resampling."""
        if found.gradient is None or h not in batch.policy.stochastic_steps:
            return None
        std = batch.policy.std[h].item()
        return bounded(std**2 * found.gradient[rows], std, self.twist, batch.policy.space, batch.cond)[0]

    def weigh(self, batch: Batch, found: Valued, h: int) -> Int[Tensor, " P"]:
        """Weighs the states h; returns which rows go on."""
        self.queries += found.queries
        self.unscored += int((~found.measured).sum())
        now = self.now.valued(found, self.form)
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
            psi, torch.where(again.repeat_interleave(self.together), fresh, now.paid), now.so_far[rows],
            now.ancestor.gather(1, index), now.log_z + torch.where(again, log_mean(log_w), 0.0), (*now.ess, ess),
            now.resampled + again,
        )  # fmt: skip
        return rows

    def finished(self, found: Collected, lam: float) -> Population:
        """The populations, weighed once more, with the rewards of the samples."""
        rewards, done = found.rewards, self.done
        psi = torch.where(rewards.measured, rewards.total.double() / lam, -torch.inf)
        last = Weights(
            psi, torch.cat([part.paid for part in done]), psi, torch.cat([part.ancestor for part in done]),
            torch.cat([part.log_z for part in done]), tuple(map(torch.cat, zip(*(part.ess for part in done), strict=True))),
            torch.cat([part.resampled for part in done]),
        )  # fmt: skip
        log_w = last.log(log_ratio(found.trajectory))
        return Population(
            trajectory=found.trajectory, value=rewards.total, measured=rewards.measured, log_weight=log_w,
            ancestor=last.ancestor, log_z=last.log_z + log_mean(log_w),
            ess=torch.stack([*last.ess, effective(normalised(log_w))], 1), resampled=last.resampled, lam=lam,
            unscored=self.unscored, queries=self.queries + rewards.queries, evaluations=self.evaluated,
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
