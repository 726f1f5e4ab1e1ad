"""The law of the final samples on a line: densities carried forward along a chain, and what they are worth."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.oracle.grid.induction import Problem, around, start_of, walk
from pgdlab.oracle.grid.rules import policy_mean

SPACING = 0.7  # of the smallest std: sums over nodes are integrals of Gaussians to 1e-16 relative there, to 2e-9 at 1
MOST = 6000  # nodes
SMALLEST = 1e-300  # a density


def is_known(problem: Problem) -> bool:
    """Whether the laws can be computed: on a line, with noise in every step, and not too little for the nodes."""
    policy = problem.reference
    if policy.space.shape != (1,) or len(policy.stochastic_steps) < policy.steps:
        return False
    return needed(problem, policy)[2] <= MOST


def needed(problem: Problem, *policies: Policy) -> tuple[float, float, int]:
    """The least and the largest state of the policies, and how many even nodes between them."""
    boxes = []
    for policy in policies:
        mean = partial(policy_mean, policy, cond=problem.cond)
        boxes += around(walk(start_of(policy, problem.cond), mean, policy), sides=4.0)
    low, high = min(float(b.low) for b in boxes), max(float(b.high) for b in boxes)
    return low, high, int((high - low) / (SPACING * float(problem.reference.std.min()))) + 2


def nodes(problem: Problem, *policies: Policy) -> Float[Tensor, " N"]:
    """Even nodes over all states of the policies. Raises ValueError where they are too many."""
    low, high, count = needed(problem, *policies)
    if count > MOST:
        raise ValueError(
            f"the law of the samples would take {count:,} nodes, more than {MOST:,}: the noise of a step is small against "
            f"the states, from {low:.3g} to {high:.3g}"
        )
    return torch.linspace(low, high, count, dtype=torch.float64)


@torch.no_grad()
def final_law(policy: Policy, cond: int, x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Probabilities of s_H at the nodes."""
    rho = start_of(policy, cond)
    p = normal(x, rho.mean[0], rho.std[0])[0]
    for h in range(policy.steps):
        p = p @ normal(x, policy_mean(policy, x[:, None], h, cond)[:, 0], policy.std[h])
    return p


def normal(x: Float[Tensor, " N"], mean: Float[Tensor, " M"], std: Tensor) -> Float[Tensor, "M N"]:
    """N(x_j; mean_i, std^2) as probabilities of the nodes; the mean is kept inside them."""
    z = (x - mean.clamp(x[0], x[-1])[:, None]) / std
    p = (-0.5 * z.square()).exp()
    return p / p.sum(1, keepdim=True)


def final_kl(policy: Policy, problem: Problem) -> Float[Tensor, ""]:
    """KL of the law of the policy's final samples to the reference's, in nats."""
    x = nodes(problem, policy, problem.reference)
    p, q = (final_law(each, problem.cond, x) for each in (policy, problem.reference))
    return (p * (p.clamp(min=SMALLEST) / q.clamp(min=SMALLEST)).log()).sum()


def tilt(problem: Problem) -> tuple[float, float, float]:
    """The tilt of the reference's own samples by exp(r / lam): lam log E[exp(r / lam)], its mean reward, its KL."""
    x = nodes(problem, problem.reference)
    p, reward = final_law(problem.reference, problem.cond, x), problem.reward(x[:, None]).double()
    logits = p.clamp(min=SMALLEST).log() + reward / problem.lam
    value = problem.lam * float(logits.logsumexp(0))
    mean = float(logits.softmax(0) @ reward)
    return value, mean, (mean - value) / problem.lam
