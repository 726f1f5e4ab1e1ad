"""ReFL: the gradient of the reward of an x0 estimate late in the sampler, which is followed at that step alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from pgdlab.functional.gaussian import expand
from pgdlab.rollout.plan import AllSteps, OneOf, Plan, Steps
from pgdlab.rollout.sweep import Adjoints
from pgdlab.trainers.interaction import Collected, Interaction, OneShot
from pgdlab.trainers.pathwise import Pathwise
from pgdlab.trainers.reward_gradient import Slope
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class ReFL(Pathwise):
    """grad E[r(x0hat(s_h)) - cost(KL_h)] at a step h that is drawn each iteration from the last ones   (Xu et al. 2023,
    arXiv:2304.05977, algorithm 1): no gradient goes back to earlier steps.

    start: the share of the sampler before the first step that may be drawn. Not a gradient of J: the reward is that of a mean of
    samples, seen by the policy itself. It leaves the initial distribution out, which is refused.
    """

    start: float = 0.75
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    def steps(self, plan: Plan) -> Steps:
        return OneOf(start=self.start)

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if world.policy.trains_initial:
            raise ValueError(
                "the gradient of an estimate ends at its step: set initial=standard, or take trainer=draft"
            )
        if world.plan.trained_steps != AllSteps():
            raise ValueError(
                "plan.trained_steps is given, and trainer.start says which steps may be trained: leave one out"
            )

    def adjoints(self, world: World, collected: Collected, down_to: int) -> Adjoints:
        """Of a mean u_h s + v_h x0hat the gradient is that of the estimate over v_h."""
        trajectory, policy, (h,) = collected.trajectory, world.policy, collected.trajectory.trained
        x, cond = trajectory.states[:, trajectory.stored_at[h]], trajectory.cond
        at = torch.full((len(x),), h, device=x.device)
        parts = torch.arange(len(x), device=x.device).split(world.capacity.rollout_batch)
        slope = Slope(world, torch.cat([policy.estimate(x[part], at[part], cond[part]) for part in parts]))
        queries = slope.scored_by(world, trajectory, world.processes).queries
        pull = slope.gradient / expand(policy.from_x0[at], x)
        return Adjoints(pull[:, None], slope.gradient, len(x), queries)
