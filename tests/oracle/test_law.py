"""Laws on a grid, against closed forms and against values of another program (numpy, matrices of its own)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor
from torch.distributions import Normal

from pgdlab.oracle.grid import law
from tests.guidance.lines import PROBLEMS, OnALine, policy_of


def scored(name: str) -> Any:
    one = PROBLEMS[name]
    reward = OnALine(one.kind, one.b)
    return lambda x: reward.score(x, torch.zeros(len(x))).value


# lambda, E[r] of the base and of the tilt, KL(tilt || base), log Z: docs of the problems in lines.py, KL by another program
KL = {"GL": 1.3611, "GQ": 1.8633, "GI": 2.4008, "ML": 1.1389, "MQ": 1.4066, "MI": 2.3906}


@pytest.mark.parametrize("name", PROBLEMS)
def test_base_and_tilt_are_right(name: str) -> None:
    one, reward = PROBLEMS[name], scored(name)
    base = law.chain_law(policy_of(one.mixture, 1.0, 10), reward)
    tilt, log_z = law.tilted(base, reward, one.lam)
    assert base.mass.sum().item() == pytest.approx(1, abs=1e-9)
    assert base.expected == pytest.approx(one.base, abs=2e-4)
    assert (tilt.expected, log_z) == pytest.approx((one.tilted, one.log_z), abs=1e-3)
    assert tilt.kl(base) == pytest.approx(KL[name], abs=2e-3)
    # for any law: KL(q || tilt) = log Z - E_q[r] / lam + KL(q || base), here of the base and of the best of 4
    for q in (base, law.best_of(base, 4)):
        if PROBLEMS[name].kind != "indicator":  # within a cell that it cuts, r is not a number
            assert q.kl(tilt) == pytest.approx(log_z - q.expected / one.lam + q.kl(base), rel=2e-4)


def test_the_tilt_inside_of_a_cell() -> None:
    """Evenly from -1/2 to 3/2, in two cells; 1 above 0: a half of the first cell. P[r = 1] = 3/4, tilted 3 e / (3 e + 1) with e =
    exp(1 / lam). A reward of the first cell that is not tilted makes (5 e + 1) / (6 e + 2) of it."""
    nodes = torch.tensor([0.0, 1.0], dtype=torch.float64)
    base = law.Law(nodes, torch.full_like(nodes, 0.5), law.averaged(lambda x: (x[:, 0] > 0).double(), nodes))
    assert base.expected == pytest.approx(3 / 4)
    tilt, log_z = law.tilted(base, lambda x: (x[:, 0] > 0).double(), 0.5)
    e = math.exp(2)
    assert tilt.expected == pytest.approx(3 * e / (3 * e + 1), rel=1e-12)
    assert log_z == pytest.approx(math.log((3 * e + 1) / 4), rel=1e-12)


def test_a_gaussian_chain_with_means_of_its_own() -> None:
    """A shift of .3 at every mean: the samples' mean is the sum of .3 times the gains to come; the variance stays."""
    policy = policy_of(False, 1.0, 10)
    cond = torch.zeros(1, dtype=torch.long)

    def mean(x: Tensor, h: int) -> Tensor:
        at = torch.full((len(x),), h)
        return policy(x, at, cond.expand(len(x))).mean + 0.3

    found = law.chain_law(policy, lambda x: x[:, 0], mean)
    x = torch.zeros(1, 1, dtype=torch.float64)
    for h in range(10):
        x = mean(x, h)
    assert found.expected == pytest.approx(x.item(), abs=1e-4)
    assert (found.mass @ (found.nodes - found.expected) ** 2).item() == pytest.approx(0.680566, abs=2e-4)


def test_steps_of_any_width() -> None:
    """Rows of N(m(x), std^2) averaged over a cell have the mean m(x), and the variance std^2 + (cell's spread of m)^2 / 12 +
    (cell)^2 / 12, whether the step is wide, narrow or without noise."""
    nodes = law.line()
    cell = (nodes[1] - nodes[0]).item()
    for std in (0.5, 0.003, 0.0):
        rows = law.kernel(0.7 * nodes, std, nodes)[1000]
        mean = rows @ nodes
        assert mean.item() == pytest.approx(0.7 * nodes[1000].item(), abs=1e-6 if std > cell else cell / 4)
        if std > cell:
            assert (rows @ (nodes - mean) ** 2).item() == pytest.approx(std**2, rel=1e-3)
        assert rows.sum().item() == pytest.approx(1)


