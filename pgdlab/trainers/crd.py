"""Centered reward distillation: how much likelier a sample has become, within its group, is fitted to its reward."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pgdlab.trainers.estimates import Estimates
from pgdlab.trainers.grouped import Grouped


@dataclass(frozen=True, kw_only=True)
class CRD(Grouped):
    """min (beta (q_i - mean of the others' q) - A_i)^2 / (2 beta), q = l_old - l, l = w ||x_0 - x0hat||^2 on the time and noise
    that a group shares, the mean a constant   (CRD: Zhu et al. 2026, arXiv:2603.14128): the normaliser of exp(r / beta) is the
    same for all samples of a group, and is subtracted with it.

    beta: reward units a unit of q; it says how far one round goes, and not where rounds end.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be above 0")

    def match(self, at: Estimates, advantage: Float[Tensor, " P"], largest: Tensor) -> Float[Tensor, " P"]:
        gain = at.log_ratio
        known, size = gain.detach(), at.total(gain.detach().new_ones(len(gain)))
        others = (at.total(known) - known) / (size - 1).clamp(min=1)
        return (self.beta * (gain - others) - advantage).square() / (2 * self.beta)
