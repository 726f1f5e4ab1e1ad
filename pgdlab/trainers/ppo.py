"""PPO-clip on the denoising chain; GRPO is a config of it (baseline: group, scale: group_std)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pgdlab.functional import surrogates
from pgdlab.trainers.policy_gradient import PolicyGradient


@dataclass(frozen=True, kw_only=True)
class PPO(PolicyGradient):
    """min(w A, clip(w, e^-c, e^c) A), w = pi(a|s) / pi_old(a|s)   (after Schulman et al. 2017, arXiv:1707.06347, eq. 7;
    for diffusion: DDPO, Black et al. 2023, arXiv:2305.13301).

    clip: c, nats of log-ratio of a whole step. With one update per rollout w is 1 and the clip does nothing.
    """

    clip: float = 0.2
    epochs: int = 2
    minibatches: int = 4

    def __post_init__(self) -> None:
        if self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; it is a positive number of nats")
        if self.epochs * self.minibatches == 1:
            text = "one update per rollout: the ratio is identically 1 and the clip does nothing; use trainer=reinforce"
            warnings.warn(text, stacklevel=3)

    def surrogate(self, log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return surrogates.ppo_clip(log_ratio, advantage, -self.clip, self.clip)

    def diagnostics(self, log_ratio: Float[Tensor, " P"]) -> dict[str, tuple[Tensor, float]]:
        n = float(len(log_ratio))
        return {
            "log_ratio_abs": (log_ratio.abs().sum(), n),
            "clip_fraction_high": ((log_ratio > self.clip).sum(), n),
            "clip_fraction_low": ((log_ratio < -self.clip).sum(), n),
        }
