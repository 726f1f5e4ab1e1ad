"""Diffusion-KTO: its loss by hand, and that it has no finite optimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pgdlab.trainers.kto import KTO
from tests.tiny import gradient, moved, tiny_policy, tiny_world
from tests.trainers.test_dpo import paired


@pytest.mark.parametrize("point", ["pair", "base"])
def test_the_loss_by_hand(point: Any) -> None:
    """1 - sigmoid(beta (g_w - z)) and 1 - sigmoid(-beta (g_l - z)); of a tie each counts half, both ways, which is 1."""
    g = torch.Generator().manual_seed(0)
    winner, loser = (torch.randn(4, 3, dtype=torch.float64, generator=g) for _ in range(2))
    share = torch.tensor([1.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    each, _ = KTO(beta=0.7, times=3, point=point).contrast(winner, loser, share)
    for i in range(4):
        by_hand = 0.0
        for w, k in zip(winner[i].tolist(), loser[i].tolist(), strict=True):
            z = (w + k) / 2 if point == "pair" else 0.0
            good, bad = (1 / (1 + torch.tensor(-0.7 * (x - z), dtype=torch.float64).exp().item()) for x in (w, k))
            by_hand += (1 - good) + bad if share[i] == 1 else 0.5 * ((1 - good) + bad + good + (1 - bad))
        assert each[i].item() == pytest.approx(by_hand / 3, rel=1e-12)
    summed, _ = KTO(beta=0.7, times="all", point=point).contrast(winner, loser, share)
    once, _ = KTO(beta=0.7, point=point).contrast(winner.sum(1, keepdim=True), loser.sum(1, keepdim=True), share)
    torch.testing.assert_close(summed, once)


def test_there_is_no_finite_optimum() -> None:
    """Of a sample that is labelled good with probability q the expected loss, q (1 - s) + (1 - q) s, s = sigmoid(beta g), is
    a straight line in s: it falls in g at every g where q > 1/2, and rises where q < 1/2. DPO's has its minimum at
    log(q / (1 - q))."""
    g = torch.linspace(-9, 9, 50, dtype=torch.float64)[:, None].requires_grad_()
    other = torch.zeros(50, 1, dtype=torch.float64)
    for q in (0.05, 0.45, 0.55, 0.95):
        share = torch.full((50,), q, dtype=torch.float64)
        each, _ = KTO(beta=1.0, point="base").contrast(g, other, share)
        (found,) = torch.autograd.grad(each.sum(), g)
        assert ((found < 0) == (q > 0.5)).all()
        assert (found != 0).all()


def test_it_trains_on_pairs() -> None:
    """Through the base, with the losses of the reference."""
    world, pairs = tiny_world(moved(tiny_policy()), tiny_policy()), paired()
    found = gradient(world, KTO(beta=5.0), pairs)
    assert max(g.abs().max() for g in found.values()) > 1e-3
    for wrong, match in (({"beta": 0.0}, "beta is 0.0"), ({"times": 0}, "times is 0")):
        with pytest.raises(ValueError, match=match):
            KTO(**wrong)  # type: ignore[arg-type]
