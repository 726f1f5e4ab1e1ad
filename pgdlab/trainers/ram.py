"""Reinforce Adjoint Matching: a regression on the reference's estimate, moved by each sample's advantage."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pgdlab.functional.gaussian import expand
from pgdlab.trainers.estimates import Estimates
from pgdlab.trainers.matching import Matching
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class ReinforceAdjointMatching(Matching):
    """min lambda w ||x0hat - x0hat_pre - (A / lambda) (x_0 - x0hat_old)||^2, lambda the coefficient   (RAM: Bergmeister et al.
    2026, arXiv:2605.10759, without its path-cost correction). Up to a constant

        -2 A <x_0 - x0hat_old, x0hat - x0hat_old> + lambda ||x0hat - x0hat_pre||^2 (in w):

    adjoint matching with REINFORCE in the place of the reward's gradient. Nothing holds a round to the old policy.
    """

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if not self.coefficient:
            raise ValueError(
                "trainer.coefficient is 0, and the target is the reference moved by the advantage over it: set it above 0"
            )

    def match(self, at: Estimates, advantage: Float[Tensor, " P"], largest: Tensor) -> Float[Tensor, " P"]:
        reached = at.pre + expand(advantage / self.coefficient, at.x0) * (at.x0 - at.old)
        return self.coefficient * (at.error(at.now, reached) - at.error(at.now, at.pre))
