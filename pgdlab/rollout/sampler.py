"""Rollout: samples trajectories of the denoising MDP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import kl_same_std, log_prob
from pgdlab.processes import is_cut
from pgdlab.rollout.memory import halved, release
from pgdlab.rollout.noise import RowNoise
from pgdlab.rollout.trajectory import Trajectory, concatenate, dtype_of, stored_at


class Extras(NamedTuple):
    """Figures that a rollout computes with the samples. The first two cost a reference pass a step.

    reference: KL, log-ratio and the reference's means at trained steps. estimates: the reference's x0 estimates.
    tuned_deterministic: take deterministic steps with the tuned network instead of the reference. graph: log_prob and kl
    keep theirs at trained steps, as long as memory lasts; actions are constants in it. states: keep those of all steps.
    half: round the states before and after trained steps to bf16 as they are drawn, and keep these. What is scored is what is
    kept, by the Gaussian's density: the squared score, and a gradient that it estimates, are 1 + gap^2 / (12 std^2) times what
    they would be, as long as gap, the distance of neighbouring numbers (of 8 bits), is below some 2 std.
    """

    reference: bool = False
    estimates: bool = False
    tuned_deterministic: bool = False
    graph: bool = False
    states: bool = False
    half: bool = False


SAMPLES = Extras()


class Sampler(ABC):
    """The loop of a rollout: how the states of a batch go from step to step. together: consecutive rows that are in one batch,
    because what happens to one depends on the others."""

    together: int = 1

    @abstractmethod
    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """The states after step h, of states at step h; Batch.step takes the policy's step and records it."""


@dataclass(frozen=True, kw_only=True)
class Plain(Sampler):
    """Every row takes the policy's steps, whatever the others do."""

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        return batch.step(states, h)


