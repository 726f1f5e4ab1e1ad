"""Rollout and replay: trajectories of the denoising MDP, and their Gaussians again with gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import Gaussian, kl, kl_same_std, log_prob
from pgdlab.memory import halved, release
from pgdlab.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """B trajectories, rows first, one preallocated tensor a field; H steps, of which K are kept for training.

    states holds only the M states that the kept steps need: state h is states[:, slot[h]] where slot[h] >= 0, and
    action h is state h + 1. log_prob is that of the stored (rounded) actions. kl and log_ratio (sampled
    log pi/pi_pre) cover all H steps, kept or not, 0 at deterministic ones; they and reference_mean have 0 columns
    unless the reference was asked for. own_mean: the sampling policy's at kept steps, or empty. estimates: the
    reference's x0 estimates of states 0..H-1, or empty. log_prob and the kl of kept steps may have a gradient: has_graph.
    """

    cond: Tensor
    states: Float[Tensor, "B M *D"]
    sample: Float[Tensor, "B *D"]
    initial: Float[Tensor, "B *D"]
    log_prob: Float[Tensor, "B K"]
    initial_log_prob: Float[Tensor, " B"]
    reference_mean: Float[Tensor, "B R *D"]
    own_mean: Float[Tensor, "B O *D"]
    kl: Float[Tensor, "B H0"]
    log_ratio: Float[Tensor, "B H0"]
    initial_log_ratio: Float[Tensor, " B"]
    estimates: Float[Tensor, "B E *D"]
    kept: tuple[int, ...]
    slot: tuple[int, ...]

    @functools.cached_property
    def lookup(self) -> Int[Tensor, "4 BK"]:
        """Of every cell: row, step, and where its state and its action are among all states. Made once, so that no pass waits
        for a copy."""
        b, m = self.states.shape[:2]
        kept, slot = torch.tensor(self.kept, dtype=torch.long), torch.tensor(self.slot)
        row, h = torch.arange(b).repeat_interleave(len(kept)), kept.repeat(b)
        return torch.stack([row, h, row * m + slot[h], row * m + slot[h + 1]]).to(self.states.device)

    @property
    def has_graph(self) -> bool:
        """Whether log_prob and kl can be differentiated as they are, once."""
        return self.log_prob.requires_grad

    def drop_graph(self) -> None:
        """Lets go of what log_prob and kl would be differentiated with."""
        self.log_prob.detach_()
        self.kl.detach_()

    def pairs(self, cells: Int[Tensor, " P"]) -> Pairs:
        """What a pass over some cells looks up."""
        row, step, state, action = self.lookup.index_select(1, cells).unbind()
        return Pairs(cells, row, step, state, action, self.cond[row])


TENSORS = tuple(f.name for f in fields(Trajectory) if f.name not in ("kept", "slot"))


def concatenate(parts: list[Trajectory]) -> Trajectory:
    """Trajectories of the same kept steps, one after another. Empties the list: one field at a time, so that not all is there
    twice for a moment."""
    if len(parts) == 1:
        return parts[0]
    kept, slot = parts[0].kept, parts[0].slot
    columns: dict[str, list[Any]] = {name: [getattr(part, name) for part in parts] for name in TENSORS}
    parts.clear()
    return Trajectory(kept=kept, slot=slot, **{name: torch.cat(columns.pop(name)) for name in TENSORS})


def slots(kept: list[int], steps: int) -> tuple[int, ...]:
    """Where state h is stored, -1 where it is not: the states before and after every kept step; all where that leaves out
    the last one at most."""
    needed = sorted({h for k in kept for h in (k, k + 1)})
    if needed[:steps] == list(range(steps)):
        return tuple(range(steps + 1))
    return tuple(needed.index(h) if h in needed else -1 for h in range(steps + 1))


class Extras(NamedTuple):
    """What a rollout computes besides the samples. The first two cost a reference pass a step.

    reference: KL, log-ratio and the reference's means at kept steps. estimates: the reference's x0 estimates.
    tuned_last: take deterministic steps with the tuned network instead of the reference. means: the policy's own at kept
    steps. graph: log_prob and kl keep theirs at kept steps, as long as memory lasts; actions are constants in it.
    """

    reference: bool = False
    estimates: bool = False
    tuned_last: bool = False
    means: bool = False
    graph: bool = False


SAMPLES = Extras()


@torch.no_grad()
def rollout(
    policy: Policy, reference: Policy, noise: Noise, iteration: int, index: range, cond: Tensor,
    kept: list[int], batch: int, extras: Extras = SAMPLES, watch: Callable[[Trajectory], None] | None = None,
) -> Trajectory:  # fmt: skip
    """Samples the trajectories of the global sample indices `index` under cond (B, ...), `batch` rows at a time; where memory
    runs out without a graph, then half as many.

    Deterministic steps are taken by the frozen reference (they have no density, and an infinite KL once their network
    moves) unless extras.tuned_last. watch: is shown every batch before the next one begins.
    """
    parts: list[Trajectory] = []
    done = 0
    while done < len(index):
        rows = index[done : done + batch]
        some = cond[done : done + len(rows)].to(policy.device)
        try:
            drawn = noise.normal(iteration, rows, policy.steps + 1, policy.space.shape)
            drawn = drawn.to(device=policy.device, dtype=dtype_of(policy))
            part = _Sampler(policy, reference, some, kept, extras).run(drawn)
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


def dtype_of(policy: Policy) -> torch.dtype:
    """The dtype of states: fp64 where the policy's parameters are, else fp32 (never less: scores need it)."""
    double = any(p.dtype == torch.float64 for p in policy.parameters())
    return torch.float64 if double else torch.float32


