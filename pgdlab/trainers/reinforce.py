"""REINFORCE on the denoising chain."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pgdlab.functional import surrogates
from pgdlab.trainers.likelihood_ratio import LikelihoodRatio


@dataclass(frozen=True, kw_only=True)
class Reinforce(LikelihoodRatio):
    """sum_h log pi_h(a_h|s_h) A_h   (Williams 1992; for diffusion: Fan & Lee 2023, arXiv:2301.13362, eq. 6).

    On-policy: one update per rollout, on all of its trajectories.
    """

    def surrogate(self, log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return surrogates.reinforce(log_ratio, advantage)

    def diagnostics(self, log_ratio: Float[Tensor, " P"]) -> dict[str, tuple[Tensor, float]]:
        return {"log_ratio_abs": (log_ratio.abs().sum(), float(len(log_ratio)))}
