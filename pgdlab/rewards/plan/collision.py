"""Whether a plan touches walls or blocks, how much of it does, and by how much."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.planning.figures import near
from pgdlab.planning.maps import RADIUS, along, clearance, length
from pgdlab.rewards.base import Score
from pgdlab.rewards.plan.base import PlanReward


class CollisionFree(PlanReward):
    """1 where the ball can follow the whole plan without touching a wall or a block, else 0: no gradient anywhere."""

    def among(self, plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Score:
        return Score.of((~near(plan, occupied).any(1)).double())


class CollisionShare(PlanReward):
    """Minus the share of a plan along which the ball would touch a wall or a block, 0 to 1."""

    def among(self, plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Score:
        return Score.of(-near(plan, occupied).double().mean(1))


class Depth(PlanReward):
    """Minus the mean over a plan of how much nearer than `margin` it comes to a wall or a block, in cells; from inside of one, as
    far as the way out and the margin. Differentiable. margin: in cells, RADIUS of the ball and some more."""

    differentiable = True

    def __init__(self, *, margin: float = 2 * RADIUS) -> None:
        super().__init__()
        if not 0 < margin < 1:
            raise ValueError(f"margin is {margin}; it must be above 0 and below 1 cell")
        self.margin = margin

    def among(self, plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Score:
        return Score.of(-(self.margin - clearance(along(plan), occupied)).clamp_min(0).mean(1))


class Short(PlanReward):
    """Minus the length of a plan, in cells. Differentiable."""

    differentiable = True

    def among(self, plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Score:
        return Score.of(-length(plan))
