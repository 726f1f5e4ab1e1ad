"""Tilts of Gaussian mixtures against quadrature, Monte-Carlo, and the grid oracle of a fine chain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pgdlab.oracle.tilted import GaussianMixture, tilt


def f64(*rows: object) -> Tensor:
    return torch.tensor(rows[0] if len(rows) == 1 else rows, dtype=torch.float64)


PLANE = GaussianMixture(
    f64(0.3, 0.7), f64([-1.0, 0.5], [1.0, 0.0]), f64([[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.4]])
)
SLOPE, CURVATURE = f64(0.7, -0.4), f64([0.3, 0.1], [0.1, -0.2])


def line(weights: Tensor, means: Tensor, stds: Tensor) -> GaussianMixture:
    return GaussianMixture(weights, means[:, None], stds.square()[:, None, None])


@pytest.mark.parametrize("curvature", [0.0, 0.6, -0.4])
def test_against_quadrature_on_the_line(curvature: float) -> None:
    """The integrals of p exp(r / lam) on 200,001 nodes; the rule is exact to rounding for functions that decay."""
    w, m, s, lam, b = f64(0.25, 0.75), f64(-1.0, 0.8), f64(0.4, 0.7), 0.5, 1.3
    x = torch.linspace(-30, 30, 200001, dtype=torch.float64)
    log_p = ((w / s).log() - 0.5 * ((x[:, None] - m) / s) ** 2 - 0.5 * math.log(2 * math.pi)).logsumexp(1)
    r = b * x - curvature * x**2
    mass = torch.exp(log_p + r / lam)
    z = torch.trapezoid(mass, x)
    density = mass / z
    found = tilt(line(w, m, s), slope=f64([b]), curvature=f64([[curvature]]), lam=lam)
    assert found.value == pytest.approx(lam * float(z.log()), abs=1e-9)
    assert found.reward == pytest.approx(float(torch.trapezoid(density * r, x)), abs=1e-9)
    seen = density > 1e-200
    ratio = torch.where(seen, density.log() - log_p, 0.0)
    assert found.kl == pytest.approx(float(torch.trapezoid(density * ratio, x)), abs=1e-9)
    torch.testing.assert_close(found.density.log_prob(x[seen, None]), density[seen].log(), rtol=1e-9, atol=1e-8)


def test_one_gaussian_against_its_textbook_kl() -> None:
    """A Gaussian prior, a Gaussian likelihood: KL(p* || p) by torch.distributions."""
    base = GaussianMixture(f64([1.0]), PLANE.means[:1], PLANE.covariances[:1])
    found = tilt(base, slope=SLOPE, curvature=CURVATURE, lam=0.8)
    before, after = (
        torch.distributions.MultivariateNormal(d.means[0], d.covariances[0]) for d in (base, found.density)
    )
    assert found.kl == pytest.approx(float(torch.distributions.kl_divergence(after, before)), rel=1e-12)
    assert found.gap(found.value - 0.25) == pytest.approx(0.25)


def test_against_weighted_samples_in_the_plane() -> None:
    """log mean exp(r / lam) over draws of p, and moments of p* by its weights, within 4 standard errors."""
    lam, n, g = 0.9, 400_000, torch.Generator().manual_seed(0)
    x = PLANE.sample(n, g)
    r = x @ SLOPE - (x @ CURVATURE * x).sum(1)
    w = (r / lam).exp()
    found = tilt(PLANE, slope=SLOPE, curvature=CURVATURE, lam=lam)
    error = float(w.std() / w.mean()) / math.sqrt(n)
    assert found.value == pytest.approx(lam * float(w.mean().log()), abs=4 * lam * error)
    assert found.reward == pytest.approx(float((w * r).mean() / w.mean()), abs=4 * error * float(r.abs().max()) / 2)
    drawn = found.density.sample(n, g)
    mean = (w[:, None] * x).mean(0) / w.mean()
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.01)  # 4 errors of 1 / sqrt(400,000), twice
    covariance = ((w / w.sum())[:, None] * (x - mean)).mT @ (x - mean)
    torch.testing.assert_close(drawn.mT.cov(), covariance, rtol=0, atol=0.03)


def test_points_are_reweighted() -> None:
    """Without variance a tilt is a softmax: w_k exp(r(x_k) / lam)."""
    base = GaussianMixture(f64(0.5, 0.5), f64([0.0, 0.0], [1.0, 2.0]), torch.zeros(2, 2, 2).double())
    found = tilt(base, slope=f64(0.3, 0.1), curvature=f64([0.0, 0.0], [0.0, 0.05]), lam=0.2)
    r = 0.3 + 0.2 - 0.05 * 4
    assert found.value == pytest.approx(0.2 * math.log((1 + math.exp(r / 0.2)) / 2), rel=1e-12)
    assert float(found.density.weights[1]) == pytest.approx(1 / (1 + math.exp(-r / 0.2)), rel=1e-12)
    with pytest.raises(ValueError, match="singular"):
        found.density.log_prob(torch.zeros(1, 2).double())


def test_what_cannot_be_tilted_is_refused() -> None:
    """x^2 / lam against -x^2 / (2 C): Z diverges from lam = 2 C on."""
    base = line(f64([1.0]), f64([0.0]), f64([1.0]))
    assert tilt(base, slope=f64([0.0]), curvature=f64([[-1.0]]), lam=2.01).value > 0
    with pytest.raises(ValueError, match="raise lam"):
        tilt(base, slope=f64([0.0]), curvature=f64([[-1.0]]), lam=2.0)
    with pytest.raises(ValueError, match="above 0"):
        tilt(base, slope=f64([0.0]), curvature=f64([[-1.0]]), lam=0.0)
    with pytest.raises(ValueError, match="symmetric"):
        tilt(PLANE, slope=SLOPE, curvature=f64([[0.0, 1.0], [0.0, 0.0]]), lam=1.0)
