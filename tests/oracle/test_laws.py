"""Laws of final samples: densities on a line against Gaussians in closed form, and the tilt of each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pgdlab.config.compose import compose
from pgdlab.oracle import linear_gaussian
from pgdlab.oracle.grid import laws
from pgdlab.oracle.grid.induction import Problem
from pgdlab.training.build import build_world


def line(*more: str) -> tuple[Any, Problem]:
    """A Gaussian on a line under an affine policy that has been moved, and its problem on a grid."""
    world = build_world(compose(["experiment=oracle/quadratic", "domain.replicas=1", "plan.samples=64", *more]))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (p for p in world.policy.parameters() if p.requires_grad):
            p += 0.2 * torch.randn(p.shape, generator=g).to(p)
    return world, Problem(reference=world.reference, reward=lambda x: -2 * x[:, 0].square() + x[:, 0], lam=0.5)


def moments(policy: Any) -> tuple[float, float]:
    mean, cov = linear_gaussian.moments(linear_gaussian.affine_chain(policy, torch.tensor([0])))[-1]
    return float(mean.detach()[0, 0]), float(cov.detach()[0, 0, 0])


def test_the_kl_of_final_samples() -> None:
    """Of two Gaussians by torch.distributions, whose moments follow the chain: on the grid and in closed form. Less than the
    path's, by the data processing inequality."""
    world, problem = line()
    (m, v), (m0, v0) = moments(world.policy), moments(world.reference)
    normal = torch.distributions.Normal
    expected = float(
        torch.distributions.kl_divergence(
            *(normal(*torch.tensor(pair, dtype=torch.float64)) for pair in ((m, v**0.5), (m0, v0**0.5)))
        )
    )
    assert float(laws.final_kl(world.policy, problem)) == pytest.approx(expected, rel=1e-6)
    chains = [linear_gaussian.affine_chain(p, torch.tensor([0])) for p in (world.policy, world.reference)]
    assert float(linear_gaussian.final_kl(*chains)) == pytest.approx(expected, rel=1e-9)
    stated = linear_gaussian.Problem(chains[1], torch.tensor([1.0]), torch.tensor([[2.0]]), 0.5, 0.5)
    assert expected < float(linear_gaussian.evaluate(chains[0], stated).path_kl)


def test_the_kl_in_the_plane_is_that_of_torch() -> None:
    g = torch.Generator().manual_seed(0)
    gain = torch.eye(2).double() + 0.3 * torch.randn(2, 1, 2, 2, generator=g, dtype=torch.float64)
    shift, one = torch.randn(2, 1, 2, generator=g, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    chain = linear_gaussian.AffineChain(gain, shift, torch.tensor([0.5]).double(), torch.zeros_like(one), one)
    laws_of = [
        torch.distributions.MultivariateNormal(shift[r, 0], gain[r, 0] @ gain[r, 0].mT + 0.25 * torch.eye(2))
        for r in (0, 1)
    ]
    first, second = (
        linear_gaussian.AffineChain(gain[[r]], shift[[r]], chain.std, chain.mean[[r]], one[[r]]) for r in (0, 1)
    )
    expected = float(torch.distributions.kl_divergence(*laws_of))
    assert float(linear_gaussian.final_kl(first, second)) == pytest.approx(expected, rel=1e-10)


def test_the_tilt_of_the_samples() -> None:
    """exp((x - 2 x^2) / lam) on N(0, V) is Gaussian: precision 1 / V + 4 / lam, mean (1 / lam) / precision."""
    world, problem = line()
    _, wide = moments(world.reference)
    precision = 1 / wide + 4 / 0.5
    m, v = (1 / 0.5) / precision, 1 / precision
    reward = m - 2 * (m**2 + v)
    kl = 0.5 * ((m**2 + v) / wide - 1 - torch.tensor(v / wide).log().item())
    assert laws.tilt(problem) == pytest.approx((reward - 0.5 * kl, reward, kl), rel=1e-6)


def test_where_the_law_is_not_known() -> None:
    """In the plane, and where a step has no noise."""
    assert laws.is_known(line()[1])
    assert not laws.is_known(line("policy.kernel.quiet=0.05")[1])
    plane = build_world(compose(["experiment=oracle/plane", "plan.samples=64"]))
    assert not laws.is_known(Problem(reference=plane.reference, reward=lambda x: x[:, 0], lam=0.5))
