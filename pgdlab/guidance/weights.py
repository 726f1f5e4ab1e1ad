"""Importance weights of particles, a row a slot, and resampling. fp64."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Scheme = Literal["systematic", "stratified", "multinomial", "residual"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


def normalised(log_weight: Float[Tensor, "S N"]) -> Float[Tensor, "S N"]:
    """Weights that sum to 1. One that is not a number counts 0; where all are 0 they are equal."""
    return torch.where(lost(log_weight)[:, None], 0.0, known(log_weight)).softmax(1)


def lost(log_weight: Float[Tensor, "S N"]) -> Tensor:
    """The slots (S,) all of whose weights are 0."""
    return known(log_weight).isneginf().all(1)


def known(log_weight: Float[Tensor, "S N"]) -> Float[Tensor, "S N"]:
    """-inf for what is not a number."""
    return torch.where(log_weight.isnan(), -math.inf, log_weight)


def log_mean(log_weight: Float[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """log of the mean weight: a factor of the estimate of Z, which has no bias."""
    return known(log_weight).logsumexp(1) - math.log(log_weight.shape[1])


def effective(weight: Float[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """Effective sample size 1 / sum_k w_k^2 of weights that sum to 1   (Kong et al. 1994)."""
    return 1 / weight.square().sum(1)


def resample(weight: Float[Tensor, "S N"], u: Float[Tensor, "S N"], scheme: Scheme) -> Int[Tensor, "S N"]:
    """As many indices as there are particles, index k on average N w_k times. u: numbers in [0, 1), N a slot
    (Douc, Cappe & Moulines 2005, arXiv:cs/0507025: the four schemes)."""
    if scheme == "residual":
        return residual(weight, u)
    return at(weight, u if scheme == "multinomial" else points(u, weight.shape[1], scheme))


def points(u: Float[Tensor, "S M"], count: int, scheme: Scheme = "systematic") -> Float[Tensor, "S C"]:
    """`count` points in [0, 1), one in each of as many equal parts; systematic: at the same place of every part."""
    inside = u[:, :1] if scheme == "systematic" else u[:, :count]
    return (torch.arange(count, dtype=u.dtype, device=u.device) + inside) / count


def at(weight: Float[Tensor, "S N"], point: Float[Tensor, "S M"]) -> Int[Tensor, "S M"]:
    """Whose part of the cumulated weights the points are in; nobody's whose weight is 0."""
    total = weight.cumsum(1)
    found = torch.searchsorted(total / total[:, -1:], point, right=True)
    return found.clamp(max=weight.shape[1] - 1)


def residual(weight: Float[Tensor, "S N"], u: Float[Tensor, "S N"]) -> Int[Tensor, "S N"]:
    """floor(N w_k) copies of particle k, and the rest by multinomial draws of what is left of the weights."""
    n = weight.shape[1]
    copies = (n * weight + 1e-9).floor()  # a whole number that was rounded down is one
    rest = (n * weight - copies).clamp(min=0)
    rest = torch.where(rest.sum(1, keepdim=True) > 1e-6, rest, weight)
    drawn = at(rest / rest.sum(1, keepdim=True), u)
    left = torch.arange(n, device=u.device) < n - copies.sum(1, keepdim=True)
    copies = copies.scatter_add(1, drawn, left.to(copies.dtype))
    index = torch.arange(n, device=u.device).expand_as(weight)
    return index.flatten().repeat_interleave(copies.long().flatten()).reshape(weight.shape)
