"""Gaussians on a Space: log-probability, KL divergence and sampling, counted over true degrees of freedom."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Volume(Protocol):
    """The part of a Space that densities need: how to sum over true degrees of freedom."""

    def squared_distance(self, x: Tensor, y: Tensor, cond: Tensor) -> Tensor:
        """||x - y||^2 of rows (P, *D), every degree of freedom counted once: (P,), fp64."""

    def dof(self, cond: Tensor) -> Tensor:
        """Degrees of freedom of each row: (P,)."""

    def sum_over_dof(self, log_std: Tensor, cond: Tensor) -> Tensor:
        """Sum of a quantity per coordinate (P, *D) over the degrees of freedom: (P,), fp64."""


@dataclass(frozen=True)
class Gaussian:
    """N(mean, std^2) with independent coordinates, one per row.

    mean: (P, *D). std: broadcastable to mean, in the units of the data; 0 marks a deterministic row.
    """

    mean: Float[Tensor, "P *D"]
    std: Float[Tensor, "P *S"]

    def sample(self, noise: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        """mean + std * noise."""
        return self.mean + self.std * noise


def expand(vector: Tensor, like: Tensor) -> Tensor:
    """(P,) -> (P, 1, ..., 1) in the dtype of `like`, to multiply rows of (P, *D)."""
    return vector.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def one_a_row(std: Float[Tensor, "P *S"]) -> bool:
    """Whether all coordinates of a row share one standard deviation."""
    return std.numel() == len(std)


def mahalanobis(
    x: Float[Tensor, "P *D"], y: Float[Tensor, "P *D"], std: Float[Tensor, "P *S"], space: Volume, cond: Tensor
) -> Float[Tensor, " P"]:
    """||(x - y) / std||^2. Where std is one number a row it divides the sum: no pass over all coordinates for it."""
    if one_a_row(std):
        return space.squared_distance(x, y, cond) / std.reshape(-1).double().square()
    return space.squared_distance(x / std, y / std, cond)


def log_prob(g: Gaussian, x: Float[Tensor, "P *D"], space: Volume, cond: Tensor) -> Float[Tensor, " P"]:
    """log N(x; mean, std^2) = -1/2 ||(x - mean) / std||^2 - sum log std - dof/2 log 2 pi, in nats.

    The density, not its mean over dimensions: the ratio of two of them is an importance weight. fp64, and to be kept so.
    Rows with std 0 have no density and give -inf or nan: leave them out (Policy.stochastic_steps).
    """
    one = one_a_row(g.std)
    log_std = (g.std.double() if one else g.std).log() + 0.5 * math.log(2 * math.pi)
    volume = space.dof(cond) * log_std.reshape(-1) if one else space.sum_over_dof(log_std.expand_as(g.mean), cond)
    return torch.add(-volume, mahalanobis(x, g.mean, g.std, space, cond), alpha=-0.5)


def kl(p: Gaussian, q: Gaussian, space: Volume, cond: Tensor) -> Float[Tensor, " P"]:
    """KL(p || q) = 1/2 ||(m_p - m_q) / s_q||^2 + sum [log s_q/s_p + (s_p^2/s_q^2 - 1) / 2], in nats.

    With equal std it is ||m_p - m_q||^2 / (2 std^2) exactly.
    """
    log_ratio = (p.std.log() - q.std.log()).expand_as(p.mean)
    spread = 0.5 * torch.expm1(2 * log_ratio) - log_ratio
    return 0.5 * mahalanobis(p.mean, q.mean, q.std, space, cond) + space.sum_over_dof(spread, cond)


def kl_same_std(
    mean_p: Float[Tensor, "P *D"],
    mean_q: Float[Tensor, "P *D"],
    std: Float[Tensor, "P *S"],
    space: Volume,
    cond: Tensor,
) -> Float[Tensor, " P"]:
    """KL of two Gaussians that share std > 0: ||m_p - m_q||^2 / (2 std^2), in nats (a step of the denoising MDP)."""
    return 0.5 * mahalanobis(mean_p, mean_q, std, space, cond)
