"""Domains of points: their data is what their denoisers are exact for, and their rewards are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgdlab.domains.base import labelled
from pgdlab.domains.points import FiniteSet, Gaussian, GaussianMixture, PointDomain
from pgdlab.rewards.analytic import Above, Quadratic

DOMAINS = [
    Gaussian(mean=(0.5, -0.5), covariance=((1.0, 0.6), (0.6, 0.8)), replicas=3),
    GaussianMixture(weights=(0.2, 0.8)),
    FiniteSet(),
]


def drawn(domain: PointDomain, count: int) -> Tensor:
    return domain.draw(count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_with_little_signal_the_estimate_is_the_mean_of_the_data(domain: PointDomain) -> None:
    data = drawn(domain, 4096)
    t = torch.full((1,), 0.99999).double()
    estimate = domain.base()(torch.zeros(1, *domain.space.shape).double(), t, torch.zeros(1, dtype=torch.long))
    # alpha is 1.6e-5: x_t says nothing; 4,096 points have their mean within 4.5 errors
    assert ((estimate[0] - data.mean(0)).abs() < 4.5 * data.std(0) / len(data) ** 0.5 + 1e-3).all()


def test_gaussian_data_has_the_covariance_asked_for() -> None:
    data = drawn(DOMAINS[0], 4096)
    assert torch.allclose(data.T.cov(), torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double(), atol=0.1)  # 4.5 errors of .022
    assert DOMAINS[0].train_conditions == (0, 1, 2)
    assert DOMAINS[0].conditioning.size == 3


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_pictures_and_figures(domain: PointDomain, tmp_path: Path) -> None:
    points = drawn(domain, 50)
    domain.show({"before": points, "after": points}, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 2000
    figures = domain.metrics(points, torch.zeros(50))
    assert figures["sample_mean_0"] == pytest.approx(points[:, 0].mean().item())
    assert len(figures) == 2 * points.shape[1]
    with pytest.raises(ValueError, match="has no data"):
        labelled(domain)


def test_rewards_of_points_by_hand() -> None:
    x, cond = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.zeros(2)
    score = Quadratic(slope=(1.0, -1.0), curvature=(0.5, 2.0)).score(x, cond)
    assert score.value.tolist() == [1 - 2 - 0.5 - 8, -1 - 0.5 - 0.5 - 0.5]
    assert Quadratic(slope=(2.0, 0.0)).score(x, cond).value.tolist() == [2.0, -2.0]
    assert Above(threshold=0.5).score(x, cond).value.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="agree"):
        Quadratic(slope=(1.0,), curvature=(1.0, 1.0))
    with pytest.raises(ValueError, match="coordinates"):
        Quadratic(slope=(1.0,)).score(x, cond)
