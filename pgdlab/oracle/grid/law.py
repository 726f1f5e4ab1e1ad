"""Laws of samples on a line: masses on a grid, pushed through the steps of a chain, tilted, and held against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.policy import Policy

SIDE, CELLS = 6.005, 1201  # of the grid: wide enough for data of size 1, and borders of cells at all hundredths
INSIDE = 20  # points of a cell that a reward is averaged over
SHARP = 0.1  # stds: a step whose mean changes more within a cell is averaged over the cell


@dataclass(frozen=True)
class Law:
    """Masses of a law of x on the cells of a grid, which sum to 1, the cells' middles at `nodes`. reward: mean r of each cell."""

    nodes: Float[Tensor, " N"]
    mass: Float[Tensor, " N"]
    reward: Float[Tensor, " N"]

    @property
    def expected(self) -> float:
        """E[r]."""
        return (self.mass @ self.reward).item()

    def kl(self, other: Law) -> float:
        """KL(self || other), nats."""
        some = self.mass > 1e-300
        return (self.mass[some] * (self.mass[some] / other.mass[some].clamp(min=1e-300)).log()).sum().item()

    def distance(self, other: Law) -> float:
        """Total variation."""
        return 0.5 * (self.mass - other.mass).abs().sum().item()


def line() -> Float[Tensor, " N"]:
    """The nodes of the grid."""
    return torch.linspace(-SIDE, SIDE, CELLS + 1, dtype=torch.float64)


def kernel(mean: Float[Tensor, " N"], std: float, nodes: Float[Tensor, " N"]) -> Float[Tensor, "N N"]:
    """Masses of N(mean(x), std^2) for each cell x, averaged over the cell, in which the mean is linear; rows sum to 1."""
    half = torch.gradient(mean)[0].abs()[:, None] / 2
    off = nodes - mean[:, None]
    if std > 0:
        even = (torch.special.ndtr((off + half) / std) - torch.special.ndtr((off - half) / std)).clamp(min=0)
        rows = torch.where(half < SHARP * std, (-0.5 * (off / std) ** 2).exp(), even)
    else:
        cell = (nodes[1] - nodes[0]).item()
        rows = (torch.minimum(off + cell / 2, half) - torch.maximum(off - cell / 2, -half)).clamp(min=0)
    total = rows.sum(1, keepdim=True)
    nearest = torch.nn.functional.one_hot(off.abs().argmin(1), len(nodes)).to(rows)
    return torch.where(total > 0, rows / total.clamp(min=1e-300), nearest)


@torch.no_grad()
def chain_law(
    reference: Policy, reward: Callable[[Tensor], Tensor], mean: Callable[[Tensor, int], Tensor] | None = None
) -> Law:
    """The law of the samples of a chain with the reference's stds and initial state, and means of its own (states (N, 1) and h ->
    (N, 1)), by default the reference's. Accurate to about 1e-4 (tests/oracle/test_law.py)."""
    nodes = line()
    cond = torch.zeros(len(nodes), dtype=torch.long)
    mass = (-0.5 * (nodes / reference.initial(cond[:1]).std.double().flatten()) ** 2).exp()
    mass = mass / mass.sum()
    for h in range(reference.steps):
        own = (
            reference(nodes[:, None], torch.full_like(cond, h), cond).mean if mean is None else mean(nodes[:, None], h)
        )
        mass = mass @ kernel(own[:, 0].double(), reference.std[h].item(), nodes)
    return Law(nodes, mass, averaged(reward, nodes))


def inside(nodes: Float[Tensor, " N"]) -> Float[Tensor, "N K"]:
    """Points within every cell."""
    cell = nodes[1] - nodes[0]
    return nodes[:, None] + cell * ((torch.arange(INSIDE) + 0.5) / INSIDE - 0.5)


