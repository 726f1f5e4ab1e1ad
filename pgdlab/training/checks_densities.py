"""Checks of what a gradient is made of, each against a figure of its own: densities, the noise that was drawn, what a KL costs,
and whether all of rho can learn."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import Gaussian, expand, kl_same_std
from pgdlab.penalties.base import Penalties
from pgdlab.penalties.path_kl import KLPenalty
from pgdlab.rollout.trajectory import Trajectory, replay

PAIRS = 32  # (trajectory, step) pairs whose densities are looked at
SIGMAS = 5  # chance goes further once in two million times
ROUNDED = 0.01  # of a statistic, a correlation or a price: what rounding and a base in bf16 may do


class Finding(NamedTuple):
    """What a check saw. message: the figure; cause: what it means where it is not good."""

    name: str
    good: bool
    message: str
    cause: str


@torch.no_grad()
def drawn(policy: Policy, trajectory: Trajectory, taken: Tensor) -> Tensor:
    """All noise of the trajectories, that of s_0 first: (B, 1 + K, D). taken: that of the steps, (B, K, D)."""
    rho = policy.initial(trajectory.cond)
    first = (trajectory.initial - rho.mean) / rho.std
    return torch.cat([first.reshape(len(taken), 1, -1), taken], 1)


def densities(policy: Policy, penalties: Penalties, trajectory: Trajectory, noise: Tensor) -> Iterator[Finding]:
    """All but reached(). noise: (B, steps, D), what the trajectories took."""
    yield from density_and_kl(policy, trajectory)
    yield from noise_statistics(policy, noise, trajectory.cond)
    with torch.no_grad():
        yield from charges(penalties, trajectory)


def density_and_kl(policy: Policy, trajectory: Trajectory) -> Iterator[Finding]:
    """log pi(a|s) of the rollout, and the KL of two steps, against torch.distributions, summed over all coordinates: those that a
    space does not count are equal in state and mean."""
    if not trajectory.trained:
        return
    with torch.no_grad():
        some = torch.arange(trajectory.log_prob.numel(), device=trajectory.cond.device)
        pairs = trajectory.pairs(some[:: max(1, len(some) // PAIRS)])
        g, _ = replay(policy, trajectory, pairs)
    one = Normal(g.mean.double(), g.std.double().expand_as(g.mean))
    dof = policy.space.dof(pairs.cond)
    spare = (g.mean[0].numel() - dof) * (one.scale.log().flatten(1)[:, 0] + 0.5 * math.log(2 * math.pi))
    expected = one.log_prob(trajectory.at(pairs.action).double()).flatten(1).sum(1) + spare
    off = (trajectory.log_prob.double().flatten()[pairs.index] - expected).abs().max().item()
    allowed = 0.02 + 1e-5 * int(dof.max())  # nats; densities of many coordinates are rounded where they are fp32
    message = f"off by {off:.1e} nats at most from that of torch.distributions, in {int(dof.max())} dimensions"
    yield Finding(
        "density", off < allowed, message, "it is not the sum over the dimensions of a Gaussian's log-density"
    )
    moved = Gaussian(g.mean + g.std * policy.space.project(torch.ones_like(g.mean), pairs.cond), g.std)
    mine = kl_same_std(moved.mean, g.mean, g.std, policy.space, pairs.cond).double()
    theirs = kl_divergence(Normal(moved.mean.double(), one.scale), one).flatten(1).sum(1)
    ratio = (mine.sum() / theirs.sum().clamp_min(1e-30)).item() if theirs.any() else 1.0
    yield Finding(
        "kl", abs(ratio - 1) < ROUNDED, f"{ratio:.3f} of that of torch.distributions",
        "it is not the sum over the dimensions of a Gaussian's KL",
    )  # fmt: skip


def noise_statistics(policy: Policy, noise: Tensor, cond: Tensor) -> Iterator[Finding]:
    """The noise (B, steps, D) that trajectories took: its variance is 1, neighbouring coordinates and steps are uncorrelated. A
    fault that is smaller than chance, with so few coordinates, is not seen."""
    z, total = noise.float(), functools.partial(torch.sum, dtype=torch.float64)
    count = z.shape[1] * int(policy.space.dof(cond).sum())
    variance = total(z.square()).item() / count
    message = f"variance {variance:.3f} over {count:,} numbers"
    good = abs(variance - 1) < SIGMAS * (2 / count) ** 0.5 + ROUNDED
    yield Finding(
        "noise size", good, message, "actions are not drawn with the standard deviation that their density has"
    )
    pairs = {"coordinates": (z[..., 1:], z[..., :-1]), "steps": (z[:, 1:], z[:, :-1])}
    products = {name: a * b for name, (a, b) in pairs.items()}
    known = {name: max(1, int(x.ne(0).sum())) for name, x in products.items()}  # what a space leaves out is 0
    found = {name: total(x).item() / known[name] for name, x in products.items()}
    bound = {name: SIGMAS / n**0.5 + ROUNDED for name, n in known.items()}
    bad = [name for name, value in found.items() if abs(value) > bound[name]]
    message = ", ".join(f"{value:.3f} between neighbouring {name}" for name, value in found.items())
    yield Finding("noise correlation", not bad, message, f"neighbouring {' and '.join(bad)} are not independent")


def charges(penalties: Penalties, trajectory: Trajectory) -> Iterator[Finding]:
    """Every KL term charges what the objective says, on made-up KLs: step h loses lambda times the KL of this step and all
    later ones, from loss and return together, and rho lambda_0 times its own besides."""
    rows, steps, device = len(trajectory.cond), trajectory.steps, trajectory.cond.device
    g = torch.Generator().manual_seed(0)
    kl, ratio = (torch.rand(rows, steps, dtype=torch.float64, generator=g).to(device) for _ in range(2))
    first, first_ratio = (torch.rand(rows, dtype=torch.float64, generator=g).to(device) for _ in range(2))
    made_up = replace(trajectory, kl=kl, log_ratio=ratio, initial_log_ratio=first_ratio)
    for name, penalty in penalties.named_children():
        if not isinstance(penalty, KLPenalty) or not penalty.needs_reference():
            continue
        exact = penalty.form == "A"
        back = penalty.return_cost(made_up)
        charged = back[:, 1:] + torch.stack([penalty.loss_term(kl[:, h]) for h in range(steps)], 1)
        own = kl if exact else ratio
        due = penalty.coefficient * own.flip(1).cumsum(1).flip(1)
        rho = back[:, 0] + penalty.initial_loss_term(first)
        due_rho = due[:, 0] + penalty.initial_coefficient * (first if exact else first_ratio)
        yield _priced(name, charged, due, "the steps")
        yield _priced(name, rho, due_rho, "the initial distribution")


def _priced(name: str, charged: Tensor, due: Tensor, whom: str) -> Finding:
    """Whether the charges are those that are due."""
    share = (charged.sum() / due.sum()).item() if due.any() else 1.0
    good = bool((charged - due).abs().max() <= ROUNDED * due.abs().max())
    cause = (
        "its sign, its scale or a part of it (this step's, later steps', rho's own) is not as docs/penalties.md has it"
    )
    return Finding("kl cost", good, f"{name} charges {whom} {share:.2f} times what its coefficient says", cause)


def reached(policy: Policy, trajectory: Trajectory) -> Iterator[Finding]:
    """Whether the log-density of s_0 depends on every parameter of rho."""
    named = dict(policy.initial.named_parameters())
    if not policy.trains_initial:
        return
    rho = policy.initial(trajectory.cond)
    z = (trajectory.initial - rho.mean) / rho.std
    weight = torch.linspace(-1, 1, len(z), dtype=z.dtype, device=z.device)  # as advantages: of no one sign
    score = (expand(weight, z) * (-0.5 * z.square() - rho.std.log())).sum()
    asked = [p for p in named.values() if p.requires_grad]
    found = iter(torch.autograd.grad(score, asked, allow_unused=True) if score.requires_grad else [None] * len(asked))
    gradients = {name: next(found) if p.requires_grad else None for name, p in named.items()}
    dead = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    message = f"{len(named) - len(dead)} of {len(named)} parameters of the initial distribution have a gradient"
    yield Finding("initial", not dead, message, f"none reaches {', '.join(dead)}")
