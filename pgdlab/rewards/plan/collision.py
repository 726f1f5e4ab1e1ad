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


class Crossing(PlanReward):
    """Minus the integral along a plan, by its length, of how much nearer than `margin` it comes to a wall or a block, and minus
    `deepest` times the most of that. Differentiable. The integral is the obstacle cost of CHOMP (Ratliff et al. 2009, eq. 3): of
    the mean over waypoints, Depth, a plan loses less that passes a block in one long step.

    margin: in cells, RADIUS of the ball and some more. deepest: in cells.
    """

    differentiable = True

    def __init__(self, *, margin: float = 0.25, deepest: float = 1.0) -> None:
        super().__init__()
        if not 0 < margin < 1:
            raise ValueError(f"margin is {margin}; it must be above 0 and below 1 cell")
        self.margin, self.deepest = margin, deepest

    def among(self, plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Score:
        points = along(plan)
        near = (self.margin - clearance(points, occupied)).clamp_min(0)
        passed = (near[:, :-1] + near[:, 1:]) / 2 * points.diff(dim=1).norm(dim=2)
        return Score.of(-passed.sum(1) - self.deepest * near.amax(1))


class Short(PlanReward):
    """Minus the length of a plan, in cells. Differentiable."""

    differentiable = True

    def among(self, plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Score:
        return Score.of(-length(plan))
