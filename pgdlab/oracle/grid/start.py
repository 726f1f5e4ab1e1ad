"""The initial distribution's part of the optimum: rho against V_0, on a grid."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from pgdlab.diffusion.space import Dense
from pgdlab.functional.gaussian import Gaussian
from pgdlab.functional.gaussian import kl as gaussian_kl
from pgdlab.oracle.grid.rules import VALUE, tilted_mean
from pgdlab.oracle.grid.spline import Box

SCALES = (0.1, 0.3, 0.6, 1.0, 1.6)  # of the prior's std, tried before the best Gaussian is polished


@dataclass(frozen=True)
class Start:
    """rho (one row; its moments where it is no Gaussian), KL(rho || rho_pre) in nats, E_rho of the channels of s_0."""

    rho: Gaussian
    kl: float
    channels: Float[Tensor, " C"]


def masses(box: Box, mean: Float[Tensor, " D"], std: Float[Tensor, " D"]) -> list[Float[Tensor, " N"]]:
    """Per axis the weights of the nodes under N(mean, std^2), normalised to 1."""
    out = []
    for d, n in enumerate(box.shape):
        axis = box.low[d] + box.spacing[d] * torch.arange(n, dtype=torch.float64)
        out.append((-0.5 * ((axis - mean[d]) / std[d]).square()).softmax(0))
    return out


def averaged(values: Float[Tensor, "C *N"], weights: list[Tensor]) -> Float[Tensor, " C"]:
    """sum_i w_i values_i, for a product of weights per axis."""
    for w in reversed(weights):
        values = values @ w
    return values


def given(values: Float[Tensor, "C *N"], box: Box, rho: Gaussian, prior: Gaussian) -> Start:
    """E_rho[V_0] for a Gaussian rho."""
    d = rho.mean.shape[1]
    kl = gaussian_kl(rho, prior, Dense((d,)), torch.zeros(1))
    return Start(rho, float(kl), averaged(values, masses(box, rho.mean[0], rho.std[0])))


class Begin(ABC):
    """The choice of rho, from the channels of s_0 at the nodes of a box, rho_pre and lambda_0."""

    @abstractmethod
    def start(self, values: Float[Tensor, "C *N"], box: Box, prior: Gaussian, lam0: float) -> Start: ...

    @abstractmethod
    def merge(self, values: Float[Tensor, "P S C"], lam0: float, weight: float) -> Float[Tensor, "P C"]:
        """One row for S equally probable s_0."""


@dataclass(frozen=True)
class Given(Begin):
    """A Gaussian; None: rho_pre itself."""

    rho: Gaussian | None

    def start(self, values: Float[Tensor, "C *N"], box: Box, prior: Gaussian, lam0: float) -> Start:
        return given(values, box, prior if self.rho is None else self.rho, prior)

    def merge(self, values: Float[Tensor, "P S C"], lam0: float, weight: float) -> Float[Tensor, "P C"]:
        return values.mean(1)


@dataclass(frozen=True)
class Tilted(Begin):
    """The ceiling: rho proportional to rho_pre exp(V_0 / lam0), lam0 KL = E_rho[V_0] - lam0 log E_pre[exp(V_0 / lam0)]."""

    def start(self, values: Float[Tensor, "C *N"], box: Box, prior: Gaussian, lam0: float) -> Start:
        weights = masses(box, prior.mean[0], prior.std[0])
        log_prior = sum(torch.meshgrid(*(w.log() for w in weights), indexing="ij"), torch.zeros(()))
        logits = (log_prior + values[VALUE] / lam0).flatten()
        mass, nodes = logits.softmax(0), box.nodes()
        channels, mean = values.flatten(1) @ mass, mass @ nodes
        rho = Gaussian(mean[None], (mass @ (nodes - mean).square()).sqrt()[None])
        return Start(rho, float(channels[VALUE] / lam0 - logits.logsumexp(0)), channels)

    def merge(self, values: Float[Tensor, "P S C"], lam0: float, weight: float) -> Float[Tensor, "P C"]:
        return tilted_mean(values, lam0, weight)


@dataclass(frozen=True)
class Best(Begin):
    """The attainable: max over mean m and scale s of E_{N(m, diag s^2)}[V_0] - lam0 KL(N(m, diag s^2) || rho_pre).

    The best node for each of SCALES as scales and every node as mean, then BFGS on (m, log s).
    """

    def start(self, values: Float[Tensor, "C *N"], box: Box, prior: Gaussian, lam0: float) -> Start:
        center, width = prior.mean[0], prior.std[0]

        @torch.enable_grad()
        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            p = torch.tensor(parameters, requires_grad=True)
            shift, log_scale = p.chunk(2)
            kl = (0.5 * (shift.square() + (2 * log_scale).exp() - 1) - log_scale).sum()
            gain = averaged(values[VALUE : VALUE + 1], masses(box, center + width * shift, width * log_scale.exp()))[0]
            objective = lam0 * kl - gain
            (slope,) = torch.autograd.grad(objective, p)
            return objective.item(), slope.numpy()

        first = min(candidates(values, box, prior, lam0), key=lambda p: loss(p)[0])
        found = torch.from_numpy(minimize(loss, first, jac=True, method="BFGS", options={"gtol": 1e-9}).x)
        shift, log_scale = found.chunk(2)
        return given(values, box, Gaussian((center + width * shift)[None], (width * log_scale.exp())[None]), prior)

    def merge(self, values: Float[Tensor, "P S C"], lam0: float, weight: float) -> Float[Tensor, "P C"]:
        return values.mean(1)


def candidates(values: Float[Tensor, "C *N"], box: Box, prior: Gaussian, lam0: float) -> list[np.ndarray]:
    """For each choice of scales the best mean, as (shift, log scale) in units of the prior."""
    d, found = len(box.shape), []
    axes = [box.low[k] + box.spacing[k] * torch.arange(n, dtype=torch.float64) for k, n in enumerate(box.shape)]
    for scales in itertools.product(SCALES, repeat=d):
        total = values[VALUE]
        for k, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
            std = scale * prior.std[0, k]
            smooth = (-0.5 * ((axis[:, None] - axis) / std).square()).softmax(1)
            total = torch.tensordot(smooth, total.movedim(k, 0), 1).movedim(0, k)
            price = lam0 * 0.5 * ((axis - prior.mean[0, k]) / prior.std[0, k]).square()
            total = total - price.reshape([-1 if j == k else 1 for j in range(d)])
        index = np.unravel_index(int(total.argmax()), box.shape)
        mean = torch.stack([axis[i] for axis, i in zip(axes, index, strict=True)])
        shift = (mean - prior.mean[0]) / prior.std[0]
        found.append(torch.cat([shift, torch.tensor(scales, dtype=torch.float64).log()]).numpy())
    return found
