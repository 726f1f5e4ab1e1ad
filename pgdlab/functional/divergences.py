"""Distances between two distributions that are known by samples: maximum mean discrepancy and energy distance.

MMD^2(p, q) = E k(x, x') - 2 E k(x, y) + E k(y, y')   (Gretton et al. 2012, JMLR 13, eq. 1 and lemma 6); with
k(x, y) = -||x - y|| it is the energy distance 2 E||x - y|| - E||x - x'|| - E||y - y'|| (Sejdinovic et al. 2013,
arXiv:1207.6076, sec. 4). Both are 0 only where p = q.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def distances(x: Float[Tensor, "N F"], y: Float[Tensor, "M F"]) -> Float[Tensor, "N M"]:
    """||x_i - y_j||, by differences: the expansion of the square rounds near points to distance 0."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def energy(x: Float[Tensor, "N F"], y: Float[Tensor, "M F"]) -> Float[Tensor, "N M"]:
    """k = -||x - y||, in the units of the data."""
    return -distances(x, y)


def rbf(x: Float[Tensor, "N F"], y: Float[Tensor, "M F"], bandwidth: float) -> Float[Tensor, "N M"]:
    """k = exp(-||x - y||^2 / (2 bandwidth^2))."""
    return torch.exp(-0.5 * (distances(x, y) / bandwidth).square())


def others(gram: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
    """sum_{j != i} k(x_i, x_j)."""
    return gram.sum(1) - gram.diagonal()


def mmd(xx: Float[Tensor, "N N"], xy: Float[Tensor, "N M"], yy: Float[Tensor, "M M"]) -> Float[Tensor, ""]:
    """The unbiased estimate of MMD^2, a U-statistic (Gretton et al. 2012, eq. 3); may be below 0."""
    n, m = xy.shape
    return others(xx).sum() / (n * (n - 1)) - 2 * xy.mean() + others(yy).sum() / (m * (m - 1))


def energy_distance(x: Float[Tensor, "N *D"], y: Float[Tensor, "M *D"]) -> float:
    """The unbiased estimate of the energy distance of two sets of samples, in the units of the data; may be below 0."""
    x, y = x.flatten(1).double(), y.flatten(1).double()
    return mmd(energy(x, x), energy(x, y), energy(y, y)).item()


def witness_advantage(xx: Float[Tensor, "N N"], xy: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """The cost of sample x_i as an action, its part of MMD^2(p, q) less a baseline without x_i:

    grad MMD^2 = E[grad log p(x) 2 w(x)], w(x) = E k(x, x') - E k(x, y), the witness function;
    c_i = 2 [sum_{j != i} k_ij / (n - 1) - mean_l k(x_i, y_l)], b_i = the mean over j != i of c_j without x_i in it.

    mean_i grad log p(x_i) (c_i - b_i) is unbiased: neither x_i's own kernel nor x_i inside the others' witnesses (which
    would shorten the first part by 1 / (n - 1)) is left. With u_i = 2 [sum_{j != i} k_ij / (n - 2) - mean_l k(x_i, y_l)]
    it is n / (n - 1) (u_i - mean u), so it sums to 0. n must be at least 3.
    """
    n = len(xx)
    u = 2 * (others(xx) / (n - 2) - xy.mean(1))
    return (u - u.mean()) * n / (n - 1)
