"""A pendulum: how far a path is from the law, and from the same path integrated again."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pgdlab.physics import pendulum
from pgdlab.rewards.base import Reward, Score

SMALLEST = 1e-12  # what an error of 0 counts as


class PendulumResidual(Reward):
    """-log10 of how far paths (B, 2, T) of theta and omega are off the law: of the mean of |E_t - E_0| and the mean distance of a
    state to where the integrator leads from the one before. Parts "drift", "defect". It has gradients.

    relative: true: the first over the path's mean energy plus the second over its mean distance from rest, so that swinging less
    pays nothing, and a path at rest is not measured; false: their sum, of which a pendulum at rest has none.
    """

    takes, differentiable = "pendulum paths", True

    def __init__(self, *, relative: bool = True) -> None:
        super().__init__()
        self.relative = relative

    def score(self, sample: Float[Tensor, "B 2 T"], cond: Tensor) -> Score:
        drift, defect = pendulum.drift(sample), pendulum.defect(sample)
        off = pendulum.relative_residual(sample) if self.relative else drift + defect
        value = -(off + SMALLEST).log10()
        return Score(value, value.detach().isfinite(), {"drift": drift.detach(), "defect": defect.detach()})


class PendulumSolved(Reward):
    """-log10 of ||x - x*|| / ||x*||, x* integrated again from the first state of the path x (B, 2, T); part "error". Not
    measured for what is not finite, or starts at rest."""

    takes = "pendulum paths"

    def score(self, sample: Float[Tensor, "B 2 T"], cond: Tensor) -> Score:
        error = pendulum.relative_error(sample.detach())
        return Score(-(error + SMALLEST).log10(), error.isfinite(), {"error": error})
