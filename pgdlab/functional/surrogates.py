"""Surrogate objectives: functions of the log-ratio log pi(a|s) - log pi_old(a|s) and the advantage, to be maximised."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = 80.0  # nats of log-ratio; exp overflows at 88.7 in fp32


def reinforce(log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """log pi(a|s) A, up to a constant   (Williams 1992; Sutton et al. 1999). Its gradient is the policy gradient at
    pi = pi_old only: one update per rollout."""
    return log_ratio * advantage


def ppo_clip(
    log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"], low: float, high: float
) -> Float[Tensor, " P"]:
    """min(w A, clip(w, e^low, e^high) A), w = pi(a|s) / pi_old(a|s)   (after Schulman et al. 2017, arXiv:1707.06347,
    eq. 7); low < 0 < high in nats."""
    # an infinite weight would make the gradient nan even where the minimum does not pick it (0 times inf)
    free = log_ratio.clamp(max=LARGEST).exp() * advantage
    return torch.minimum(free, log_ratio.clamp(low, high).exp() * advantage)
