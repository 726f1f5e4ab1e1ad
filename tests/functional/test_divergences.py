"""Maximum mean discrepancy and energy distance against closed forms of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pgdlab.functional.divergences import energy, energy_distance, mmd, rbf, witness_advantage

WIDTH = 0.8
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def mean_rbf(shift: Tensor, variance: Tensor) -> Tensor:
    """E exp(-d^2 / (2 s^2)), d ~ N(shift, variance): two Gaussians' convolution at 0."""
    total = variance + WIDTH**2
    return WIDTH / total.sqrt() * torch.exp(-(shift**2) / (2 * total))


def mean_distance(shift: Tensor, variance: Tensor) -> Tensor:
    """E|d|, d ~ N(shift, variance): the folded normal's mean."""
    std = variance.sqrt()
    return std * math.sqrt(2 / math.pi) * torch.exp(-(shift**2) / (2 * variance)) + shift * torch.erf(
        shift / (std * math.sqrt(2))
    )


def closed(kernel: str, mean: Tensor, std: Tensor, other: tuple[float, float]) -> Tensor:
    """MMD^2 of N(mean, std^2) and N(*other) on a line."""
    m, s = other
    k = mean_rbf if kernel == "rbf" else lambda a, v: -mean_distance(a, v)
    zero = torch.zeros_like(mean)
    return k(zero, 2 * std**2) - 2 * k(mean - m, std**2 + s**2) + k(zero, torch.full_like(mean, 2 * s**2))


def gram(kernel: str, a: Tensor, b: Tensor) -> Tensor:
    return rbf(a, b, WIDTH) if kernel == "rbf" else energy(a, b)


@pytest.mark.parametrize("kernel", ["energy", "rbf"])
def test_the_estimate_is_unbiased(kernel: str) -> None:
    """Of 20,000 pairs of small sets (5 and 4 points), the mean is the closed form within four standard errors; the own
    sample left in would add k(x, x) / 5."""
    g, n = torch.Generator().manual_seed(0), 20_000
    x = 0.4 + 0.7 * torch.randn(n, 5, 1, dtype=torch.float64, generator=g)
    y = -0.2 + 1.1 * torch.randn(n, 4, 1, dtype=torch.float64, generator=g)

    def each(a: Tensor, b: Tensor) -> Tensor:
        return mmd(gram(kernel, a, a), gram(kernel, a, b), gram(kernel, b, b))

    found = torch.stack([each(a, b) for a, b in zip(x[:4000], y[:4000], strict=True)])
    exact = closed(kernel, torch.tensor(0.4).double(), torch.tensor(0.7).double(), (-0.2, 1.1))
    assert (found.mean() - exact).abs() < 4 * found.std() / len(found) ** 0.5
    assert found.std() / len(found) ** 0.5 < 0.2 * exact


@pytest.mark.parametrize("kernel", ["energy", "rbf"])
def test_the_witness_gives_the_gradient(kernel: str) -> None:
    """mean_i grad log p(x_i) A_i of sets of four samples against autograd of the closed form, for the mean and the log of
    the std. With four samples 1 / (n - 1) for 1 / (n - 2) would lose a third of the first part."""
    g, sets, n = torch.Generator().manual_seed(1), 6000, 4
    mean, log_std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, -0.2))
    z = torch.randn(sets, n, 1, dtype=torch.float64, generator=g)
    std = log_std.detach().exp()
    x = mean.detach() + std * z
    y = -0.3 + 0.9 * torch.randn(sets, 3, 1, dtype=torch.float64, generator=g)
    a = torch.stack([witness_advantage(gram(kernel, p, p), gram(kernel, p, q)) for p, q in zip(x, y, strict=True)])
    scores = torch.stack([z[..., 0] / std, z[..., 0] ** 2 - 1])
    each = (scores * a).mean(2)
    exact = torch.autograd.grad(closed(kernel, mean, log_std.exp(), (-0.3, 0.9)), [mean, log_std])
    error = each.std(1) / sets**0.5
    assert ((each.mean(1) - torch.stack(exact)).abs() < 4 * error).all()
    assert (error < 0.07 * torch.stack(exact).abs().max()).all(), "too coarse to tell"


def test_the_advantage_by_its_definition() -> None:
    """The witness of a sample, its own kernel left out, less the mean of the others' witnesses computed without it."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(6, 3, dtype=torch.float64, generator=g), torch.randn(5, 3, dtype=torch.float64, generator=g)
    xx, xy = rbf(x, x, WIDTH), rbf(x, y, WIDTH)

    def witness(i: int, without: set[int]) -> Tensor:
        rest = [j for j in range(6) if j not in without | {i}]
        return 2 * (xx[i, rest].mean() - xy[i].mean())

    for i, got in enumerate(witness_advantage(xx, xy)):
        others = torch.stack([witness(j, {i}) for j in range(6) if j != i])
        torch.testing.assert_close(got, witness(i, set()) - others.mean(), **EXACT)
    assert witness_advantage(xx, xy).sum().abs() < 1e-12


def test_near_points_keep_their_distance() -> None:
    """By the expansion of the square in fp32 it would be 0 or rubbish."""
    x = torch.tensor([[1000.0], [1000.25]])
    assert energy(x, x).tolist() == [[0, -0.25], [-0.25, 0]]


def test_the_energy_distance_by_hand() -> None:
    """{0, 2} and {1, 1, 4}: 2 * (1 + 1 + 4 + 1 + 1 + 2) / 6 - 2 - (0 + 3 + 3) / 3; the same along a diagonal of 3 x 4."""
    x, y = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0, 4.0])
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(-2 / 3)
    along = torch.tensor([[0.6, 0.8]])
    assert energy_distance(x[:, None, None] * along, y[:, None, None] * along) == pytest.approx(-2 / 3)
