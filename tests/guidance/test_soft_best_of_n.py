"""Soft best-of-n, and best-of-n beside it, where their laws are known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.guidance.base import Steered
from pgdlab.guidance.best_of_n import BestOfN
from pgdlab.guidance.soft_best_of_n import SoftBestOfN
from pgdlab.rollout.noise import Noise
from tests.guidance.lines import PROBLEMS, OnALine, source_of
from tests.guidance.test_smc import tiny_source
from tests.tiny import Failing


def soft(name: str, n: int, slots: int, seed: int = 0) -> Steered:
    return list(SoftBestOfN(lam=PROBLEMS[name].lam).steer(source_of(name, slots, seed), n * slots))[-1]


def mean_of(value: Tensor) -> tuple[float, float]:
    return value.mean().item(), (value.std() / len(value) ** 0.5).item()


# of one draw, as another program (numpy) has it: "importance, one weight at the end"
@pytest.mark.parametrize(
    ("name", "n", "expected"),
    [("GL", 4, 0.658), ("GL", 16, 1.032), ("GQ", 4, -1.736), ("GQ", 64, -0.513), ("MI", 16, 0.428), ("ML", 4, 0.382)],
)
def test_the_law_of_a_draw(name: str, n: int, expected: float) -> None:
    """4 standard errors and the .004 to which the values are known."""
    found, error = mean_of(soft(name, n, 160_000 // n).value)
    assert found == pytest.approx(expected, abs=4 * error + 0.004)


@pytest.mark.parametrize(("n", "expected"), [(4, 0.8492), (16, 1.4569), (64, 1.9335)])
def test_best_of_n_has_the_mean_of_the_largest(n: int, expected: float) -> None:
    """sqrt(.68057) E[max of n normal numbers]: 1.0294, 1.7660, 2.3437. 4 standard errors."""
    source = source_of("GL", 160_000 // n)
    found, error = mean_of(list(BestOfN().steer(source, 160_000))[-1].value)
    assert found == pytest.approx(expected, abs=4 * error)


def test_evidence_by_hand() -> None:
    """Keyed noise, 3 candidates for each of 2 slots: log mean of exp(r / lam), the effective number, the distance."""
    source = tiny_source(slots=2)
    how = SoftBestOfN(lam=0.7)
    found = list(how.steer(source, 6))[-1]
    r = torch.stack([next(iter(BestOfN().steer(replace(source, noise=Shifted(3, k)), 2))).value for k in range(3)])
    w = (r / 0.7).exp()
    assert found.figures["log_z"] == pytest.approx(w.mean(0).log().mean().item(), rel=1e-9)
    assert found.figures["ess"] == pytest.approx((w.sum(0) ** 2 / w.square().sum(0)).mean().item(), rel=1e-9)
    z = w.mean(0).log()
    assert found.figures["kl_estimate_nats"] == pytest.approx((found.value / 0.7 - z).mean().item(), rel=1e-9)
    assert all(any(found.value[i] == r[k, i] for k in range(3)) for i in range(2))
    assert found.figures["kl_bound_nats"] == pytest.approx(math.log(3) - 2 / 3)
    assert (found.queries, found.evaluations) == (6, 24)


class Shifted(Noise):
    """The numbers of a later iteration."""

    def __init__(self, seed: int, by: int) -> None:
        super().__init__(seed)
        object.__setattr__(self, "by", by)

    def of(self, iteration: int, index: range) -> Any:
        return Noise(self.seed).of(iteration + self.by, index)  # type: ignore[attr-defined]


def test_a_high_temperature_draws_any_candidate_and_a_low_one_the_best() -> None:
    source = tiny_source(slots=200)
    best = list(BestOfN().steer(source, 800))[-1].value
    cold = list(SoftBestOfN(lam=1e-6).steer(source, 800))[-1].value
    torch.testing.assert_close(cold, best)
    warm = list(SoftBestOfN(lam=1e6).steer(source, 800))[-1].value
    assert (warm == best).double().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 200) ** 0.5)


def test_what_cannot_be_measured_is_not_drawn() -> None:
    source = tiny_source(slots=30, reward=Failing(OnALine("linear", 0.0), above=0.4), max_failed=0.9)
    found = list(SoftBestOfN(lam=0.1).steer(source, 120))[-1]
    kept = found.trajectory.sample[found.value.isfinite(), 0]
    assert len(kept) > 15
    assert (kept <= 0.4).all()
    assert found.figures["lost_slots"] == int((~found.value.isfinite()).sum())
    assert math.isfinite(found.figures["log_z"])


@pytest.mark.parametrize("lam", [0.0, -0.1])
def test_a_temperature_is_above_0(lam: float) -> None:
    with pytest.raises(ValueError, match="guidance=best_of_n"):
        SoftBestOfN(lam=lam)
