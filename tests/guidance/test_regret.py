"""How far guided chains end from the tilt: their laws as masses on a grid, and the regret identity."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.guidance.gradient import AlongReward, Gradient
from pgdlab.guidance.shift import Shifted
from pgdlab.guidance.value import Uphill, ValueGuidance
from pgdlab.oracle.grid import law
from pgdlab.rollout.sampler import SAMPLES, Batch
from tests.guidance.lines import PROBLEMS, Exact, OnALine, source_of

FREE = 1e9  # stds: no bound
GQ = PROBLEMS["GQ"]
SOURCE = source_of("GQ", 2)


def reward(x: Tensor) -> Tensor:
    return OnALine(GQ.kind, GQ.b).score(x, torch.zeros(len(x))).value


def guided(loop: Shifted) -> law.Law:
    """Of the samples of the chain whose means the loop shifts."""

    def mean(x: Tensor, h: int) -> Tensor:
        policy, cond = SOURCE.policy, torch.zeros(len(x), dtype=torch.long)
        batch: Any = Batch(policy, policy, cond, (), SAMPLES, len(x))
        batch.out = SimpleNamespace(initial=x)
        x0, shift = loop.moved(batch, x, h) if h in loop.guided else (batch.estimate(x, h, cond), torch.zeros_like(x))
        return policy.step(x, x0, torch.full_like(cond, h)).mean + shift

    return law.chain_law(SOURCE.policy, reward, mean)


def along(form: Any) -> Shifted:
    return AlongReward(Gradient(lam=GQ.lam, form=form, bound=None), SOURCE)


def uphill(form: Any) -> Shifted:
    return Uphill(ValueGuidance(lam=GQ.lam, potential=Exact(name="GQ"), form=form, bound=FREE, draws=128), SOURCE)


def test_the_distance_of_guided_chains_is_their_regret() -> None:
    """KL(q || T_full) = log Z - E_q[r] / lam + KL(q || p), from the masses of all three laws: r is averaged over cells, 2e-4 of a
    value. E[r] and KL by another program, which has them to three digits, of the exact psi and of r(x0hat). The tilted means
    are averages over 128 draws here: .01 of E[r]."""
    base = law.chain_law(SOURCE.policy, reward)
    full, log_z = law.tilted(base, reward, GQ.lam)
    assert log_z == pytest.approx(GQ.log_z, abs=1e-3)
    ways = [
        (uphill("tilted"), -0.509, 0.0092, 0.02), (uphill("next"), -0.343, 0.052, 0.002), (uphill("own"), -0.721, 0.087, 0.002),
        (along("own"), -0.185, 0.389, 0.002), (along("next"), -0.150, 0.621, 0.002), (along("score"), -0.050, 1.05, 0.006),
    ]  # fmt: skip
    for loop, expected, kl, within in ways:
        q = guided(loop)
        assert q.expected == pytest.approx(expected, abs=within)
        assert q.kl(full) == pytest.approx(kl, abs=min(within, 0.2 * kl))
        assert q.kl(full) == pytest.approx(log_z - q.expected / GQ.lam + q.kl(base), abs=1e-4)
