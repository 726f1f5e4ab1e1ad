"""DiffusionNFT: the old estimate moved toward good samples, and its mirror image toward bad ones."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pgdlab.trainers.estimates import Estimates
from pgdlab.trainers.matching import Matching


@dataclass(frozen=True, kw_only=True)
class NegativeAwareFinetuning(Matching):
    """min A_max / beta [p l(x0hat_+) + (1 - p) l(x0hat_-)], x0hat_+- = x0hat_old +- beta (x0hat - x0hat_old),
    p = (1 + A / A_max) / 2   (DiffusionNFT: Zheng et al. 2025, arXiv:2509.16117, on x_0), A_max the largest |A| of the
    iteration. Which is

        -2 A <x_0 - x0hat_old, x0hat - x0hat_old> + beta A_max ||x0hat - x0hat_old||^2   and a constant,

    convex whatever A is. beta: how strongly a round is held to the old policy. The paper divides each loss by its mean absolute
    error, a weight that depends on x_0 and moves the optimum; here it is left out.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be above 0")

    def match(self, at: Estimates, advantage: Float[Tensor, " P"], largest: Tensor) -> Float[Tensor, " P"]:
        top = largest.clamp(min=1e-12)  # all advantages are 0: nothing to learn, and nothing to hold
        good = (1 + advantage / top) / 2
        toward, away = (at.error(at.x0, at.old + side * (at.now - at.old)) for side in (self.beta, -self.beta))
        return top / self.beta * (good * toward + (1 - good) * away)
