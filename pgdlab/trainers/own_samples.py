"""Regression on the policy's own final samples: what its trainers have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from pgdlab.rollout.sampler import Extras
from pgdlab.trainers.denoising import DenoisingAlgorithm, Samples
from pgdlab.trainers.interaction import Interaction, OneShot, cost, summarise, training_request
from pgdlab.trainers.prompts import prompt_rewards
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class OwnSamples(DenoisingAlgorithm):
    """Samples, scores, and trains on the final samples alone: no density of a step is taken, so that any sampler will do,
    the ODE too."""

    updates: int = 8
    batch: int = 128
    drop: float = 0.0
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    def refuse(self, world: World) -> None:
        super().refuse(world)
        world.processes.share(world.plan.samples)
        refuse_path_terms(world)

    @torch.no_grad()
    def drawn(self, world: World, iteration: int, decay: float = 0.0) -> tuple[Samples, Bool[Tensor, " N"]]:
        """All processes' samples with their reward as weight, and which of them were measured. They are the old policy's where
        there is one (decay: of it); under the ODE the tuned network takes all steps, else those with noise, as in evaluation."""
        gather, ode = world.processes.gather, not world.policy.stochastic_steps
        extras = Extras(estimates=world.reward.needs_estimates(), tuned_deterministic=ode)
        request = training_request(world, iteration, (), extras, decay)
        collected = self.interaction.collect(world, replace(request, policy=world.old or world.policy))
        total, measured = gather(collected.rewards.total.double()), gather(collected.rewards.measured)
        sample, cond = gather(collected.trajectory.sample), gather(collected.trajectory.cond)
        logs, prompts = summarise(world, collected), prompt_rewards(world, collected)
        logs |= prompts.logs if prompts else {}
        return Samples(sample, cond, total, iteration, logs, **cost(world, collected), prompts=prompts), measured


def refuse_path_terms(world: World) -> None:
    """Raises ValueError where the world has a penalty, or an initial distribution to be trained."""
    if world.policy.trains_initial or len(world.penalties):
        raise ValueError(
            "a regression on final samples has no gradient for the initial distribution and takes no penalty, no path KL: "
            "set initial=standard penalty=none"
        )
