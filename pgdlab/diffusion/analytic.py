"""Exact denoisers: E[x_0 | x_t] in closed form, so that what a trainer reaches can be held against an exact optimum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.schedules import Schedule
from pgdlab.functional.gaussian import expand


class Mixture(Denoiser):
    """Data p(x_0) = sum_k w_k N(m_k, C_k). One component is a Gaussian; C_k = 0 puts the mass on points.

    E[x_0 | x_t] = sum_k r_k [m_k + alpha C_k S_k^-1 (x_t - alpha m_k)], S_k = alpha^2 C_k + sigma^2 I, with the
    responsibilities r_k proportional to w_k N(x_t; alpha m_k, S_k): the conditioning of a joint Gaussian, component by
    component (Bishop 2006, "Pattern recognition and machine learning", eq. 2.81). fp64.
    """

    supports_unconditional = False  # nor a conditional one: points have no conditions
    weights: Tensor
    means: Tensor
    directions: Tensor
    spread: Tensor

    def __init__(
        self,
        schedule: Schedule,
        weights: Float[Tensor, " K"],
        means: Float[Tensor, "K D"],
        covariances: Float[Tensor, "K D D"],
    ) -> None:
        """weights are normalised. Raises ValueError for shapes that differ, and for what is no weight or covariance."""
        super().__init__()
        self.schedule = schedule
        weights, means, covariances = weights.double(), means.double(), covariances.double()
        if covariances.shape != (*means.shape, means.shape[-1]) or len(weights) != len(means):
            raise ValueError(
                f"weights {tuple(weights.shape)}, means {tuple(means.shape)} and covariances "
                f"{tuple(covariances.shape)} must be (K,), (K, D) and (K, D, D)"
            )
        spread, directions = torch.linalg.eigh(covariances)
        if weights.min() <= 0 or spread.min() < -1e-12 or not torch.allclose(covariances, covariances.mT):
            raise ValueError("weights must be above 0, covariances symmetric with no negative eigenvalue")
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("means", means)
        self.register_buffer("directions", directions)
        self.register_buffer("spread", spread.clamp(min=0))

    def forward(self, x: Float[Tensor, "P D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P D"]:
        alpha = self.schedule.alpha(t).double()[:, None, None]
        sigma = self.schedule.sigma(t).double()[:, None, None]
        variance = alpha**2 * self.spread + sigma**2  # (P, K, D), along each component's own directions
        off = torch.einsum("kij,pki->pkj", self.directions, x.double()[:, None] - alpha * self.means)
        logits = self.weights.log() - 0.5 * (off.square() / variance + variance.log()).sum(-1)
        gain = torch.einsum("kij,pkj->pki", self.directions, alpha * self.spread / variance * off)
        return torch.einsum("pk,pki->pi", logits.softmax(-1), self.means + gain).to(x.dtype)

    def frozen(self) -> Denoiser:
        return self


class Points(Denoiser):
    """Data is a finite set x_1 .. x_N: E[x_0 | x_t] = sum_i r_i x_i, r = softmax(-||x_t - alpha x_i||^2 / 2 sigma^2)
    (the empirical score; Karras et al. 2022, arXiv:2206.00364, eq. 57). points: (N, *D)."""

    supports_unconditional = False
    points: Tensor

    def __init__(self, schedule: Schedule, points: Float[Tensor, "N *D"]) -> None:
        super().__init__()
        if not len(points):
            raise ValueError("points is empty; an empirical denoiser needs at least one")
        self.schedule = schedule
        self.register_buffer("points", points.double())

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        data = self.points.flatten(1)
        alpha, sigma = expand(self.schedule.alpha(t), data), expand(self.schedule.sigma(t), data)
        # ||x - alpha x_i||^2 up to what all points share
        logits = (alpha * (x.flatten(1).double() @ data.T) - alpha**2 * data.square().sum(1) / 2) / sigma**2
        return (logits.softmax(1) @ data).reshape(x.shape).to(x.dtype)

    def frozen(self) -> Denoiser:
        return self
