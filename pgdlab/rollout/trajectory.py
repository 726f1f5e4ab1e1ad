"""Rollout and replay: trajectories of the denoising MDP, and their Gaussians again with gradient."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import Gaussian, kl, log_prob


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """B trajectories, rows first, one preallocated tensor a field; H steps, of which K are trained.

    states holds only the M states that the trained steps need: state h is states[:, stored[h]] where stored[h] >= 0, and
    action h is state h + 1; in the dtype of sample, or in bf16. log_prob is that of the stored (rounded) actions. kl and
    log_ratio (sampled log pi/pi_pre) cover all H steps, trained or not, 0 at deterministic ones; they and reference_mean have
    0 columns unless the reference was asked for. estimates: the reference's x0 estimates of states 0..H-1, or empty. log_prob
    and the kl of trained steps may have a gradient: has_graph.
    """

    cond: Tensor
    states: Float[Tensor, "B M *D"]
    sample: Float[Tensor, "B *D"]
    initial: Float[Tensor, "B *D"]
    log_prob: Float[Tensor, "B K"]
    initial_log_prob: Float[Tensor, " B"]
    reference_mean: Float[Tensor, "B R *D"]
    kl: Float[Tensor, "B H0"]
    log_ratio: Float[Tensor, "B H0"]
    initial_log_ratio: Float[Tensor, " B"]
    estimates: Float[Tensor, "B E *D"]
    trained: tuple[int, ...]
    stored_at: tuple[int, ...]

    @functools.cached_property
    def lookup(self) -> Int[Tensor, "4 BK"]:
        """Of every index: row, step, and where its state and its action are among all states. Made once, so that no pass waits
        for a copy."""
        b, m = self.states.shape[:2]
        trained, stored = torch.tensor(self.trained, dtype=torch.long), torch.tensor(self.stored_at)
        row, h = torch.arange(b).repeat_interleave(len(trained)), trained.repeat(b)
        return torch.stack([row, h, row * m + stored[h], row * m + stored[h + 1]]).to(self.states.device)

    @property
    def steps(self) -> int:
        """H."""
        return len(self.stored_at) - 1

    @property
    def has_graph(self) -> bool:
        """Whether log_prob and kl can be differentiated as they are, once."""
        return self.log_prob.requires_grad

    def rows(self, rows: Int[Tensor, " R"]) -> Trajectory:
        """The trajectories of these numbers."""
        return replace(self, **{name: getattr(self, name)[rows] for name in TENSORS})

    def drop_graph(self) -> None:
        """Lets go of what log_prob and kl would be differentiated with."""
        self.log_prob.detach_()
        self.kl.detach_()

    def at(self, place: Int[Tensor, " P"]) -> Float[Tensor, "P *D"]:
        """The states, or actions, that pairs are found at, in the dtype that they were drawn in."""
        return pick(self.states, place).to(self.sample.dtype)

    def pairs(self, indices: Int[Tensor, " P"]) -> Pairs:
        """The pairs with these indices, and where a pass finds their states and actions."""
        row, step, state, action = self.lookup.index_select(1, indices).unbind()
        return Pairs(indices, row, step, state, action, self.cond[row])


TENSORS = tuple(f.name for f in fields(Trajectory) if f.name not in ("trained", "stored_at"))


def concatenate(parts: list[Trajectory]) -> Trajectory:
    """Trajectories of the same trained steps, one after another. Empties the list: one field at a time, so that not all is there
    twice for a moment."""
    if len(parts) == 1:
        return parts[0]
    trained, stored = parts[0].trained, parts[0].stored_at
    columns: dict[str, list[Any]] = {name: [getattr(part, name) for part in parts] for name in TENSORS}
    parts.clear()
    return Trajectory(trained=trained, stored_at=stored, **{name: torch.cat(columns.pop(name)) for name in TENSORS})


def stored_at(trained: list[int], steps: int) -> tuple[int, ...]:
    """Where state h is stored, -1 where it is not: the states before and after every trained step; all where that leaves out
    the last one at most."""
    needed = sorted({h for k in trained for h in (k, k + 1)})
    if needed[:steps] == list(range(steps)):
        return tuple(range(steps + 1))
    return tuple(needed.index(h) if h in needed else -1 for h in range(steps + 1))


def dtype_of(policy: Policy) -> torch.dtype:
    """The dtype of states: fp64 where the policy's parameters are, else fp32 (never less: scores need it)."""
    double = any(p.dtype == torch.float64 for p in policy.parameters())
    return torch.float64 if double else torch.float32


@dataclass(frozen=True)
class Pairs:
    """P pairs of a trajectory and a trained step of it, each (P,). index: row times K plus column of what is (B, K), as log_prob
    and reference_mean; row; step: h; state, action: row times M plus where it is stored; cond (P, ...)."""

    index: Int[Tensor, " P"]
    row: Int[Tensor, " P"]
    step: Int[Tensor, " P"]
    state: Int[Tensor, " P"]
    action: Int[Tensor, " P"]
    cond: Tensor


def pick(x: Float[Tensor, "B C *D"], index: Int[Tensor, " P"]) -> Float[Tensor, "P *D"]:
    """x[index // C, index % C]; three times as fast where a index is many numbers, which are then copied as one."""
    return x.flatten(0, 1).index_select(0, index)


def pair_indices(rows: Int[Tensor, " R"], trained: int) -> Int[Tensor, " P"]:
    """Every trained step of the given trajectories."""
    return (rows[:, None] * trained + torch.arange(trained, device=rows.device)).flatten()


def split(indices: Int[Tensor, " P"], size: int) -> tuple[Tensor, ...]:
    """The indices in equal parts, of at most `size`."""
    return indices.tensor_split(-(-len(indices) // size))


def replay(policy: Policy, trajectory: Trajectory, pairs: Pairs) -> tuple[Gaussian, Float[Tensor, " P"]]:
    """The Gaussians of any set of pairs in one network forward, and the log-probabilities of the stored actions."""
    g = policy(trajectory.at(pairs.state), pairs.step, pairs.cond)
    return g, log_prob(g, trajectory.at(pairs.action), policy.space, pairs.cond)


def initial_kl(policy: Policy, reference: Policy, cond: Tensor) -> Float[Tensor, " B"]:
    """KL(rho || rho_pre) under each condition, in nats."""
    return kl(policy.initial(cond), reference.initial(cond), policy.space, cond)


@dataclass(frozen=True)
class Samples:
    """Samples (B, *D) of one policy, their conditions, and their rewards: NaN where not measured, None where not asked."""

    sample: Tensor
    cond: Int[Tensor, " B"]
    reward: Float[Tensor, " B"] | None = None
