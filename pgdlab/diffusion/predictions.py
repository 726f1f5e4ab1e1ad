"""What a network gives out, and the estimate of x0 that it means."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")  # diffusers' names


def estimate_of(
    kind: str, x: Float[Tensor, "P *D"], out: Float[Tensor, "P *D"], alpha: Tensor, sigma: Tensor
) -> Float[Tensor, "P *D"]:
    """E[x_0 | x] of a network's output at x = alpha x_0 + sigma noise. alpha, sigma: (P, 1, ...), as
    functional.gaussian.expand gives them. Raises ValueError for an unknown kind.

    epsilon, the noise: (x - sigma out) / alpha. v_prediction, alpha noise - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512):
    alpha x - sigma out, where alpha^2 + sigma^2 = 1. sample: out. flow_prediction, noise - x_0 (Lipman et al. 2023,
    arXiv:2210.02747): x - sigma out, where alpha = 1 - sigma.
    """
    if kind == "epsilon":
        return torch.addcmul(x / alpha, out, -sigma / alpha)
    if kind == "v_prediction":
        return torch.addcmul(alpha * x, out, -sigma)
    if kind == "flow_prediction":
        return torch.addcmul(x, out, -sigma)
    if kind != "sample":
        raise ValueError(f"a network that predicts {kind!r}; it must be one of {', '.join(PREDICTIONS)}")
    return out
