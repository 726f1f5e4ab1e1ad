"""PPO-clip on the denoising chain; GRPO is a config of it (baseline: group, scale: group_std)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pgdlab.functional import surrogates
from pgdlab.trainers.likelihood_ratio import LikelihoodRatio

SMALLEST = 1e-6  # nats; a smaller clip stops every ratio at its rounding


@dataclass(frozen=True, kw_only=True)
class PPO(LikelihoodRatio):
    """min(w A, clip(w, e^-c, e^c) A), w = pi(a|s) / pi_old(a|s)   (after Schulman et al. 2017, arXiv:1707.06347, eq. 7;
    for diffusion: DDPO, Black et al. 2023, arXiv:2305.13301).

    clip: c, nats of log-ratio of a whole step. bounds: schulman clips w to [1 - c, 1 + c] instead. epochs: passes over an
    iteration's trajectories. minibatches: optimiser steps an epoch, each on a random part of the trajectories with all their
    trained steps. With one update per rollout w is 1 and the clip does nothing.
    """

    clip: float = 0.2
    bounds: Literal["nats", "schulman"] = "nats"
    epochs: int = 2
    minibatches: int = 4

    def __post_init__(self) -> None:
        if not SMALLEST <= self.clip < math.inf or (self.bounds == "schulman" and self.clip >= 1):
            raise ValueError(
                f"clip is {self.clip}; it must be above 0, at least {SMALLEST} nats, and below 1 where bounds is schulman"
            )
        if self.epochs * self.minibatches == 1:
            text = "one update per rollout: the ratio is identically 1 and the clip does nothing; use trainer=reinforce"
            warnings.warn(text, stacklevel=3)

    @property
    def interval(self) -> tuple[float, float]:
        """The log-ratios between which the weight is not clipped."""
        if self.bounds == "nats":
            return -self.clip, self.clip
        return math.log1p(-self.clip), math.log1p(self.clip)

    def surrogate(self, log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return surrogates.ppo_clip(log_ratio, advantage, *self.interval)

    def diagnostics(self, log_ratio: Float[Tensor, " P"]) -> dict[str, tuple[Tensor, float]]:
        n, (low, high) = float(len(log_ratio)), self.interval
        return {
            "log_ratio_abs": (log_ratio.abs().sum(), n),
            "clip_fraction_high": ((log_ratio > high).sum(), n),
            "clip_fraction_low": ((log_ratio < low).sum(), n),
        }
