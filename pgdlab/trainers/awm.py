"""Advantage-weighted matching: the denoising loss of final samples in the place of their log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pgdlab.functional.surrogates import ppo_clip
from pgdlab.trainers.estimates import Estimates
from pgdlab.trainers.matching import Matching


@dataclass(frozen=True, kw_only=True)
class AdvantageWeightedMatching(Matching):
    """max min(rho A, clip(rho) A), rho = exp(l_old - l), l = w ||x_0 - x0hat||^2 on the same time and noise   (AWM: Xue et al.
    2025, arXiv:2509.25050; log p(x_0) of PPO replaced by minus the loss).

    clip: of l_old - l; above and below it a sample stops pulling, as in PPO.
    """

    clip: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0")

    def match(self, at: Estimates, advantage: Float[Tensor, " P"], largest: Tensor) -> Float[Tensor, " P"]:
        return -ppo_clip(at.log_ratio, advantage, -self.clip, self.clip)
