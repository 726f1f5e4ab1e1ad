"""Means that follow a value: laws of exact values by another program, and what is said of the distance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.guidance.base import EstimateReward, Steered
from pgdlab.guidance.value import Form, ValueGuidance
from pgdlab.rollout.noise import Noise, RowNoise
from tests.guidance.lines import PROBLEMS, Exact, chain, source_of
from tests.guidance.test_soft_best_of_n import mean_of
from tests.guidance.test_tuned import Linear, slopes, tuned_source

FREE = 1e9  # stds: no bound


@dataclass(frozen=True)
class Zero(RowNoise):
    """No noise at all."""

    rows: int

    def __len__(self) -> int:
        return self.rows

    def steps(self, start: int, stop: int, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        return iter(torch.zeros(steps, stop - start, *shape, dtype=torch.float64))


class Silent(Noise):
    """Paths without noise: of a linear-Gaussian chain they are its mean."""

    def of(self, iteration: int, index: range) -> Any:
        return Zero(len(index))


@dataclass(frozen=True, kw_only=True)
class Straight(Exact):
    """V_h of GL at lambda 1 up to a constant: the product of the gains of the steps to come."""

    def slope(self, world: Any, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Any:
        alpha, _, u, v, _ = chain(self.eta, self.steps)
        g = torch.tensor(u + v * alpha[:-1])[h:].prod() * torch.ones_like(x.detach())
        return self(world, x.detach(), x0, h, cond)._replace(gradient=g)


def steered(how: ValueGuidance, source: Any) -> Steered:
    (found,) = how.steer(source, 10**9)
    return found


# mean of the samples per 1 / lambda, in closed form: sum of std^2 times the products of gains
MEANS = [
    ("tilted", 10, 1.0, 0.680566), ("next", 10, 1.0, 0.680566), ("own", 10, 1.0, 0.522842), ("next", 20, 1.0, 0.811970),
    ("own", 20, 1.0, 0.716380), ("tilted", 10, 0.2, 0.097190), ("own", 10, 0.2, 0.094820),
]  # fmt: skip


@pytest.mark.parametrize(("form", "steps", "eta", "expected"), MEANS)
def test_the_mean_of_a_linear_gaussian_chain(form: Form, steps: int, eta: float, expected: float) -> None:
    """The values count a shift of the last step, std^2, which `tilted` and `next` leave out: no value is fitted to the sample."""
    source = replace(source_of("GL", 2, eta=eta, steps=steps), noise=Silent(0))
    how = ValueGuidance(lam=1.0, potential=Straight(name="GL", eta=eta, steps=steps), form=form, bound=FREE)
    last = 0.0 if form == "own" else float(chain(eta, steps)[4][-1] ** 2)
    assert steered(how, source).trajectory.sample[0, 0].item() == pytest.approx(expected - last, abs=2e-5)


# E[r] of the guided chain with exact soft values, by another program on a grid; of it the last step's shift is without effect
LAWS = [
    ("tilted", "GQ", -0.509), ("next", "GQ", -0.343), ("own", "GQ", -0.721), ("tilted", "GI", 0.726), ("next", "GI", 0.732),
    ("own", "GI", 0.559), ("tilted", "ML", 0.874), ("own", "MQ", -0.253), ("tilted", "MI", 0.677),
]  # fmt: skip


@pytest.mark.parametrize(("form", "name", "expected"), LAWS)
def test_the_law_of_exact_values(form: Form, name: str, expected: float) -> None:
    """4 standard errors, and .012 for averages over 32 draws, the last step, and the grids."""
    how = ValueGuidance(lam=PROBLEMS[name].lam, potential=Exact(name=name), form=form, bound=FREE, draws=32)
    mean, error = mean_of(steered(how, source_of(name, 20_000, seed=1)).value)
    assert error < 0.006
    assert mean == pytest.approx(expected, abs=4 * error + 0.012)


def test_the_kl_is_that_of_the_path_and_the_samples_are_the_evaluations() -> None:
    """GL: sum of (std psi')^2 / 2 over the steps that are moved; no shift, no KL."""
    source = source_of("GL", 50)
    found = steered(ValueGuidance(lam=0.5, potential=Linear2(), bound=FREE), source)
    std, slope = chain(1.0, 10)[4], slopes()[1:]
    assert found.kl_nats == pytest.approx(float(((std * slope)[:-1] ** 2).sum() / 2), rel=1e-6)
    assert found.figures["kl_kind"] == "path"
    assert (found.queries, found.evaluations) == (50, 500)
    small = steered(ValueGuidance(lam=0.5, potential=Linear2(), bound=1e-9), source)
    assert small.kl_nats == pytest.approx(0, abs=1e-12)
    assert small.figures["shifts_shortened"] == 1.0


@dataclass(frozen=True, kw_only=True)
class Linear2(Linear):
    """Exact for GL at lambda .5, with its gradient."""

    def slope(self, world: Any, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Any:
        g = torch.full_like(x.detach(), 0.5 * float(slopes()[h]))
        return self(world, x.detach(), x0, h, cond)._replace(gradient=g)

    def refuse_slope(self, world: Any) -> None: ...


def test_a_tuned_policy_is_guided_on_top() -> None:
    """Half way to the optimum, then all of the value's way: 1.5 x 1.3611; the KL is to the base."""
    found = steered(ValueGuidance(lam=0.5, potential=Linear2(), bound=FREE), tuned_source(20_000, share=0.5))
    mean, error = mean_of(found.value)
    assert mean == pytest.approx(1.5 * 1.3611, abs=4 * error + 2e-4)
    assert found.kl_nats == pytest.approx(1.5**2 * 1.3611, abs=2e-3)
    how = ValueGuidance(lam=0.5, potential=Soft())
    assert how.law_for(source_of("GL", 2)) == "attainable"
    assert how.law_for(tuned_source(2)) == "none"
    assert "no law that is known" in how.aims_at(tuned_source(2))


class Soft(Linear2):
    """Says that it is right at lambda .5 alone."""

    def temperature(self) -> float | None:
        return 0.5


class Broken(Linear2):
    """Its gradient is no number."""

    def slope(self, world: Any, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Any:
        return super().slope(world, x, x0, h, cond)._replace(gradient=torch.full_like(x.detach(), math.nan))


def test_refusals() -> None:
    source = source_of("GL", 4)
    with pytest.raises(ValueError, match=r"lam is 0\.0; it must be above 0"):
        ValueGuidance(lam=0.0)
    with pytest.raises(ValueError, match=r"lam is -1\.0"):
        ValueGuidance(lam=-1.0)
    with pytest.raises(ValueError, match=r"bound is 0\.0"):
        ValueGuidance(bound=0.0)
    with pytest.raises(ValueError, match="draws is 3"):
        ValueGuidance(draws=3)
    with pytest.raises(ValueError, match="no fitted value is given"):
        ValueGuidance().refuse(source)
    with pytest.raises(ValueError, match="must be a LearnedValue"):
        ValueGuidance(potential=EstimateReward()).refuse(source)
    with pytest.raises(ValueError, match=r"eta 0.*policy.kernel.eta above 0"):
        ValueGuidance(potential=Linear2()).refuse(source_of("GL", 4, eta=0.0))
    with pytest.raises(ValueError, match="gradient of the potential is not finite"):
        steered(ValueGuidance(potential=Broken()), source)
