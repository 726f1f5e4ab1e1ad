"""Rewards that look at a plan and at the walls and blocks of its task."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.planning.conditions import TaskTable
from pgdlab.rewards.base import Reward, Score


class PlanReward(Reward):
    """Of plans (B, P, 2), in cells. What numbers of tasks stand for comes with meet(): without it score() raises ValueError."""

    takes = "plans"
    occupied: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("occupied", torch.empty(0, 0, 0, dtype=torch.bool), persistent=False)

    def meet(self, conditioning: Conditioning) -> None:
        if not isinstance(conditioning, TaskTable):
            raise ValueError(f"{self.called} scores plans of tasks, and a {type(conditioning).__name__} has no tasks")
        self.occupied = conditioning.tasks.occupied.to(self.occupied.device)

    def score(self, sample: Float[Tensor, "B P 2"], cond: Tensor) -> Score:
        if not len(self.occupied):
            raise ValueError(f"{self.called} does not know the tasks: give it domain.conditioning with meet()")
        return self.among(sample, self.occupied[cond])

    @abstractmethod
    def among(self, plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Score:
        """Values of B plans among the cells that are walls or blocks."""
