"""Fresh samples of a policy, on noise that training never sees."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.interaction import in_turn
from pgdlab.world import World


def evaluation_rollout(
    world: World, policy: Policy, noise: Noise, reference: bool, tuned_deterministic: bool = False
) -> Trajectory:
    """plan.eval_samples trajectories; the same noise for the same seed, whatever the policy."""
    plan, cond = world.plan, in_turn(world.domain.train_conditions, world.plan.eval_samples)
    extras = Extras(
        reference=reference, estimates=world.reward.needs_estimates(), tuned_deterministic=tuned_deterministic
    )
    base = world.reference
    if policy.kernel != base.kernel:
        base = base.with_kernel(policy.kernel)
    return rollout(policy, base, noise, 0, range(plan.eval_samples), cond, [], plan.rollout_batch, extras)


def draw(world: World, count: int, noise: Noise) -> tuple[Float[Tensor, "N *D"], Int[Tensor, " N"]]:
    """count samples of the world's policy, prompts in turn; as in measure(), an ODE uses the tuned network."""
    cond = in_turn(world.domain.train_conditions, count)
    with torch.no_grad():
        trajectory = rollout(
            world.policy, world.reference, noise, 0, range(count), cond, [], world.plan.rollout_batch,
            Extras(tuned_deterministic=not world.policy.stochastic_steps),
        )  # fmt: skip
    return trajectory.sample, trajectory.cond
