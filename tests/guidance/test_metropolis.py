"""Metropolis over noise: its law stays T_full, and its moves are what the formula says."""

from __future__ import annotations

import math

import pytest
import torch

from pgdlab.guidance.base import Steered
from pgdlab.guidance.best_of_n import BestOfN
from pgdlab.guidance.metropolis import Metropolis
from pgdlab.guidance.noises import Kept, drawn
from pgdlab.guidance.soft_best_of_n import SoftBestOfN
from tests.guidance.lines import PROBLEMS, source_of
from tests.guidance.test_smc import tiny_source
from tests.guidance.test_soft_best_of_n import mean_of
from tests.tiny import tiny_policy


def last(how: Metropolis, name: str, slots: int, queries: int, eta: float = 1.0) -> Steered:
    return list(how.steer(source_of(name, slots, eta=eta), queries * slots))[-1]


@pytest.mark.parametrize("name", ["GL", "GQ", "MI"])
def test_it_stays_in_the_law_that_it_aims_at(name: str) -> None:
    """Begun with a draw of 128, a soft best-of-n that is at T_full to .03, 20 moves on. 4 standard errors and that .03."""
    line = PROBLEMS[name]
    found = last(Metropolis(lam=line.lam, first=128), name, 700, 148)
    mean, error = mean_of(found.value)
    assert mean == pytest.approx(line.tilted, abs=4 * error + 0.03)
    assert found.figures["moves"] == 20
    assert 0.4 < found.figures["accepted"] < 0.9


def test_it_gets_there_from_the_base_and_soft_best_of_n_does_not() -> None:
    """40 queries, GL: 1.301 from a soft best of 10 as another program has it (1.361 is right); 4 standard errors and .01."""
    found = last(Metropolis(lam=0.5), "GL", 4000, 40)
    mean, error = mean_of(found.value)
    assert mean == pytest.approx(1.301, abs=4 * error + 0.01)


def test_without_noise_on_the_way_too() -> None:
    """eta 0: x is linear in s_0, T_full of the ODE's samples N(0, v): mean v / lam. v is measured on other noise."""
    base = list(BestOfN().steer(source_of("GL", 40_000, seed=5, eta=0.0), 40_000))[-1].value
    found = last(Metropolis(lam=0.5, first=64), "GL", 1500, 84, eta=0.0)
    mean, error = mean_of(found.value)
    assert mean == pytest.approx(base.var().item() / 0.5, abs=4 * error + 0.04)


def test_an_infinite_temperature_accepts_every_move() -> None:
    found = last(Metropolis(lam=math.inf, first=1), "GL", 50, 10)
    assert found.figures == {"moves": 9, "accepted": 1.0}


def test_a_step_of_1_is_independent() -> None:
    """Then candidate k is that of best-of-n; with a temperature that accepts all, the last one is kept."""
    source = tiny_source(slots=4)
    found = list(Metropolis(lam=math.inf, first=1, step=1.0).steer(source, 12))[-1]
    from pgdlab.guidance.best_of_n import candidates

    expected = candidates(source, source.noise.of(2, range(4))).trajectory.sample
    torch.testing.assert_close(found.trajectory.sample, expected)


def test_a_move_by_hand() -> None:
    """lam so high that the first move is accepted: its noise is sqrt(1 - .36) z + .6 xi."""
    source = tiny_source(slots=4)
    from pgdlab.guidance.best_of_n import candidates

    z, xi = drawn(source, 0, 4), drawn(source, 1, 4)
    expected = candidates(source, Kept(0.8 * z + 0.6 * xi)).trajectory.sample
    found = list(Metropolis(lam=1e9, first=1, step=0.6).steer(source, 8))[-1]
    torch.testing.assert_close(found.trajectory.sample, expected, rtol=1e-6, atol=1e-6)


def test_a_move_is_accepted_with_its_probability() -> None:
    source = tiny_source(slots=1)
    slots = 4000
    before, after = torch.zeros(slots, dtype=torch.float64), torch.full((slots,), math.log(0.3), dtype=torch.float64)
    how = Metropolis(lam=1.0)
    share = how.accepts(source, 7, before, after).double().mean().item()
    assert share == pytest.approx(0.3, abs=5 * (0.21 / slots) ** 0.5)
    assert how.accepts(source, 7, after, before).all()
    assert not how.accepts(source, 7, before, torch.full_like(before, -math.inf)).any()
    assert how.accepts(source, 7, torch.full_like(before, -math.inf), after).all()


def test_costs_and_chains_without_noise() -> None:
    source = tiny_source(slots=5, policy=tiny_policy(eta=0.0))
    found = list(Metropolis(lam=0.2).steer(source, 40))[-1]
    assert (found.queries, found.evaluations) == (40, 160)
    soft = list(SoftBestOfN(lam=0.2).steer(source, 40))[-1]
    assert (soft.queries, soft.evaluations) == (40, 160)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"lam": 0.0}, "lam is"), ({"step": 0.0}, "step is"), ({"step": 1.5}, "step"), ({"first": 0}, "first")],
)
def test_settings_that_no_run_can_have(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Metropolis(**wrong)  # type: ignore[arg-type]
