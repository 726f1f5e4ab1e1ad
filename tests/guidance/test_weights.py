"""Weights and the four ways to resample, against hand numbers and counts."""

from __future__ import annotations

import math

import pytest
import torch

from pgdlab.guidance.weights import SCHEMES, Scheme, at, effective, log_mean, lost, normalised, points, resample

WEIGHT = torch.tensor([[0.05, 0.5, 0.0, 0.2, 0.25], [0.2, 0.2, 0.2, 0.2, 0.2]], dtype=torch.float64)
INF = math.inf


def copies(scheme: Scheme, draws: int = 40_000) -> torch.Tensor:
    """How often each particle is drawn, (draws, 2, 5)."""
    u = torch.rand(2 * draws, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index = resample(WEIGHT.repeat(draws, 1), u, scheme)
    return torch.nn.functional.one_hot(index, 5).sum(1).reshape(draws, 2, 5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_particle_has_its_weight_in_copies_on_average(scheme: Scheme) -> None:
    """5 w copies; tolerance: 5 standard errors of a count with the variance of a binomial one, which no scheme exceeds."""
    found = copies(scheme).double()
    assert (found.sum(2) == 5).all()
    error = (5 * WEIGHT * (1 - WEIGHT) / len(found)).sqrt()
    assert ((found.mean(0) - 5 * WEIGHT).abs() <= 5 * error + 1e-12).all()
    assert (found[:, 0, 2] == 0).all()  # weight 0


@pytest.mark.parametrize(("scheme", "below", "above"), [("systematic", 1, 1), ("stratified", 2, 2), ("residual", 1, 5)])
def test_how_far_copies_are_from_their_mean(scheme: Scheme, below: int, above: int) -> None:
    """Systematic: the whole numbers next to n w; stratified: within two of it; residual: never below its whole part."""
    off = copies(scheme).double() - 5 * WEIGHT
    assert off.min() > -below
    assert off.max() < above


def test_equal_weights_are_left_alone_by_all_but_multinomial() -> None:
    alone = {scheme: bool((copies(scheme)[:, 1] == 1).all()) for scheme in SCHEMES}
    assert alone == {"systematic": True, "stratified": True, "multinomial": False, "residual": True}


def test_multinomial_copies_have_the_variance_of_independent_draws() -> None:
    """n w (1 - w); 5 %: five times the error of a variance of 40,000 numbers."""
    torch.testing.assert_close(copies("multinomial").double().var(0), 5 * WEIGHT * (1 - WEIGHT), rtol=0.05, atol=1e-12)


def test_weights_by_hand() -> None:
    log_w = torch.tensor([[0.0, math.log(3), -INF, -INF], [-INF, math.nan, -INF, -INF]], dtype=torch.float64)
    weight = normalised(log_w)
    torch.testing.assert_close(weight, torch.tensor([[0.25, 0.75, 0, 0], [0.25] * 4], dtype=torch.float64))
    assert lost(log_w).tolist() == [False, True]
    torch.testing.assert_close(log_mean(log_w), torch.tensor([0.0, -INF], dtype=torch.float64))
    torch.testing.assert_close(effective(weight), torch.tensor([1.6, 4.0], dtype=torch.float64))
    border = torch.tensor([[0.0, 0.5]], dtype=torch.float64)  # weight 0 is drawn nowhere
    assert at(torch.tensor([[0.0, 0.5, 0.0, 0.5]], dtype=torch.float64), border).tolist() == [[1, 3]]
    assert points(torch.tensor([[0.5, 0.1]]), 2, "systematic").tolist() == [[0.25, 0.75]]
    torch.testing.assert_close(points(torch.tensor([[0.5, 0.1]]), 2, "stratified"), torch.tensor([[0.25, 0.55]]))


def test_weights_that_overflow_as_they_are() -> None:
    log_w = torch.tensor([[2000.0, 2000.0 + math.log(3)]], dtype=torch.float64)
    torch.testing.assert_close(normalised(log_w), torch.tensor([[0.25, 0.75]], dtype=torch.float64))
    assert log_mean(log_w).item() == pytest.approx(2000 + math.log(2))
