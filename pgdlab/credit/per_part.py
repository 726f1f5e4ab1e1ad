"""Credit for a sum of rewards whose parts are brought to one scale first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.credit.reward_to_go import Credit, Credited, RewardToGo
from pgdlab.functional.returns import advantages, dead_rows, group_std
from pgdlab.rewards.base import StepRewards
from pgdlab.rewards.combine import Sum
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class PerPart(Credit):
    """sum_k w_k (r_k - mean r_k) / std r_k in the place of sum_k w_k r_k, mean and std over the measured samples of a group,
    as in functional.returns.advantages   (after GDPO of Liu et al. 2026, arXiv:2601.05242; its division of the sum by the
    batch's std is left to the optimizer). A part that is equal in a group adds nothing there.

    The reward is a Sum whose parts are paid at the end. credit: what is made of the new return. floors: the smallest std that a
    part is divided by, by its name, in its own units; 0 where none is given. A pass mark that nearly all pass has a std near
    0, and would count as much as all else together. With floors above every std the objective is J of the weights w_k / floor_k.
    Logs and evaluations keep the plain sum.
    """

    credit: Credit = field(default_factory=RewardToGo)
    floors: Mapping[str, float] = field(default_factory=dict)

    def refuse(self, world: World) -> None:
        if not isinstance(world.reward, Sum) or world.reward.needs_estimates():
            raise ValueError(
                f"credit per part needs a reward that is a Sum of rewards of final samples, as reward=druglike; this one is "
                f"{type(world.reward).__name__}"
                + (" with parts that are paid on the way" if isinstance(world.reward, Sum) else "")
            )
        wrong = {name: floor for name, floor in self.floors.items() if name not in world.reward.weights or floor < 0}
        if wrong:
            parts = sorted(world.reward.weights)
            raise ValueError(
                f"floors is {dict(self.floors)}; it takes numbers of at least 0 for parts of the sum: {parts}"
            )
        self.credit.refuse(world)

    def equip(self, world: World) -> World:
        return self.credit.equip(world)

    def assign(self, world: World, trajectory: Trajectory, rewards: StepRewards) -> Credited:
        values = torch.zeros_like(rewards.values)
        values[:, -1], logs = self.together(world, rewards)
        credited = self.credit.assign(
            world, trajectory, replace(rewards, values=values, initial=torch.zeros_like(rewards.initial))
        )
        return replace(credited, logs=credited.logs | logs)

    def together(self, world: World, rewards: StepRewards) -> tuple[Float[Tensor, " B"], dict[str, float]]:
        """The sum of the parts, each centred and divided by its spread in the group, of this process's rows; and what a unit of
        each counts, on average over the samples."""
        assert isinstance(world.reward, Sum)
        plan, processes, weights = world.plan, world.processes, world.reward.weights
        unknown = torch.full_like(rewards.initial, torch.nan)  # where all of this process's samples failed
        columns = torch.stack([processes.gather(rewards.parts.get(n, unknown).double()) for n in weights], 1)
        groups, measured = (
            torch.arange(plan.samples, device=world.device) // plan.group,
            processes.gather(rewards.measured),
        )
        floors = columns.new_tensor([self.floors.get(name, 0.0) for name in weights])
        table, _ = advantages(columns, measured, groups, "group", "group_std", smallest=floors)
        weight = table.new_tensor(list(weights.values()))
        std = torch.maximum(group_std(columns, measured, groups), floors)
        counts = torch.where(dead_rows(columns, measured, groups), 0.0, weight / std)[measured].mean(0)
        logs = {f"part_weight/{name}": count.item() for name, count in zip(weights, counts, strict=True)}
        index = processes.share(plan.samples)
        return (table @ weight)[index.start : index.stop], logs
