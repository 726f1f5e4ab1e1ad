"""Credit assignment: per-action returns from an iteration's rewards and penalty costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.functional.returns import reward_to_go
from pgdlab.rewards.base import StepRewards
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.world import World


@dataclass(frozen=True)
class Credited:
    """This process's rows. table: what advantages are made of, column 0 rho's, column h + 1 action h's; fp64.

    weight: of a trained step's differentiated penalty, (K,), None for 1. targets: what the critic is fitted to at the
    trained steps, (B, K), or (B, 0) where there is none. spread: what a scale is the standard deviation of, where that is not
    what was earned.
    """

    table: Float[Tensor, "B H1"]
    weight: Float[Tensor, " K"] | None
    targets: Float[Tensor, "B T"]
    logs: dict[str, float] = field(default_factory=dict)
    spread: Float[Tensor, " B"] | None = None


class Credit(ABC):
    """How returns are made. A frozen dataclass; the weights of a critic live in World.critic."""

    @abstractmethod
    def refuse(self, world: World) -> None:
        """Raises ValueError where the world asks for what this cannot give."""

    def equip(self, world: World) -> World:
        """The world with the untrained critic, if it needs one."""
        return world

    @abstractmethod
    def assign(self, world: World, trajectory: Trajectory, rewards: StepRewards) -> Credited:
        """Under the policy, and the critic, that the trajectories were drawn with."""


def returns_table(rewards: StepRewards) -> Float[Tensor, "B H1"]:
    """Column 0: rho's return. Column h + 1: the reward-to-go of action h."""
    return torch.cat([rewards.total[:, None].double(), reward_to_go(rewards.values)], 1)


@dataclass(frozen=True, kw_only=True)
class RewardToGo(Credit):
    """R_h = sum_{j >= h} r_j less the penalty's part: no critic, the baseline is over samples."""

    def refuse(self, world: World) -> None:
        pass

    def assign(self, world: World, trajectory: Trajectory, rewards: StepRewards) -> Credited:
        table = returns_table(rewards) - world.penalties.return_cost(trajectory)
        return Credited(table, None, table[:, :0])
