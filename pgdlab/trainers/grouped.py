"""The base of matchings that compare the samples of a group: a minibatch is of whole groups, each at one time with one noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgdlab.trainers.denoising import NoisyBatch, Samples, in_blocks, turn
from pgdlab.trainers.matching import Matched, Matching
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Grouped(Matching):
    """A Matching whose blocks (Estimates.block) are the measured samples of a group. batch: samples an update, rounded down to
    whole groups."""

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if self.batch < world.plan.group:
            raise ValueError(
                f"trainer.batch is {self.batch}, and a group, which is compared as a whole, has {world.plan.group} samples: "
                "raise it to plan.group or more"
            )

    def micro_batches(self, experience: Samples, update: int, world: World) -> list[NoisyBatch]:
        assert isinstance(experience, Matched)
        g, size = world.noise.generator(experience.iteration, 10 + update), self.batch // world.plan.group
        numbers, sizes = experience.group.cpu().unique_consecutive(return_counts=True)
        first, chosen = sizes.cumsum(0) - sizes, turn(len(numbers), size, update, experience.iteration, world)
        block = torch.arange(size).repeat_interleave(sizes[chosen])
        rows = torch.cat(
            [torch.arange(n) + k for k, n in zip(first[chosen].tolist(), sizes[chosen].tolist(), strict=True)]
        )
        t = self.drawn_times(world.policy, (torch.arange(size) + torch.rand(size, generator=g)) / size)
        noise = torch.randn(size, *experience.x0.shape[1:], generator=g)
        cond, hidden = experience.cond.cpu()[rows], torch.rand(size, generator=g) < self.drop
        return in_blocks(world, rows, t[block], noise[block], cond, block, hidden, len(rows))
