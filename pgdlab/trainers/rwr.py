"""Reward-weighted regression: denoising on the policy's own samples, weighted by their reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgdlab.penalties.base import NoPenalty
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.trainers.base import refuse_ode
from pgdlab.trainers.denoising import DenoisingAlgorithm, Samples
from pgdlab.trainers.interaction import ahead, draw_conditions, evaluations, outcome, queries, summarise
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class RewardWeightedRegression(DenoisingAlgorithm):
    """Minimises sum_i w_i denoising_loss(x_i), w = softmax(r / temperature) over an iteration's measured samples
    (Peters & Schaal 2007; for diffusion: the RWR baseline of Black et al. 2023, arXiv:2305.13301, sec. 4.1).

    temperature: in reward units. Not a policy gradient: no path KL, no initial distribution; either is refused.
    """

    temperature: float = 0.1
    updates: int = 8
    batch: int = 128
    drop: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0, in reward units")

    def refuse(self, world: World) -> None:
        super().refuse(world)
        refuse_ode(world.policy)
        world.processes.share(world.plan.samples)
        if world.policy.trains_initial or not isinstance(world.penalty, NoPenalty):
            raise ValueError(
                "reward-weighted regression has no gradient for the initial distribution and takes no penalty, no path KL: "
                "set initial=standard penalty=none"
            )

    @torch.no_grad()
    def collect(self, world: World, iteration: int) -> Samples:
        plan, processes = world.plan, world.processes
        index = processes.share(plan.samples)
        cond, extras = draw_conditions(world, iteration), Extras(estimates=world.reward.needs_estimates())
        mine = cond[index.start : index.stop]
        trajectory = rollout(
            world.policy, world.reference, world.noise, iteration, index, mine, [], plan.rollout_batch, extras,
            ahead(world),
        )  # fmt: skip
        seen = outcome(world, trajectory)
        paid = guarded(world.reward, seen, plan.max_failed, processes.gather)
        total, measured = processes.gather(paid.total.double()), processes.gather(paid.measured)
        score = torch.where(measured, total / self.temperature, -torch.inf)
        groups = torch.arange(plan.samples, device=world.device) // plan.group
        sample = processes.gather(trajectory.sample)
        weight = (score.softmax(0) * plan.samples).to(sample.dtype)
        logs = summarise(world, trajectory, seen, paid, groups) | {
            "effective_samples": (weight.sum() ** 2 / weight.square().sum()).item()
        }
        scored, evaluated = queries(world, paid), evaluations(world, extras)
        return Samples(sample, cond, weight, iteration, logs, queries=scored, evaluations=evaluated)
