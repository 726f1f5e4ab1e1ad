"""Exponential tilts of Gaussian mixtures: the KL-regularised optimum if the data itself could be tilted.

max_q E_q[r] - lam KL(q || p) is lam log Z, reached by q = p* = p exp(r / lam) / Z (Donsker & Varadhan 1975; Gibbs' variational
principle).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """p(x) = sum_k w_k N(x; m_k, C_k), fp64; the weights sum to 1. C_k = 0 is a point: it has no density, but a tilt."""

    weights: Float[Tensor, " K"]
    means: Float[Tensor, "K D"]
    covariances: Float[Tensor, "K D D"]

    def log_prob(self, x: Float[Tensor, "P D"]) -> Float[Tensor, " P"]:
        """log p(x). Raises ValueError where a covariance is singular."""
        factor, failed = torch.linalg.cholesky_ex(self.covariances)
        if failed.any():
            raise ValueError("a component has a singular covariance and no density: give it some variance")
        normals = torch.distributions.MultivariateNormal(self.means, scale_tril=factor)
        return (self.weights.log() + normals.log_prob(x[:, None])).logsumexp(1)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n D"]:
        """n draws."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + torch.einsum("pij,pj->pi", root(self.covariances)[k], noise)


@dataclass(frozen=True, eq=False)
class Tilt:
    """p*(x) proportional to p(x) exp(r(x) / lam): the density, its value, reward and KL.

    value: lam log Z = reward - lam kl. reward: E*[r]. kl: KL(p* || p), nats.
    """

    density: GaussianMixture
    value: float
    reward: float
    kl: float

    def gap(self, objective: float) -> float:
        """The gap to a chain's optimum. objective: of its ceiling or attainable optimum at the same lam. Negative where
        the chain's own samples, which are not quite the data, are easier to tilt."""
        return self.value - objective


def root(covariances: Float[Tensor, "K D D"]) -> Float[Tensor, "K D D"]:
    """The symmetric square roots, also of singular covariances."""
    spread, directions = torch.linalg.eigh(covariances)
    return (directions * spread.clamp(min=0).sqrt()[:, None]) @ directions.mT


def tilt(base: GaussianMixture, *, slope: Float[Tensor, " D"], curvature: Float[Tensor, "D D"], lam: float) -> Tilt:
    """For r(x) = slope'x - x' curvature x. With x = m + S u, S^2 = C, u ~ N(0, I), the exponent is quadratic in u:

    B = I + 2 S curvature S / lam, g = S (slope - 2 curvature m) / lam, log Z_k = r(m) / lam - log det B / 2 + g'B^-1 g / 2,
    C* = S B^-1 S, m* = m + S B^-1 g, w*_k proportional to w_k Z_k (completing the square in each component).
    Raises ValueError for lam <= 0, a curvature that is not symmetric, and where Z diverges: B with an eigenvalue <= 0.
    """
    if lam <= 0 or not torch.allclose(curvature, curvature.mT):
        raise ValueError(f"lam is {lam}; it must be above 0, and the curvature symmetric")
    slope, curvature, means = slope.double(), curvature.double(), base.means
    s = root(base.covariances)
    b = torch.eye(means.shape[1], dtype=torch.float64) + 2 * s @ curvature @ s / lam
    least = float(torch.linalg.eigvalsh(b).min())
    if least <= 0:
        raise ValueError(f"the tilt cannot be normalised (least eigenvalue {least:.3g}): raise lam or the curvature")
    g = (s @ (slope - 2 * means @ curvature)[..., None])[..., 0] / lam
    inverse = torch.linalg.inv(b)
    u = torch.einsum("kij,kj->ki", inverse, g)
    log_z = quadratic(means, slope, curvature) / lam - torch.linalg.slogdet(b)[1] / 2 + (g * u).sum(1) / 2
    logits = base.weights.log() + log_z
    density = GaussianMixture(logits.softmax(0), means + torch.einsum("kij,kj->ki", s, u), s @ inverse @ s)
    value = lam * float(logits.logsumexp(0) - base.weights.log().logsumexp(0))
    spread = (density.covariances * curvature).sum((1, 2))
    reward = float(density.weights @ (quadratic(density.means, slope, curvature) - spread))
    return Tilt(density, value, reward, (reward - value) / lam)


def quadratic(
    x: Float[Tensor, "P D"], slope: Float[Tensor, " D"], curvature: Float[Tensor, "D D"]
) -> Float[Tensor, " P"]:
    """slope'x - x' curvature x."""
    return x @ slope - torch.einsum("pi,ij,pj->p", x, curvature, x)
