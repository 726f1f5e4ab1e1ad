"""Flow policy optimisation: PPO whose likelihood ratio of a sample is the exponential of a mean of its denoising losses."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.credit.critic import Critic
from pgdlab.functional.surrogates import ppo_clip
from pgdlab.trainers.denoising import NoisyBatch, Samples, in_blocks
from pgdlab.trainers.estimates import Estimates
from pgdlab.trainers.matching import Matching
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class FPO(Matching):
    """max min(rho A, clip(rho) A), rho = exp(mean of l_old - l over `times` times and noises of the sample), l = w ||x_0 -
    x0hat||^2   (FPO: McAllister et al. 2025, arXiv:2507.21053, eq. 9), and one ratio for them all: no critic of x_h, whose value
    at one time would be taken from what is learnt at the others.

    clip: of the mean. times: drawn a sample and update. batch: samples an update.
    """

    times: int = 8
    clip: float = 0.05
    batch: int = 32
    critic: Critic | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1 or self.clip <= 0:
            raise ValueError(f"times is {self.times}, clip {self.clip}; they must be at least 1, and above 0")

    def match(self, at: Estimates, advantage: Float[Tensor, " P"], largest: Tensor) -> Float[Tensor, " P"]:
        return -ppo_clip(at.total(at.log_ratio) / self.times, advantage, -self.clip, self.clip)

    def micro_batches(self, experience: Samples, update: int, world: World) -> list[NoisyBatch]:
        g, size, count = world.noise.generator(experience.iteration, 10 + update), self.batch, self.batch * self.times
        block = torch.arange(size).repeat_interleave(self.times)
        rows = self.rows(experience, update, world)[block]
        spread = (torch.arange(count) + torch.rand(count, generator=g)) / count
        t = self.drawn_times(world.policy, spread.reshape(self.times, size).T.flatten())
        noise = torch.randn(count, *experience.x0.shape[1:], generator=g)
        cond, hidden = experience.cond.cpu()[rows], torch.rand(size, generator=g) < self.drop
        return in_blocks(world, rows, t, noise, cond, block, hidden, count)
