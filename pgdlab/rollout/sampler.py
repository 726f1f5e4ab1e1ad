"""Rollout: samples trajectories of the denoising MDP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import kl_same_std, log_prob
from pgdlab.rollout.memory import halved, release
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.trajectory import Trajectory, concatenate, dtype_of, stored_at


class Extras(NamedTuple):
    """What a rollout computes besides the samples. The first two cost a reference pass a step.

    reference: KL, log-ratio and the reference's means at trained steps. estimates: the reference's x0 estimates.
    tuned_deterministic: take deterministic steps with the tuned network instead of the reference. means: the policy's
    own at trained steps. graph: log_prob and kl keep theirs at trained steps, as long as memory lasts; actions are
    constants in it.
    """

    reference: bool = False
    estimates: bool = False
    tuned_deterministic: bool = False
    means: bool = False
    graph: bool = False


SAMPLES = Extras()


@torch.no_grad()
def rollout(
    policy: Policy, reference: Policy, noise: Noise, iteration: int, index: range, cond: Tensor,
    trained: list[int], batch: int, extras: Extras = SAMPLES, watch: Callable[[Trajectory], None] | None = None,
) -> Trajectory:  # fmt: skip
    """Samples the trajectories of the global sample indices `index` under cond (B, ...), `batch` rows at a time; where memory
    runs out without a graph, then half as many.

    Deterministic steps are taken by the frozen reference (they have no density, and an infinite KL once their network
    moves) unless extras.tuned_deterministic. watch: is shown every batch before the next one begins.
    """
    parts: list[Trajectory] = []
    done = 0
    while done < len(index):
        rows = index[done : done + batch]
        some = cond[done : done + len(rows)].to(policy.device)
        try:
            drawn = noise.normal(iteration, rows, policy.steps + 1, policy.space.shape)
            drawn = drawn.to(device=policy.device, dtype=dtype_of(policy))
            part = _Sampler(policy, reference, some, trained, extras).run(drawn)
        except RuntimeError as error:
            smaller = halved(len(rows), error)
            part, batch = None, batch if extras.graph else smaller
        if part is None:
            extras = extras._replace(graph=False)
            for earlier in parts:
                earlier.drop_graph()
            release()
            continue
        parts.append(part)
        done += len(rows)
        if watch is not None:
            watch(parts[-1])
    with torch.set_grad_enabled(extras.graph):
        return concatenate(parts)


class _Sampler:
    """One batch of a rollout."""

    def __init__(self, policy: Policy, reference: Policy, cond: Tensor, trained: list[int], extras: Extras) -> None:
        self.policy, self.reference, self.cond, self.trained, self.extras = policy, reference, cond, trained, extras
        self.stored_at = stored_at(trained, policy.steps)

    def run(self, drawn: Float[Tensor, "B S *D"]) -> Trajectory:
        policy, cond, steps = self.policy, self.cond, self.policy.steps
        shape, rows = policy.space.shape, len(cond)
        rho, prior = policy.initial(cond), self.reference.initial(cond)
        x = rho.sample(policy.space.project(drawn[:, 0], cond)).to(drawn.dtype)
        score, scored = log_prob(rho, x, policy.space, cond), steps if self.extras.reference else 0
        full = self.stored_at == tuple(
            range(steps + 1)
        )  # a state then takes the place of the noise that it was made with
        out = Trajectory(
            cond=cond, initial=x, trained=tuple(self.trained), stored_at=self.stored_at,
            states=drawn if full else drawn.new_empty(rows, max(self.stored_at) + 1, *shape), sample=x,
            log_prob=drawn.new_empty(rows, len(self.trained)),
            initial_log_prob=score, initial_log_ratio=score - log_prob(prior, x, policy.space, cond),
            reference_mean=drawn.new_empty(rows, len(self.trained) if scored else 0, *shape),
            own_mean=drawn.new_empty(rows, len(self.trained) if self.extras.means else 0, *shape),
            kl=drawn.new_zeros(rows, scored), log_ratio=drawn.new_zeros(rows, scored),
            estimates=drawn.new_empty(rows, steps if self.extras.estimates else 0, *shape),
        )  # fmt: skip
        self.store(out, x, 0)
        for h in range(steps):
            x = self.advance(out, x, h, drawn[:, h + 1])
            self.store(out, x, h + 1)
        return replace(out, sample=x)

    def store(self, out: Trajectory, x: Tensor, h: int) -> None:
        if self.stored_at[h] >= 0:
            out.states[:, self.stored_at[h]] = x

    def advance(self, out: Trajectory, x: Tensor, h: int, drawn: Tensor) -> Tensor:
        """One step; scores the action as stored."""
        policy, cond, stochastic = self.policy, self.cond, h in self.policy.stochastic_steps
        at = torch.full((len(x),), h, device=x.device)
        compared = self.extras.estimates or (self.extras.reference and stochastic)
        own = stochastic or self.extras.tuned_deterministic
        base = self.reference.estimate(x, at, cond) if compared or not own else x  # x: not used
        if self.extras.estimates:
            out.estimates[:, h] = base
        graph = self.extras.graph and h in self.trained
        if graph:
            torch.clear_autocast_cache()  # torch before 2.10 uses weights again that were cast without a graph
        with torch.set_grad_enabled(graph):
            g = policy(x, at, cond) if own else policy.step(x, base, at)
        action = g.sample(policy.space.project(drawn, cond)).to(x.dtype)  # as it is stored, whatever g is computed in
        if not stochastic:
            return action
        with torch.set_grad_enabled(graph):
            score = log_prob(g, action, policy.space, cond)
            if h in self.trained:
                out.log_prob[:, self.trained.index(h)] = score
        if h in self.trained and self.extras.means:
            out.own_mean[:, self.trained.index(h)] = g.mean
        if self.extras.reference:
            pre = policy.step(x, base, at)
            with torch.set_grad_enabled(graph):
                out.kl[:, h] = kl_same_std(g.mean, pre.mean, g.std, policy.space, cond)
            out.log_ratio[:, h] = score - log_prob(pre, action, policy.space, cond)
            if h in self.trained:
                out.reference_mean[:, self.trained.index(h)] = pre.mean
        return action
