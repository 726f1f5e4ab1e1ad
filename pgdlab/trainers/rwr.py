"""Reward-weighted regression: denoising on the policy's own samples, weighted by their reward."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from pgdlab.functional.returns import effective_size, softmax_weights
from pgdlab.trainers.base import Loss
from pgdlab.trainers.denoising import NoisyBatch, Samples, noisy
from pgdlab.trainers.own_samples import OwnSamples
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class RewardWeightedRegression(OwnSamples):
    """Minimises sum_i w_i denoising_loss(x_i), w = softmax(r / temperature) over an iteration's measured samples of the same
    condition (Peters & Schaal 2007; for diffusion: the RWR baseline of Black et al. 2023, arXiv:2305.13301, sec. 4.1), so
    that an easy condition does not take the weight of a hard one.

    temperature: in reward units. steady: equal rewards leave the network as it is. Of each sample's weight w_i (1 on average)
    w_i - 1 falls on x_i and 1 on the estimate of the policy that sampled; without it every round repeats the sampler's own
    error, and a chain of few steps narrows its samples round after round. Not a policy gradient: no path KL, no initial
    distribution; either is refused.
    """

    temperature: float = 0.1
    steady: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0, in reward units")

    def equip(self, world: World) -> World:
        return world.with_old() if self.steady else world

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if world.plan.group == 1 and world.plan.samples <= len(world.domain.train_conditions):
            raise ValueError(
                f"plan.samples is {world.plan.samples} in groups of 1, no more than conditions: every sample is alone under its "
                "condition and weighs the same, whatever its reward; set plan.group to 2 or more"
            )

    def collect(self, world: World, iteration: int) -> Samples:
        samples, measured = self.drawn(world, iteration)
        weight = softmax_weights(samples.weight / self.temperature, measured, samples.cond).to(samples.x0.dtype)
        logs = samples.logs | {"effective_samples": effective_size(weight)}
        return replace(samples, weight=weight, logs=logs)

    def loss(self, experience: Samples, piece: NoisyBatch, world: World) -> Loss:
        if world.old is None:
            return super().loss(experience, piece, world)
        denoiser, x0, weight = world.policy.denoiser, experience.x0[piece.rows], experience.weight[piece.rows]
        x = noisy(denoiser, x0, piece.t, piece.noise.to(x0.dtype))
        with torch.no_grad():
            old = world.old.denoiser(x, piece.t, piece.cond)
        off, own = (denoiser.loss(x, target, piece.t, piece.cond) for target in (x0, old))
        total = ((weight - 1) * off + own).sum() / piece.count
        return Loss(total, 3 * len(off), {"denoising_loss": (off.detach().sum(), float(len(off)))})