@torch.no_grad()
def rollout(
    policy: Policy, reference: Policy, noise: RowNoise, cond: Tensor, *, batch: int, trained: Sequence[int] = (),
    extras: Extras = SAMPLES, sampler: Sampler = Plain(), watch: Callable[[Trajectory], None] | None = None,
    fewer: Callable[[int], None] | None = None,
) -> Trajectory:  # fmt: skip
    """Samples a trajectory for each row of noise under cond (B, ...), `batch` rows at a time; where memory runs out without
    a graph, then half as many. Rows that are together are in one batch, however many they are: the network is then asked
    for `batch` of them at a time.

    trained: the steps that are to be trained. Deterministic steps are taken by the frozen reference (they have no density,
    and an infinite KL once their network moves) unless extras.tuned_deterministic. watch: is shown every batch before the
    next one begins. fewer: is told how many rows memory allows, where it has run out.
    """
    parts: list[Trajectory] = []
    done, whole, batch = 0, sampler.together, max(1, batch)
    while done < len(noise):
        stop = min(done + max(1, batch // whole) * whole, len(noise))
        part, some = None, Batch(policy, reference, cond[done:stop].to(policy.device), trained, extras, batch)
        try:
            part = some.run(noise.steps(done, stop, policy.steps + 1, policy.space.shape), sampler)
        except RuntimeError as error:
            smaller = halved(min(batch, stop - done), error, is_cut(policy))
            if not extras.graph:
                batch = smaller
                if fewer is not None:
                    fewer(batch)
        if part is None:
            del some
            extras = extras._replace(graph=False)
            for earlier in parts:
                earlier.drop_graph()
            release()
            continue
        parts.append(part)
        done = stop
        if watch is not None:
            watch(parts[-1])
    with torch.set_grad_enabled(extras.graph):
        return concatenate(parts)


class Batch:
    """One batch of a rollout: takes steps, and records what the trajectory keeps of them. most: rows of a pass without a graph.
    evaluated: network rows so far."""

    def __init__(
        self, policy: Policy, reference: Policy, cond: Tensor, trained: Sequence[int], extras: Extras, most: int
    ) -> None:
        self.policy, self.reference, self.cond, self.most = policy, reference, cond, most
        self.trained, self.extras = list(trained), extras
        self.evaluated = 0
        kept = range(policy.steps) if extras.states else self.trained
        self.stored_at = stored_at(list(kept), policy.steps)

    def run(self, noise: Iterator[Float[Tensor, "B *D"]], sampler: Sampler) -> Trajectory:
        """All steps. noise: of the initial state, then of every step."""
        self.noise = noise
        x = self.start()
        for h in range(self.policy.steps):
            x = sampler.advance(self, x, h)
            self.store(x, h + 1)
        return replace(self.out, sample=x)

    def drawn(self) -> Float[Tensor, "B *D"]:
        """The next step's noise, in the space."""
        white = next(self.noise).to(device=self.policy.device, dtype=dtype_of(self.policy), non_blocking=True)
        return self.policy.space.project(white, self.cond)

    def start(self) -> Float[Tensor, "B *D"]:
        """The initial states."""
        policy, cond, steps = self.policy, self.cond, self.policy.steps
        shape, rows, kept = policy.space.shape, len(cond), len(self.trained)
        rho, prior, noise = policy.initial(cond), self.reference.initial(cond), self.drawn()
        x = self.as_kept(rho.sample(noise).to(noise.dtype), 0)
        score, scored = log_prob(rho, x, policy.space, cond), steps if self.extras.reference else 0
        exact = x.new_empty((), dtype=torch.float64)  # of a ratio both densities are large
        self.out = Trajectory(
            cond=cond, initial=x, trained=tuple(self.trained), stored_at=self.stored_at, sample=x,
            states=x.new_empty(rows, max(self.stored_at) + 1, *shape, dtype=self.kept_in(x)),
            log_prob=exact.new_empty(rows, kept), initial_log_prob=score,
            initial_log_ratio=score - log_prob(prior, x, policy.space, cond),
            reference_mean=x.new_empty(rows, kept if scored else 0, *shape),
            kl=exact.new_zeros(rows, scored), log_ratio=exact.new_zeros(rows, scored),
            estimates=x.new_empty(rows, steps if self.extras.estimates else 0, *shape),
        )  # fmt: skip
        self.store(x, 0)
        return x

    def kept_in(self, x: Tensor) -> torch.dtype:
        """The dtype that states are kept in."""
        return torch.bfloat16 if self.extras.half else x.dtype

    def as_kept(self, x: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """States of step h as a replay will find them, if one looks."""
        looked_at = h in self.trained or h - 1 in self.trained
        return x.to(self.kept_in(x)).to(x.dtype) if looked_at else x

    def store(self, x: Tensor, h: int) -> None:
        """Keeps the states of step h, if the trajectory does."""
        if self.stored_at[h] >= 0:
            self.out.states[:, self.stored_at[h]] = x

    def keep(self, rows: Int[Tensor, " B"]) -> None:
        """Row b goes on as a copy of rows[b], with all that is recorded of it. Conditions stay."""
        self.out = replace(self.out.rows(rows), cond=self.cond)

    def takes(self, h: int) -> bool:
        """Whether the policy takes step h itself; if not, the reference does."""
        return h in self.policy.stochastic_steps or self.extras.tuned_deterministic

    def estimate(self, x: Float[Tensor, "P *D"], h: int, cond: Tensor) -> Float[Tensor, "P *D"]:
        """The x0 estimates that step h is taken with."""
        self.evaluated += len(x)
        return self.passes(self.policy if self.takes(h) else self.reference, x, h, cond)

    def passes(self, policy: Policy, x: Float[Tensor, "P *D"], h: int, cond: Tensor) -> Float[Tensor, "P *D"]:
        """A policy's x0 estimates, `most` rows a pass."""
        at = torch.full((len(x),), h, device=x.device)
        parts = zip(x.split(self.most), at.split(self.most), cond.split(self.most), strict=True)
        return torch.cat([policy.estimate(*part) for part in parts])

    def step(
        self, x: Float[Tensor, "B *D"], h: int, x0: Float[Tensor, "B *D"] | None = None,
        shift: Float[Tensor, "B *D"] | None = None,
    ) -> Float[Tensor, "B *D"]:  # fmt: skip
        """The states after the policy's step h; scores the action as it is stored. x0: estimate(), where it is there already.
        shift: of the mean."""
        policy, cond, out, stochastic = self.policy, self.cond, self.out, h in self.policy.stochastic_steps
        at = torch.full((len(x),), h, device=x.device)
        compared = self.extras.estimates or (self.extras.reference and stochastic)
        own = self.takes(h)
        shared = x0 if self.policy is self.reference else None
        asked = shared is None and (compared or (not own and x0 is None))
        base = self.passes(self.reference, x, h, cond) if asked else shared if shared is not None else x  # x: not used
        self.evaluated += len(x) * (asked + (own and x0 is None))
        if self.extras.estimates:
            out.estimates[:, h] = base
        graph = self.extras.graph and h in self.trained
        if graph:
            torch.clear_autocast_cache()  # torch before 2.10 uses weights again that were cast without a graph
        with torch.set_grad_enabled(graph):
            known = x0 if x0 is not None else None if own else base
            if known is None and len(x) > self.most:
                known = self.passes(policy, x, h, cond)
            g = policy(x, at, cond) if known is None else policy.step(x, known, at)
            g = g if shift is None else replace(g, mean=g.mean + shift)
        action = self.as_kept(g.sample(self.drawn()).to(x.dtype), h + 1)  # whatever g is computed in
        if not stochastic:
            return action
        with torch.set_grad_enabled(graph):
            score = log_prob(g, action, policy.space, cond)
            if h in self.trained:
                out.log_prob[:, self.trained.index(h)] = score
        if self.extras.reference:
            pre = policy.step(x, base, at)
            with torch.set_grad_enabled(graph):
                out.kl[:, h] = kl_same_std(g.mean, pre.mean, g.std, policy.space, cond)
            out.log_ratio[:, h] = score - log_prob(pre, action, policy.space, cond)
            if h in self.trained:
                out.reference_mean[:, self.trained.index(h)] = pre.mean
        return action