def averaged(f: Callable[[Tensor], Tensor], nodes: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """A function of points (P, 1), averaged over every cell."""
    x = inside(nodes)
    return f(x.reshape(-1, 1)).double().reshape(x.shape).mean(1)


def tilted(base: Law, reward: Callable[[Tensor], Tensor], lam: float) -> tuple[Law, float]:
    """p e^{r / lam} / Z, and log Z; averaged within cells, where a reward may jump."""
    x = inside(base.nodes)
    r = reward(x.reshape(-1, 1)).double().reshape(x.shape)
    top = r.max()
    weight = ((r - top) / lam).exp()
    boost = base.mass * weight.mean(1)
    within = (r * weight).sum(1) / weight.sum(1).clamp(min=1e-300)
    return replace(base, mass=boost / boost.sum(), reward=within), boost.sum().log().item() + top.item() / lam


def best_of(base: Law, n: int) -> Law:
    """Of n draws the one with the highest reward, equal rewards alike: masses F(r)^n - F(r-)^n, F the distribution of r."""
    levels, which = base.reward.unique(return_inverse=True)
    each = torch.zeros(len(levels), dtype=torch.float64).index_add(0, which, base.mass)
    above = each.cumsum(0).clamp(max=1)
    best = above**n - (above - each).clamp(min=0) ** n
    return replace(base, mass=base.mass * (best / each.clamp(min=1e-300))[which])


def soft_best_of(base: Law, reward: Callable[[Tensor], Tensor], lam: float, n: int) -> Law:
    """Of n draws the one that is drawn with weights w = exp(r / lam): p(x) n E[w(x) / (w(x) + S)], S the sum of n - 1 others. By
    1 / a = int e^(-t a) dt it is p(x) n int u e^-u phi(t)^(n-1) d log t, u = t w(x), phi(t) = E[e^(-t w)], by trapezoids."""
    x = inside(base.nodes)
    r = reward(x.reshape(-1, 1)).double().reshape(x.shape)
    log_w = (r - r.max()) / lam
    step, share = 0.5, torch.zeros_like(log_w)  # u e^-u is analytic: off by e^(-pi^2 / step)
    for log_t in torch.arange(-30.0, -log_w.min().item() + 5.0, step, dtype=torch.float64):
        u = (log_w + log_t).exp()
        phi = base.mass @ (-u).exp().mean(1)
        share += step * n * u * (-u).exp() * phi ** (n - 1)
    boost = base.mass * share.mean(1)
    return replace(base, mass=boost / boost.sum(), reward=(r * share).sum(1) / share.sum(1).clamp(min=1e-300))


def leading_bias(base: Law, reward: Callable[[Tensor], Tensor], lam: float) -> float:
    """n times the bias of E[r] of one draw by n importance weights, to first order: -E[w^2 (r - E*[r])] / E[w]^2."""
    law, log_z = tilted(base, reward, lam)
    x = inside(base.nodes)
    r = reward(x.reshape(-1, 1)).double().reshape(x.shape)
    square = ((2 * r / lam - 2 * log_z).exp() * (r - law.expected)).mean(1)
    return -(base.mass @ square).item()


def bins(law: Law, count: int) -> Float[Tensor, " M"]:
    """Borders between cells that part a law in about equal masses."""
    cumulated = law.mass.cumsum(0)
    at = torch.searchsorted(cumulated, torch.arange(1, count, dtype=torch.float64) / count).clamp(
        max=len(law.nodes) - 2
    )
    half = (law.nodes[1] - law.nodes[0]) / 2
    return law.nodes[at.unique()] + half


def in_bins(law: Law, borders: Float[Tensor, " M"]) -> Float[Tensor, " M1"]:
    """The masses between borders."""
    which = torch.searchsorted(borders, law.nodes)
    return torch.zeros(len(borders) + 1, dtype=torch.float64).index_add(0, which, law.mass)


def sampled(
    x: Float[Tensor, "R n"], weight: Float[Tensor, "R n"], borders: Float[Tensor, " M"]
) -> Float[Tensor, "R M1"]:
    """The masses between borders of R weighted populations, rows that sum to 1."""
    which = torch.searchsorted(borders, x.contiguous())
    return torch.zeros(len(x), len(borders) + 1, dtype=torch.float64).scatter_add(1, which, weight)


def divergences(masses: Float[Tensor, "R M"], law: Float[Tensor, " M"], blocks: int = 10) -> tuple[float, float, float]:
    """KL and total variation of the mean of populations' masses to a law's, and the standard error of the KL by a jackknife over
    blocks of populations."""
    whole = masses.mean(0)
    parts = masses.tensor_split(min(blocks, len(masses)))
    left = [binned_kl((whole * len(masses) - part.sum(0)) / (len(masses) - len(part)), law) for part in parts]
    spread = torch.tensor(left, dtype=torch.float64)
    error = math.sqrt((len(parts) - 1) / len(parts) * ((spread - spread.mean()) ** 2).sum().item())
    return binned_kl(whole, law), 0.5 * (whole - law).abs().sum().item(), error


def binned_kl(p: Float[Tensor, " M"], q: Float[Tensor, " M"]) -> float:
    """sum p log p / q."""
    some = p > 0
    return (p[some] * (p[some] / q[some].clamp(min=1e-300)).log()).sum().item()
