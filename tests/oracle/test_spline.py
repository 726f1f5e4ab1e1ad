"""Splines, expectations and maxima on grids: against functions that are known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from pgdlab.oracle.grid.maximum import best_nodes, maximise
from pgdlab.oracle.grid.quadrature import REACH, expectation, margin, rough, sampled
from pgdlab.oracle.grid.spline import Box, Spline


def box(low: list[float], high: list[float], n: int) -> Box:
    a, b = torch.tensor(low).double(), torch.tensor(high).double()
    return Box(a, (b - a) / (n - 1), (n,) * len(low))


def wave(x: Tensor) -> Tensor:
    return (torch.sin(x) * torch.tensor([1.0, 0.5][: x.shape[1]]).double()).sum(1, keepdim=True) + x[:, :1] * x[:, -1:]


@pytest.mark.parametrize("d", [1, 2])
def test_the_spline_is_of_sixth_order(d: int) -> None:
    """Half the spacing, an error 64 times smaller (40 asked, for the ends); derivatives by autograd of the function."""
    x = (torch.rand(500, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 5.9
    errors = []
    for n in (20, 39):
        b = box([-3.0] * d, [3.0] * d, n)
        spline = Spline(b, wave(b.nodes()).mT.reshape(1, *b.shape))
        errors.append(float((spline(x) - wave(x)).abs().max()))
        first, second = (part[:, 0] for part in spline.derivatives(x))
    assert errors[1] < errors[0] / 40
    for i in range(5):
        exact = torch.autograd.functional.jacobian(lambda z: wave(z[None])[0, 0], x[i])
        torch.testing.assert_close(first[i], exact, rtol=0, atol=1e-5)
        exact = torch.autograd.functional.hessian(lambda z: wave(z[None])[0, 0], x[i])
        torch.testing.assert_close(second[i], exact, rtol=0, atol=1e-3)


def test_beyond_its_box_a_spline_is_linear() -> None:
    b = box([-1.0, -1.0], [1.0, 2.0], 20)
    spline = Spline(b, (b.nodes() ** 2).sum(1).reshape(1, 20, 20))
    x = torch.tensor([[2.0, 0.5], [-3.0, 4.0]]).double()
    torch.testing.assert_close(spline(x)[:, 0], torch.tensor([0.25 + 1 + 2, 1 + 4 + 4 + 8]).double())


@pytest.mark.parametrize("std", [0.004, 0.05, 0.12, 1.0])
def test_expectations_of_a_wave(std: float) -> None:
    """E sin(y + std z) = sin(y) exp(-std^2 / 2), for stds from a 25th of a cell to ten cells."""
    b = box([-2.0], [2.0], 41)
    values = torch.sin(b.padded(margin(b, std, REACH)).nodes()).mT
    found = expectation(values, b, std)
    torch.testing.assert_close(found[0], b.nodes()[:, 0].sin() * math.exp(-(std**2) / 2), rtol=0, atol=1e-8)


@pytest.mark.parametrize("std", [0.004, 0.3, 1.0])
def test_tilted_expectations_of_a_parabola(std: float) -> None:
    """lam log E exp(-z^2 / lam) and the tilted mean, for z ~ N(y, std^2): completing the square."""
    lam, b = 0.5, box([-2.0], [2.0], 41)
    z = b.padded(margin(b, std, REACH + 4)).nodes()
    found = expectation(torch.cat([-(z**2), z], 1).mT, b, std, lam, REACH + 4)
    y, k = b.nodes()[:, 0], 1 + 2 * std**2 / lam
    torch.testing.assert_close(found[0], -(y**2) / k - lam / 2 * math.log(k), rtol=0, atol=1e-8)
    torch.testing.assert_close(found[1], y / k, rtol=0, atol=1e-7)


def test_a_jump_is_located_within_its_cell() -> None:
    """E 1[z > c] = Phi((y - c) / std). The position is known to half a 129th of a cell (5e-4 here), and a cell's mass sits at
    its middle: spacing^2 / 24 max|phi'| / std^2 = 1.1e-3 more, of both signs, so that the sum over y is much better."""
    b, std = box([-3.0], [3.0], 61), 0.3
    errors = []
    for c in (0.501, 0.523, 0.548, 0.577):
        z = b.padded(margin(b, std, REACH))
        values = sampled(lambda x, c=c: (x > c).double(), z, 1, lambda v: v.mean(1))
        errors.append(expectation(values, b, std)[0] - torch.from_numpy(ndtr((b.nodes()[:, 0] - c).numpy() / std)))
    assert float(torch.stack(errors).abs().max()) < 3e-3
    assert float(torch.stack(errors).sum(1).abs().max()) < 1 / 129


def test_only_jumps_count_as_jumps() -> None:
    x = torch.linspace(-2, 2, 81, dtype=torch.float64)
    assert not rough(torch.stack([x.abs(), x**3, torch.from_numpy(ndtr(x.numpy() / 0.05))])).any()
    here = rough((x[None] > 0.02).double() - 3 * x[None])
    assert here[40:42].all()
    assert here.sum() <= 4


@pytest.mark.parametrize("radius", [math.inf, 0.35])
def test_the_best_mean_against_every_node(radius: float) -> None:
    """A surface of several hills: the maximum over a grid five times finer, by trying all its nodes."""
    b, fine, curvature = box([-2.0, -2.0], [2.0, 2.0], 41), box([-2.0, -2.0], [2.0, 2.0], 201), 2.0

    def hills(x: Tensor) -> Tensor:
        return torch.sin(3 * x[:, :1]) * torch.cos(2 * x[:, 1:]) + 0.3 * x[:, :1]

    g = Spline(b, hills(b.nodes()).mT.reshape(1, 41, 41))
    nodes = best_nodes(hills(b.nodes()).reshape(41, 41), b.spacing, curvature, min(radius, 9.0))
    y = (torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 3
    m = maximise(g, nodes, y, curvature, radius)
    assert float((m - y).abs().max()) <= radius + 1e-12
    worth = hills(m)[:, 0] - curvature / 2 * (m - y).square().sum(1)
    off = fine.nodes()[None] - y[:, None]
    tried = hills(fine.nodes())[:, 0] - curvature / 2 * off.square().sum(-1)
    tried = tried.masked_fill((off.abs() > radius).any(-1), -math.inf).amax(1)
    assert float((worth - tried).min()) > -1e-6
    assert float((worth - tried).max()) < 0.04  # half a cell of the finer grid, at a slope of 4
