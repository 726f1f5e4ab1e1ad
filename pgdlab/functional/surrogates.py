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
    # the minimum leaves w free on the side where clipping would raise the objective: above for A < 0, below for A > 0
    above, below = log_ratio.clamp(low, LARGEST), log_ratio.clamp(max=high)
    return torch.where(advantage < 0, above, below).exp() * advantage
