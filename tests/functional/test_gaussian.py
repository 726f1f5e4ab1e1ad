"""Densities and divergences against torch.distributions, over the true degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from pgdlab.diffusion.atoms import Atoms
from pgdlab.diffusion.graphs import Graphs
from pgdlab.diffusion.space import Dense, Space
from pgdlab.functional.gaussian import Gaussian, expand, kl, kl_same_std, log_prob

ROWS, SHAPE = 5, (2, 3, 4)
NONE = torch.zeros(ROWS, dtype=torch.long)
# sums of 24 fp64 terms of size 1 to 100: rounding below 1e-13
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(per_coordinate: bool) -> tuple[Gaussian, Gaussian]:
    """Two Gaussians, std per row or per coordinate."""
    std_shape = SHAPE if per_coordinate else (1, 1, 1)
    return (
        Gaussian(draw(ROWS, *SHAPE, seed=1), draw(ROWS, *std_shape, seed=2).exp()),
        Gaussian(draw(ROWS, *SHAPE, seed=3), draw(ROWS, *std_shape, seed=4).exp()),
    )


def as_torch(g: Gaussian) -> Independent:
    return Independent(Normal(g.mean, g.std.expand_as(g.mean)), len(SHAPE))


@pytest.mark.parametrize("per_coordinate", [False, True])
def test_log_prob_is_the_density(per_coordinate: bool) -> None:
    """A sum over dimensions, never a mean."""
    g, _ = pair(per_coordinate)
    x = draw(ROWS, *SHAPE, seed=5)
    torch.testing.assert_close(log_prob(g, x, Dense(SHAPE), NONE), as_torch(g).log_prob(x), **EXACT)


@pytest.mark.parametrize("per_coordinate", [False, True])
def test_kl_is_the_divergence(per_coordinate: bool) -> None:
    p, q = pair(per_coordinate)
    torch.testing.assert_close(kl(p, q, Dense(SHAPE), NONE), kl_divergence(as_torch(p), as_torch(q)), **EXACT)
    torch.testing.assert_close(kl(p, p, Dense(SHAPE), NONE), torch.zeros(ROWS).double(), rtol=0, atol=0)


def test_kl_of_a_step_and_its_gradient() -> None:
    """||dmean||^2 / (2 std^2) exactly, with a gradient, and the gradient (m_p - m_q) / std^2 is not zero."""
    p, q = pair(per_coordinate=False)
    mean = p.mean.clone().requires_grad_()
    step = kl_same_std(mean, q.mean, p.std, Dense(SHAPE), NONE)
    expected = kl_divergence(as_torch(p), as_torch(Gaussian(q.mean, p.std)))
    torch.testing.assert_close(step.detach(), expected, **EXACT)
    (gradient,) = torch.autograd.grad(step.sum(), mean)
    torch.testing.assert_close(gradient, (p.mean - q.mean) / p.std**2, **EXACT)
    assert gradient.abs().min() > 0


def test_sample_and_expand() -> None:
    g, _ = pair(per_coordinate=False)
    z = draw(ROWS, *SHAPE, seed=6)
    assert torch.equal(g.sample(z)[3], g.mean[3] + g.std[3] * z[3])
    assert expand(torch.arange(5), z).shape == (5, 1, 1, 1)
    assert expand(torch.arange(5), z).dtype == torch.float64


@pytest.mark.parametrize("std", [1.0, 0.02])
def test_the_ratio_of_large_samples(std: float) -> None:
    """An image of 3 x 256 x 256 in fp32: the ratio of two densities of 2e5 nats, against the difference of the squares in
    fp64. Summed in fp32 it is off by up to .03 nats."""
    shape, g = (3, 256, 256), torch.Generator().manual_seed(0)
    mean, move, noise = (torch.randn(4, *shape, generator=g) for _ in range(3))
    scale, other = torch.full((4, 1, 1, 1), std), mean + 1e-4 * std * move
    x, cond = mean + scale * noise, torch.zeros(4, dtype=torch.long)
    new, old = (log_prob(Gaussian(m, scale), x, Dense(shape), cond) for m in (other, mean))
    assert new.dtype == torch.float64
    squares = (x.double() - other.double()).square() - (x.double() - mean.double()).square()
    expected = -0.5 * squares.flatten(1).sum(1) / scale.double().flatten() ** 2
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(new - old, expected, rtol=0, atol=1e-4)


def test_sums_are_fp64_for_every_space() -> None:
    """Of what comes in fp32, per row and per coordinate."""
    n = torch.full((2,), 3)
    for space in (Dense((6,)), Atoms(3, 2), Graphs(3, 2, 3)):
        x, std = torch.randn(2, *space.shape), torch.ones(2, *(1,) * len(space.shape))
        for g in (Gaussian(x, std), Gaussian(x, std.expand_as(x).clone())):
            assert log_prob(g, x, space, n).dtype == kl(g, g, space, n).dtype == torch.float64


def test_an_empty_batch_is_allowed() -> None:
    g = Gaussian(draw(0, 3), draw(0, 1))
    assert log_prob(g, draw(0, 3), Dense((3,)), NONE[:0]).shape == (0,)


@dataclass(frozen=True)
class ZeroCentre(Space):
    """n points in space whose mean is zero: 3 (n - 1) degrees of freedom."""

    shape: tuple[int, ...]

    def project(self, noise: Tensor, cond: Tensor) -> Tensor:
        return noise - noise.mean(1, keepdim=True)

    def squared_distance(self, x: Tensor, y: Tensor, cond: Tensor) -> Tensor:
        return (x - y).square().sum((1, 2))

    def dof(self, cond: Tensor) -> Tensor:
        return torch.full((len(cond),), 3 * (self.shape[0] - 1))

    def sum_over_dof(self, log_std: Tensor, cond: Tensor) -> Tensor:
        return log_std.mean((1, 2)) * 3 * (self.shape[0] - 1)

    def orbits(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.long)

    def scales(self, log_scale: Tensor) -> Tensor:
        return log_scale.mean((1, 2), keepdim=True).expand_as(log_scale)


@dataclass(frozen=True)
class Symmetric(Space):
    """Symmetric matrices without their diagonal: n (n - 1) / 2 degrees of freedom."""

    shape: tuple[int, ...]

    def project(self, noise: Tensor, cond: Tensor) -> Tensor:
        return noise.triu(1) + noise.triu(1).mT

    def squared_distance(self, x: Tensor, y: Tensor, cond: Tensor) -> Tensor:
        return (x - y).triu(1).square().sum((1, 2))

    def dof(self, cond: Tensor) -> Tensor:
        n = self.shape[0]
        return torch.full((len(cond),), n * (n - 1) // 2)

    def sum_over_dof(self, log_std: Tensor, cond: Tensor) -> Tensor:
        return log_std.triu(1).sum((1, 2))

    def orbits(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.long)

    def scales(self, log_scale: Tensor) -> Tensor:
        return (log_scale + log_scale.mT) / 2


def test_zero_centre_of_mass_counts_its_own_dimensions() -> None:
    """Against a full-rank Gaussian in an orthonormal basis of the subspace."""
    n, space = 4, ZeroCentre((4, 3))
    basis = torch.linalg.qr(torch.eye(n, dtype=torch.float64) - 1 / n).Q[:, : n - 1]  # orthonormal, sums to zero
    mean, x = space.project(draw(ROWS, n, 3, seed=1), NONE), space.project(draw(ROWS, n, 3, seed=2), NONE)
    std = draw(ROWS, 1, 1, seed=3).exp()
    packed = [torch.einsum("nk,bnc->bkc", basis, v).flatten(1) for v in (mean, x)]
    exact = MultivariateNormal(packed[0], std.reshape(-1, 1, 1) ** 2 * torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(log_prob(Gaussian(mean, std), x, space, NONE), exact.log_prob(packed[1]), **EXACT)
    wider = MultivariateNormal(packed[1], 4 * std.reshape(-1, 1, 1) ** 2 * torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(
        kl(Gaussian(mean, std), Gaussian(x, 2 * std), space, NONE), kl_divergence(exact, wider), **EXACT
    )


def test_symmetric_matrices_count_each_entry_once() -> None:
    n, space = 5, Symmetric((5, 5))
    mean, x = space.project(draw(ROWS, n, n, seed=1), NONE), space.project(draw(ROWS, n, n, seed=2), NONE)
    std = draw(ROWS, 1, 1, seed=3).exp()
    i, j = torch.triu_indices(n, n, 1)
    exact = Independent(Normal(mean[:, i, j], std[:, 0]), 1)
    torch.testing.assert_close(log_prob(Gaussian(mean, std), x, space, NONE), exact.log_prob(x[:, i, j]), **EXACT)
    other = Independent(Normal(x[:, i, j], std[:, 0]), 1)
    torch.testing.assert_close(kl_same_std(mean, x, std, space, NONE), kl_divergence(exact, other), **EXACT)