def test_best_of_n_by_a_closed_form() -> None:
    """GL: sqrt(.680566) times the expected maximum of n normal numbers (1.0294, 1.7660 for 4, 16); 0 or 1: 1 - (1 - p)^n."""
    base = law.chain_law(policy_of(False, 1.0, 10), scored("GL"))
    for n, expected in ((4, 0.8492), (16, 1.4569)):
        assert law.best_of(base, n).expected == pytest.approx(expected, abs=5e-4)
    jump = law.chain_law(policy_of(False, 1.0, 10), scored("GI"))
    assert law.best_of(jump, 16).expected == pytest.approx(1 - (1 - jump.expected) ** 16, abs=1e-6)


def test_soft_best_of_n_by_closed_forms() -> None:
    """0 or 1: K of n are 1, binomial, one of which is drawn with probability K e / (K e + n - K), e = exp(1 / lam). GL: 1
    is the base, 64 has what draws of another program had, 1.217 (s.e. at most .006), and 4096 the leading bias to a tenth."""
    jump = law.chain_law(policy_of(False, 1.0, 10), scored("GI"))
    for n in (4, 64):
        k, e = np.arange(n + 1), math.exp(1 / 0.2)
        expected = float((binom.pmf(k, n, jump.expected) * (k * e / (k * e + n - k))).sum())
        assert law.soft_best_of(jump, scored("GI"), 0.2, n).expected == pytest.approx(expected, abs=1e-4)
    base = law.chain_law(policy_of(False, 1.0, 10), scored("GL"))
    one, some, many = (law.soft_best_of(base, scored("GL"), 0.5, n) for n in (1, 64, 4096))
    assert one.kl(base) == pytest.approx(0, abs=1e-6)
    assert some.expected == pytest.approx(1.217, abs=0.006)
    tilt, _ = law.tilted(base, scored("GL"), 0.5)
    assert 4096 * (many.expected - tilt.expected) == pytest.approx(law.leading_bias(base, scored("GL"), 0.5), rel=0.1)


def test_the_leading_bias_by_a_closed_form() -> None:
    """GL: w = e^{x / lam - s / 2}, s = VAR / lam^2: E[w^2 (x - m)] = e^s (2 m - m), m = VAR / lam."""
    base = law.chain_law(policy_of(False, 1.0, 10), scored("GL"))
    var, lam = 0.680566, 1.0
    expected = -math.exp(var / lam**2) * var / lam
    assert law.leading_bias(base, scored("GL"), lam) == pytest.approx(expected, rel=2e-3)


def test_samples_in_bins() -> None:
    """Draws of a law are as near to it as chance: the mean of KL is (bins - 1) / 2N; a law beside it is further off by its KL."""
    nodes = law.line()
    mass = Normal(0.0, 0.8).log_prob(nodes.double()).exp()
    own = law.Law(nodes, mass / mass.sum(), nodes)
    borders = law.bins(own, 64)
    masses = law.in_bins(own, borders)
    assert len(masses) == 64
    assert masses == pytest.approx(1 / 64, abs=5e-3)
    g = torch.Generator().manual_seed(0)
    x = 0.8 * torch.randn(400, 50, dtype=torch.float64, generator=g)
    even = torch.full_like(x, 1 / 50)
    kl, tv, error = law.divergences(law.sampled(x, even, borders), masses)
    assert kl == pytest.approx(63 / (2 * 20_000), abs=5 * error)
    assert error < 1e-3
    assert tv < 0.03
    kl, tv, error = law.divergences(law.sampled(x + 0.4, even, borders), masses)
    assert kl == pytest.approx(0.125, abs=4 * error + 0.003)  # .4^2 / (2 x .8^2)
    assert tv == pytest.approx(math.erf(0.25 / math.sqrt(2)), abs=0.02)  # 2 Phi(.4 / 1.6) - 1
