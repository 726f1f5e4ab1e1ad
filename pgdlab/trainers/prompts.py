"""The rewards of an iteration, prompt by prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.trainers.interaction import Collected
from pgdlab.world import World


@dataclass(frozen=True)
class PromptRewards:
    """Of the P prompts that an iteration has drawn, over all processes. samples: those that were measured; mean: of their
    rewards, NaN where there is none; std (n - 1): NaN where there are fewer than two. On the CPU, fp64."""

    number: Int[Tensor, " P"]
    samples: Int[Tensor, " P"]
    mean: Float[Tensor, " P"]
    std: Float[Tensor, " P"]

    @property
    def logs(self) -> dict[str, float]:
        """The means of the worst and of the best prompt."""
        known = self.mean[self.samples > 0]
        return {"reward_worst_prompt": known.min().item(), "reward_best_prompt": known.max().item()}


def by_prompt(reward: Float[Tensor, " N"], measured: Bool[Tensor, " N"], cond: Int[Tensor, " N"]) -> PromptRewards:
    """Count, mean and standard deviation of the measured rewards under each condition that occurs."""
    number, place = cond.unique(return_inverse=True)
    zero, weight = reward.new_zeros(len(number)), measured.to(reward.dtype)
    count = zero.index_add(0, place, weight)
    mean = zero.index_add(0, place, reward.masked_fill(~measured, 0.0)) / count
    off = (reward - mean[place]).square().masked_fill(~measured, 0.0)
    variance = zero.index_add(0, place, off) / (count - 1)
    std = torch.where(count > 1, variance, torch.nan).sqrt()
    return PromptRewards(number.cpu(), count.long().cpu(), mean.cpu(), std.cpu())


def prompt_rewards(world: World, collected: Collected) -> PromptRewards | None:
    """Of an iteration; None where there is one prompt, or where conditions are no texts."""
    if world.domain.conditioning.texts is None or len(set(world.domain.train_conditions)) < 2:
        return None
    gather, rewards = world.processes.gather, collected.rewards
    return by_prompt(gather(rewards.total.double()), gather(rewards.measured), gather(collected.trajectory.cond))
