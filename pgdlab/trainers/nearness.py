"""What penalties on the sampling policy and on final samples are told during training."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.functional.gaussian import Gaussian, kl_same_std
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import Pairs, Trajectory, pick
from pgdlab.trainers.interaction import in_turn
from pgdlab.world import World


@torch.no_grad()
def trust(
    world: World, trajectory: Trajectory, pairs: Pairs, g: Gaussian
) -> tuple[Bool[Tensor, " P"], dict[str, tuple[Tensor, float]]]:
    """Which pairs are inside the trust region; for the logs the exact KL to the sampling policy and who is outside."""
    old = pick(trajectory.own_mean, pairs.index)
    moved = kl_same_std(g.mean, old, g.std, world.policy.space, pairs.cond)
    inside, n = world.penalty.trusted(moved), float(len(moved))
    return inside, {"old_kl_nats": (moved.double().sum(), n), "untrusted": ((~inside).sum(), n)}


def final_costs(world: World, trajectory: Trajectory) -> Float[Tensor, " N"]:
    """The cost of all processes' final samples."""
    gather = world.processes.gather
    return world.penalty.final(
        gather(trajectory.sample), gather(trajectory.cond), lambda n: reference_samples(world, n)
    )


def reference_samples(world: World, count: int) -> tuple[Float[Tensor, "N *D"], Int[Tensor, " N"]]:
    """Final samples of the reference, evenly over the prompts, on noise that nothing else sees; each process draws a part."""
    index, cond = world.processes.share(count), in_turn(world.domain.train_conditions, count).to(world.device)
    noise, mine = Noise(world.noise.seed, Stream.REFERENCE), cond[index.start : index.stop]
    drawn = rollout(world.reference, world.reference, noise, 0, index, mine, [], world.plan.rollout_batch)
    return world.processes.gather(drawn.sample), cond


def reference_evaluations(world: World) -> int:
    """Network rows that drawing them took, over all processes."""
    return world.penalty.references() * world.policy.steps