class _Sampler:
    """One batch of a rollout."""

    def __init__(self, policy: Policy, reference: Policy, cond: Tensor, kept: list[int], extras: Extras) -> None:
        self.policy, self.reference, self.cond, self.kept, self.extras = policy, reference, cond, kept, extras
        self.slot = slots(kept, policy.steps)

    def run(self, drawn: Float[Tensor, "B S *D"]) -> Trajectory:
        policy, cond, steps = self.policy, self.cond, self.policy.steps
        shape, rows = policy.space.shape, len(cond)
        rho, prior = policy.initial(cond), self.reference.initial(cond)
        x = rho.sample(policy.space.project(drawn[:, 0], cond)).to(drawn.dtype)
        score, scored = log_prob(rho, x, policy.space, cond), steps if self.extras.reference else 0
        full = self.slot == tuple(range(steps + 1))  # a state then takes the place of the noise that it was made with
        out = Trajectory(
            cond=cond, initial=x, kept=tuple(self.kept), slot=self.slot,
            states=drawn if full else drawn.new_empty(rows, max(self.slot) + 1, *shape), sample=x,
            log_prob=drawn.new_empty(rows, len(self.kept)),
            initial_log_prob=score, initial_log_ratio=score - log_prob(prior, x, policy.space, cond),
            reference_mean=drawn.new_empty(rows, len(self.kept) if scored else 0, *shape),
            own_mean=drawn.new_empty(rows, len(self.kept) if self.extras.means else 0, *shape),
            kl=drawn.new_zeros(rows, scored), log_ratio=drawn.new_zeros(rows, scored),
            estimates=drawn.new_empty(rows, steps if self.extras.estimates else 0, *shape),
        )  # fmt: skip
        self.store(out, x, 0)
        for h in range(steps):
            x = self.advance(out, x, h, drawn[:, h + 1])
            self.store(out, x, h + 1)
        return replace(out, sample=x)

    def store(self, out: Trajectory, x: Tensor, h: int) -> None:
        if self.slot[h] >= 0:
            out.states[:, self.slot[h]] = x

    def advance(self, out: Trajectory, x: Tensor, h: int, drawn: Tensor) -> Tensor:
        """One step; scores the action as stored."""
        policy, cond, stochastic = self.policy, self.cond, h in self.policy.stochastic_steps
        at = torch.full((len(x),), h, device=x.device)
        compared = self.extras.estimates or (self.extras.reference and stochastic)
        own = stochastic or self.extras.tuned_last
        base = self.reference.estimate(x, at, cond) if compared or not own else x  # x: not used
        if self.extras.estimates:
            out.estimates[:, h] = base
        graph = self.extras.graph and h in self.kept
        if graph:
            torch.clear_autocast_cache()  # torch before 2.10 uses weights again that were cast without a graph
        with torch.set_grad_enabled(graph):
            g = policy(x, at, cond) if own else policy.step(x, base, at)
        action = g.sample(policy.space.project(drawn, cond)).to(x.dtype)  # as it is stored, whatever g is computed in
        if not stochastic:
            return action
        with torch.set_grad_enabled(graph):
            score = log_prob(g, action, policy.space, cond)
            if h in self.kept:
                out.log_prob[:, self.kept.index(h)] = score
        if h in self.kept and self.extras.means:
            out.own_mean[:, self.kept.index(h)] = g.mean
        if self.extras.reference:
            pre = policy.step(x, base, at)
            with torch.set_grad_enabled(graph):
                out.kl[:, h] = kl_same_std(g.mean, pre.mean, g.std, policy.space, cond)
            out.log_ratio[:, h] = score - log_prob(pre, action, policy.space, cond)
            if h in self.kept:
                out.reference_mean[:, self.kept.index(h)] = pre.mean
        return action


class Pairs(NamedTuple):
    """P pairs of a trajectory and a kept step of it, each (P,). cell: row times K plus column of what is (B, K), as log_prob
    and reference_mean; row; step: h; state, action: row times M plus slot; cond (P, ...)."""

    cell: Int[Tensor, " P"]
    row: Int[Tensor, " P"]
    step: Int[Tensor, " P"]
    state: Int[Tensor, " P"]
    action: Int[Tensor, " P"]
    cond: Tensor


def pick(x: Float[Tensor, "B C *D"], cell: Int[Tensor, " P"]) -> Float[Tensor, "P *D"]:
    """x[cell // C, cell % C]; three times as fast where a cell is many numbers, which are then copied as one."""
    return x.flatten(0, 1).index_select(0, cell)


def all_cells(rows: Int[Tensor, " R"], kept: int) -> Int[Tensor, " P"]:
    """Every kept step of the given trajectories."""
    return (rows[:, None] * kept + torch.arange(kept, device=rows.device)).flatten()


def split(cells: Int[Tensor, " P"], size: int) -> tuple[Tensor, ...]:
    """The cells in equal parts, of at most `size`."""
    return cells.tensor_split(-(-len(cells) // size))


def replay(policy: Policy, trajectory: Trajectory, pairs: Pairs) -> tuple[Gaussian, Float[Tensor, " P"]]:
    """The Gaussians of any set of pairs in one network forward, and the log-probabilities of the stored actions."""
    g = policy(pick(trajectory.states, pairs.state), pairs.step, pairs.cond)
    return g, log_prob(g, pick(trajectory.states, pairs.action), policy.space, pairs.cond)


def initial_kl(policy: Policy, reference: Policy, cond: Tensor) -> Float[Tensor, " B"]:
    """KL(rho || rho_pre) under each condition, in nats."""
    return kl(policy.initial(cond), reference.initial(cond), policy.space, cond)
