"""Direct group preference optimisation: DPO of a group's good samples against its bad ones, on final samples."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pgdlab.trainers.estimates import Estimates
from pgdlab.trainers.grouped import Grouped


@dataclass(frozen=True, kw_only=True)
class DGPO(Grouped):
    """min -(2 G / beta) log sigmoid(beta / G sum_i A_i q_i) a group of G, q = l_old - l, l = w ||x_0 - x0hat||^2 on the time and
    noise that the group shares   (DGPO: Luo et al. 2025, arXiv:2510.08425, whose gradient is half of this). In groups of 2
    it is Diffusion-DPO with the advantage as the margin.

    beta: how soon a group that is told apart stops pulling; nothing else stops it but the KL.
    """

    beta: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be above 0")

    def match(self, at: Estimates, advantage: Float[Tensor, " P"], largest: Tensor) -> Float[Tensor, " P"]:
        gain = at.log_ratio
        told = self.beta * at.total(advantage * gain) / at.total(gain.detach().new_ones(len(gain)))
        return 2 / self.beta * softplus(-told)
