"""Reward-weighted regression: denoising on the policy's own samples, weighted by their reward."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from pgdlab.functional.returns import softmax_weights
from pgdlab.rollout.sampler import Extras
from pgdlab.trainers.base import refuse_ode
from pgdlab.trainers.denoising import DenoisingAlgorithm, Samples
from pgdlab.trainers.interaction import Interaction, OneShot, cost, summarise, training_request
from pgdlab.trainers.prompts import prompt_rewards
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class RewardWeightedRegression(DenoisingAlgorithm):
    """Minimises sum_i w_i denoising_loss(x_i), w = softmax(r / temperature) over an iteration's measured samples of the same
    condition (Peters & Schaal 2007; for diffusion: the RWR baseline of Black et al. 2023, arXiv:2305.13301, sec. 4.1), so
    that an easy condition does not take the weight of a hard one.

    temperature: in reward units. Not a policy gradient: no path KL, no initial distribution; either is refused.
    """

    temperature: float = 0.1
    updates: int = 8
    batch: int = 128
    drop: float = 0.0
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0, in reward units")

    def refuse(self, world: World) -> None:
        super().refuse(world)
        refuse_ode(world.policy)
        world.processes.share(world.plan.samples)
        if world.plan.group == 1 and world.plan.samples <= len(world.domain.train_conditions):
            raise ValueError(
                f"plan.samples is {world.plan.samples} in groups of 1, no more than conditions: every sample is alone under its "
                "condition and weighs the same, whatever its reward; set plan.group to 2 or more"
            )
        if world.policy.trains_initial or len(world.penalties):
            raise ValueError(
                "reward-weighted regression has no gradient for the initial distribution and takes no penalty, no path KL: "
                "set initial=standard penalty=none"
            )

    @torch.no_grad()
    def collect(self, world: World, iteration: int) -> Samples:
        gather, extras = world.processes.gather, Extras(estimates=world.reward.needs_estimates())
        collected = self.interaction.collect(world, training_request(world, iteration, (), extras))
        total, measured = gather(collected.rewards.total.double()), gather(collected.rewards.measured)
        sample, cond = gather(collected.trajectory.sample), gather(collected.trajectory.cond)
        weight = softmax_weights(total / self.temperature, measured, cond).to(sample.dtype)
        logs = summarise(world, collected) | {"effective_samples": (weight.sum() ** 2 / weight.square().sum()).item()}
        prompts = prompt_rewards(world, collected)
        logs |= prompts.logs if prompts else {}
        return Samples(sample, cond, weight, iteration, logs, **cost(world, collected), prompts=prompts)
