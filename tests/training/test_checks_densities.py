"""Each check of densities fails where its fault is put in, in an otherwise healthy world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion import initial
from pgdlab.functional.gaussian import Gaussian, kl_same_std, log_prob
from pgdlab.penalties.base import Penalties
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rollout import sampler, trajectory
from pgdlab.rollout.noise import Noise
from pgdlab.training import checks, checks_densities
from pgdlab.training.checks import Check, examine
from pgdlab.training.module import SteeringModule
from tests.worlds import BRIGHT, POINTS, graphs, recorder

OWN = {"density", "kl", "noise size", "noise correlation", "kl cost", "initial"}


def module(*overrides: str) -> SteeringModule:
    return recorder(BRIGHT, "heldout=null", "initial=diagonal", "penalty=path_kl", *overrides)[0]


def failing(findings: list[Check]) -> set[str]:
    return {c.name for c in findings if c.verdict == "failed"}


@pytest.mark.parametrize(
    "settings",
    [
        (BRIGHT, "heldout=null", "initial=conditional", "penalty=path_kl"),
        (BRIGHT, "heldout=null", "initial=diagonal", "penalty=[path_kl,trust_region]", "penalty.path_kl.form=B"),
        (BRIGHT, "heldout=null", "initial=diagonal", "penalty=constraint"),
        (*POINTS, "initial=diagonal", "penalty=path_kl"),
        (*graphs(), "reward=valid", "initial=shared", "penalty=path_kl"),
    ],
    ids=["conditional", "form B", "constraint", "points", "graphs"],
)
def test_healthy_worlds_pass(settings: tuple[str, ...]) -> None:
    findings = examine(recorder(*settings)[0])
    assert not failing(findings)
    assert {c.name for c in findings} >= OWN


class Priced(PathKL):
    """A path KL whose loss is multiplied: -1 rewards distance, 0 forgets it, 1/64 is a mean over the dimensions."""

    def __init__(self, steps: float, rho: float) -> None:
        super().__init__(coefficient=0.1)
        self.times = steps, rho

    def loss_term(self, kl: Tensor) -> Tensor:
        return self.times[0] * super().loss_term(kl)

    def initial_loss_term(self, kl: Tensor) -> Tensor:
        return self.times[1] * super().initial_loss_term(kl)


class Shortsighted(PathKL):
    """Charges nothing for what comes later."""

    def return_cost(self, trajectory: Any) -> Tensor:
        return torch.zeros_like(super().return_cost(trajectory))


@pytest.mark.parametrize(
    ("penalty", "whom"),
    [
        (Priced(-1.0, 1.0), "the steps"),
        (Priced(0.0, 1.0), "the steps"),
        (Priced(1 / 64, 1.0), "the steps"),
        (Priced(1.0, 0.0), "the initial distribution"),
        (Priced(1.0, -1.0), "the initial distribution"),
        (Shortsighted(coefficient=0.1), "the steps"),
    ],
    ids=["sign", "nothing", "mean", "rho is free", "rho's sign", "later steps"],
)
def test_a_kl_of_another_price_is_found(penalty: PathKL, whom: str) -> None:
    some = module()
    some.world = replace(some.world, penalties=Penalties({"path_kl": penalty}))
    bad = [c for c in examine(some) if c.name == "kl cost" and c.verdict == "failed"]
    assert any(f"charges {whom}" in c.message for c in bad)
    assert all("its sign, its scale" in c.message for c in bad)


def test_a_coefficient_of_its_own_for_rho_is_no_fault() -> None:
    for extra in ("penalty.path_kl.initial_coefficient=0.0", "penalty.path_kl.initial_coefficient=0.3"):
        assert not failing(examine(module(extra)))


def averaged(*given: Any) -> Tensor:
    """A log-density that is a mean over the dimensions."""
    return log_prob(*given) / given[1][0].numel()


def test_a_log_probability_that_is_a_mean_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In rollout and replay alike, so that their ratio is 1 all the same."""
    for place in (sampler, trajectory):
        monkeypatch.setattr(place, "log_prob", averaged)
    findings = examine(module())
    assert failing(findings) == {"density"}
    assert "not the sum over the dimensions" in next(c.message for c in findings if c.name == "density")


def test_a_kl_that_is_a_mean_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_densities, "kl_same_std", lambda *given: kl_same_std(*given) / given[0][0].numel())
    assert failing(examine(module())) == {"kl"}


class Altered(Noise):
    """Noise that something was done to."""

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        return (self.altered(x) for x in super().steps(iteration, index, steps, shape))

    def altered(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Loud(Altered):
    """Of standard deviation 1.3."""

    def altered(self, x: Tensor) -> Tensor:
        return 1.3 * x


class Smooth(Altered):
    """Correlation 1/2 between neighbours, of variance 1."""

    def altered(self, x: Tensor) -> Tensor:
        return (x + x.roll(1, -1)) / 2**0.5


@pytest.mark.parametrize(("kind", "found"), [(Loud, "noise size"), (Smooth, "noise correlation")])
def test_noise_of_another_kind_is_found(kind: type[Noise], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "Noise", kind)
    assert failing(examine(module())) == {found}


class Sticky(Noise):
    """Every step's noise is half that of the step before it: variance 1, correlation 1/2 in time."""

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        last = None
        for x in super().steps(iteration, index, steps, shape):
            last = x if last is None else 0.5 * last + 0.75**0.5 * x
            yield last


def test_steps_that_remember_the_noise_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "Noise", Sticky)
    finding = next(c for c in examine(module()) if c.name == "noise correlation")
    assert finding.verdict == "failed"
    assert "neighbouring steps are not independent" in finding.message


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 15)])
def test_exactly_two_samples_of_one_noise_are_found(first: int, second: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Noise):
        def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
            rows = list(index)
            for x in super().steps(iteration, index, steps, shape):
                if first in rows and second in rows:
                    x[rows.index(second)] = x[rows.index(first)]
                yield x

    monkeypatch.setattr(checks, "Noise", Twice)
    finding = next(c for c in examine(module()) if c.name == "noise")
    assert finding.verdict == "failed"
    assert "samples share noise" in finding.message


class Deaf(initial.Diagonal):
    """Its scale is not learned."""

    def forward(self, cond: Tensor) -> Gaussian:
        rows = (len(cond), *self.mean.shape)
        return self.gaussian(self.mean.expand(rows), self.log_scale.detach().expand(rows), cond)


def test_a_scale_that_cannot_learn_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial.Diagonal, "forward", Deaf.forward)
    finding = next(c for c in examine(module()) if c.name == "initial")
    assert finding.verdict == "failed"
    assert "none reaches log_scale" in finding.message


def test_a_scale_that_was_frozen_is_found() -> None:
    some = module()
    some.policy.initial.log_scale.requires_grad_(False)
    finding = next(c for c in examine(some) if c.name == "initial")
    assert "1 of 2 parameters" in finding.message
    assert "none reaches log_scale" in finding.message
