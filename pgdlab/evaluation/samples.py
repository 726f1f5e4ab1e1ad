"""Fresh samples of a policy, on noise that training never sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.trainers.closed_loop import rows_of
from pgdlab.trainers.interaction import Request, in_turn
from pgdlab.world import World


def evaluation_request(
    world: World, policy: Policy, noise: Noise, reference: bool, tuned_deterministic: bool = False,
    conditions: Sequence[int] = (),
) -> Request:  # fmt: skip
    """plan.eval_samples trajectories, conditions (the training's where none are given) in turn; the same noise for the same seed,
    whatever the policy."""
    count, estimates = rows_of(world, world.plan.eval_samples), world.reward.needs_estimates()
    base = world.reference
    if policy.kernel != base.kernel:
        base = base.with_kernel(policy.kernel)
    return Request(
        policy=policy, reference=base, noise=noise.of(0, range(count)),
        cond=in_turn(conditions or world.domain.eval_conditions, count),
        extras=Extras(reference=reference, estimates=estimates, tuned_deterministic=tuned_deterministic),
    )  # fmt: skip


@torch.no_grad()
def draw(
    world: World, count: int, noise: Noise, conditions: Sequence[int] = ()
) -> tuple[Float[Tensor, "N *D"], Int[Tensor, " N"]]:
    """count samples of the world's policy, conditions (the domain's own) in turn; as in measure(), an ODE uses the tuned
    network."""
    extras = Extras(tuned_deterministic=not world.policy.stochastic_steps)
    cond = in_turn(conditions or world.domain.eval_conditions, count)
    trajectory = rollout(
        world.policy, world.reference, noise.of(0, range(count)), cond,
        batch=world.capacity.rollout_batch, extras=extras,
    )  # fmt: skip
    return trajectory.sample, trajectory.cond
