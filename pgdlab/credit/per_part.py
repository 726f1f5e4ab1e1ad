"""Credit for a sum of rewards whose parts are brought to one scale first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.credit.reward_to_go import Credit, Credited, RewardToGo
from pgdlab.functional.returns import advantages
from pgdlab.rewards.base import StepRewards
from pgdlab.rewards.combine import Sum
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class PerPart(Credit):
    """sum_k w_k (r_k - mean r_k) / std r_k in the place of sum_k w_k r_k, mean and std over the measured samples of a group,
    as in functional.returns.advantages   (after GDPO of Liu et al. 2026, arXiv:2601.05242; its division of the sum by the
    batch's std is left to the optimizer). A part that is equal in a group adds nothing there.

    The reward is a Sum whose parts are paid at the end. credit: what is made of the new return. Logs and evaluations keep
    the plain sum.
    """

    credit: Credit = field(default_factory=RewardToGo)

    def refuse(self, world: World) -> None:
        if not isinstance(world.reward, Sum) or world.reward.needs_estimates():
            raise ValueError(
                f"credit per part needs a reward that is a Sum of rewards of final samples, as reward=druglike; this one is "
                f"{type(world.reward).__name__}"
                + (" with parts that are paid on the way" if isinstance(world.reward, Sum) else "")
            )
        self.credit.refuse(world)

    def equip(self, world: World) -> World:
        return self.credit.equip(world)

    def assign(self, world: World, trajectory: Trajectory, rewards: StepRewards) -> Credited:
        values = torch.zeros_like(rewards.values)
        values[:, -1] = self.together(world, rewards)
        return self.credit.assign(
            world, trajectory, replace(rewards, values=values, initial=torch.zeros_like(rewards.initial))
        )

    def together(self, world: World, rewards: StepRewards) -> Float[Tensor, " B"]:
        """The sum of the parts, each centred and divided by its spread in the group, of this process's rows."""
        assert isinstance(world.reward, Sum)
        plan, processes, weights = world.plan, world.processes, world.reward.weights
        unknown = torch.full_like(rewards.initial, torch.nan)  # where all of this process's samples failed
        columns = [processes.gather(rewards.parts.get(name, unknown).double()) for name in weights]
        groups = torch.arange(plan.samples, device=world.device) // plan.group
        table, _ = advantages(torch.stack(columns, 1), processes.gather(rewards.measured), groups, "group", "group_std")
        index = processes.share(plan.samples)
        return (table @ table.new_tensor(list(weights.values())))[index.start : index.stop]
