"""Credit assignment: from what an iteration's trajectories earned and cost to what each action is compared by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.values import Value
from pgdlab.functional.returns import reward_to_go
from pgdlab.rewards.base import StepRewards
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.world import World


@dataclass(frozen=True)
class Credited:
    """This process's rows. table: what advantages are made of, column 0 rho's, column h + 1 action h's; fp64.

    weight: of a trained step's differentiated penalty, (K,), None for 1. targets: what the critic is fitted to at the
    trained steps, (B, K), or (B, 0) where there is none.
    """

    table: Float[Tensor, "B H1"]
    weight: Float[Tensor, " K"] | None
    targets: Float[Tensor, "B T"]
    logs: dict[str, float] = field(default_factory=dict)


class Credit(ABC):
    """How returns are made. A frozen dataclass; the weights of a critic live in World.critic."""

    @abstractmethod
    def refuse(self, world: World) -> None:
        """Raises ValueError where the world asks for what this cannot give."""

    @abstractmethod
    def build_critic(self, world: World) -> Value | None:
        """The untrained critic, if it needs one."""

    @abstractmethod
    def assign(self, world: World, trajectory: Trajectory, paid: StepRewards) -> Credited:
        """Under the policy, and the critic, that the trajectories were drawn with."""


def returns_table(paid: StepRewards) -> Float[Tensor, "B H1"]:
    """Column 0: rho's return. Column h + 1: the reward-to-go of action h."""
    return torch.cat([paid.total[:, None].double(), reward_to_go(paid.values)], 1)


@dataclass(frozen=True, kw_only=True)
class RewardToGo(Credit):
    """R_h = sum_{j >= h} r_j less the penalty's part: no critic, the baseline is over samples."""

    def refuse(self, world: World) -> None:
        pass

    def build_critic(self, world: World) -> None:
        return None

    def assign(self, world: World, trajectory: Trajectory, paid: StepRewards) -> Credited:
        table = returns_table(paid) - world.penalty.shape(trajectory)
        return Credited(table, None, table[:, :0])
