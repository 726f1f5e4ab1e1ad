"""Gradient guidance: three conventions against closed forms, Monte-Carlo over x0 and next states, what is counted and refused.

On N(0, 1) with a linear or a quadratic reward every convention is a linear map of the state with a Gaussian step, so that mean
and variance of the samples follow from a recursion of numbers (Moments). Rows of the mixture were computed on a grid elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgdlab.guidance.base import Source, Steered
from pgdlab.guidance.best_of_n import candidates
from pgdlab.guidance.gradient import Gradient
from pgdlab.guidance.slopes import mixed
from pgdlab.rewards.base import Score
from pgdlab.rollout.noise import Noise
from tests.guidance.lines import OnALine, chain, source_of
from tests.guidance.test_smc import tiny_source
from tests.guidance.test_soft_best_of_n import mean_of
from tests.guidance.test_tuned import LAM, VAR, tuned_source
from tests.tiny import Quadratic

FREE: dict[str, Any] = {"bound": None}


@dataclass(frozen=True)
class Silent(Noise):
    """0 everywhere: of a linear chain the samples are their mean."""

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        return iter(torch.zeros(steps, len(index), *shape, dtype=torch.float64).unbind())


def run(source: Source, **how: Any) -> Steered:
    return next(iter(Gradient(**(FREE | how)).steer(source, 10**9)))


def linear(form: str, eta: float, steps: int) -> float:
    """Mean of the samples of N(0, 1) guided to r = x at lambda 1, whose psi_h is alpha_h s, psi_H the sample itself."""
    alpha, sigma, u, v, std = chain(eta, steps)
    mean = 0.0
    for h in range(steps):
        slope = alpha[h] if form != "next" else alpha[h + 1] if h + 1 < steps else 1.0
        scale = v[h] * sigma[h] ** 2 / alpha[h] if form == "score" else std[h] ** 2
        mean = (u[h] + v[h] * alpha[h]) * mean + scale * slope
    return float(mean)


@pytest.mark.parametrize(
    ("form", "steps", "eta", "elsewhere"),
    [
        ("next", 10, 1.0, 0.680566), ("own", 10, 1.0, 0.522842), ("score", 10, 1.0, 0.999950),
        ("next", 20, 1.0, 0.811970), ("own", 20, 1.0, 0.716380), ("score", 20, 1.0, 0.999950),
        ("next", 10, 0.2, None), ("own", 10, 0.2, None), ("score", 10, 0.2, 0.999120),
    ],
)  # fmt: skip
def test_what_a_convention_is_worth(form: str, steps: int, eta: float, elsewhere: float | None) -> None:
    """The mean of the samples, by the recursion, and as another program has it with the exact psi: its slope is that of r(x0hat)
    divided by alpha_H = .99995 at eta 1, hence 1e-4. (At eta .2 early estimates know less than psi.)"""
    source = replace(source_of("GL", 1, eta=eta, steps=steps), noise=Silent(0))
    found = run(source, form=form, lam=1.0).trajectory.sample.item()
    assert found == pytest.approx(linear(form, eta, steps), abs=1e-5)  # states are fp32
    if elsewhere is not None:
        assert found == pytest.approx(elsewhere, abs=1e-4)


def moments(form: str, lam: float, b: float, recurrence: int = 1, steps: int = 10) -> tuple[float, float]:
    """Mean and variance of the samples of N(0, 1) guided to -(x - b)^2: x0hat is alpha x, and psi' is linear."""
    alpha, sigma, u, v, std = chain(1.0, steps)
    mean, var = 0.0, 1.0
    for h in range(steps):
        gain, a = u[h] + v[h] * alpha[h], alpha[h]
        # psi' = pull (b - c x) of a state x
        after = alpha[h + 1] if h + 1 < steps else 1.0
        if form == "next":  # at gain x
            slope, level = -2 * after**2 * gain / lam, 2 * after * b / lam
        else:
            slope, level = -2 * a**2 / lam, 2 * a * b / lam
        scale = v[h] * sigma[h] ** 2 / a if form == "score" else std[h] ** 2
        for k in range(recurrence):
            mean, var = (gain + scale * slope) * mean + scale * level, (gain + scale * slope) ** 2 * var + std[h] ** 2
            if k < recurrence - 1:
                kept = a / alpha[h + 1]
                mean, var = kept * mean, kept**2 * var + sigma[h] ** 2 - (kept * sigma[h + 1]) ** 2
    return mean, var


@pytest.mark.parametrize(
    ("form", "recurrence", "reward"),
    [("next", 1, -0.150), ("own", 1, -0.185), ("score", 1, -0.050), ("score", 2, -0.111), ("score", 4, -0.161)],
)
def test_a_quadratic_reward(form: str, recurrence: int, reward: float) -> None:
    """The rewards were computed elsewhere on a grid; the samples against the recursion: 4 standard errors."""
    mean, var = moments(form, 0.5, 2.0, recurrence)
    assert -((mean - 2) ** 2 + var) == pytest.approx(reward, abs=1.1e-3)
    slots = 20_000
    found = run(source_of("GQ", slots), form=form, lam=0.5, recurrence=recurrence)
    x = found.trajectory.sample[:, 0]
    assert x.mean().item() == pytest.approx(mean, abs=4 * (var / slots) ** 0.5)
    assert x.var().item() == pytest.approx(var, rel=4 * (2 / slots) ** 0.5)
    known = form != "score" and recurrence == 1
    assert (found.kl_nats is not None) == known
    assert Gradient(form=form, recurrence=recurrence).law == ("attainable" if known else "T_data")


@pytest.mark.parametrize(
    ("name", "form", "lam", "reward"),
    [("ML", "own", 0.5, 0.639), ("MQ", "own", 0.25, -0.208), ("MQ", "next", 0.25, -0.230)],
)
def test_a_mixture(name: str, form: str, lam: float, reward: float) -> None:
    """On a grid elsewhere, to .0005."""
    found, error = mean_of(run(source_of(name, 20_000), form=form, lam=lam).value)
    assert found == pytest.approx(reward, abs=4 * error + 5e-4)


def test_the_regret_identity() -> None:
    """lambda KL(q || T_full) = lambda log Z - (E_q[r] - lambda KL(q || p)), of Gaussians q and p, and .389 nats of a grid."""
    mean, var = moments("own", 0.5, 2.0)
    kl = 0.5 * (var / VAR - 1 - math.log(var / VAR) + mean**2 / VAR)  # to N(0, VAR)
    log_z = -2.8064
    assert log_z - (-((mean - 2) ** 2 + var) / 0.5 - kl) == pytest.approx(0.389, abs=1e-3)


def test_lgd_and_its_draws() -> None:
    """Own form, GQ: over x0 ~ N(x0hat, sigma^2) it is -1.258, with x0hat alone -.185. 400 draws are enough."""
    many, error = mean_of(run(source_of("GQ", 1000), form="own", lam=0.5, draws=400).value)
    assert many == pytest.approx(-1.258, abs=4 * error + 0.02)


def test_weights_of_draws_by_hand() -> None:
    """log((e^0 + e^log 3) / 2) = log 2; weights 1/4 and 3/4. A draw that is not measured has none; with one left it is that."""
    psi = torch.tensor([0.0, math.log(3), -math.inf, 1.0, -math.inf, -math.inf], dtype=torch.float64)
    slope = torch.tensor([[4.0], [8.0], [0.0], [5.0], [0.0], [0.0]], dtype=torch.float64)
    value, pull = mixed(psi, slope, 2)
    assert value.tolist() == pytest.approx([math.log(2), 1 - math.log(2), -math.inf])
    assert pull.flatten().tolist() == pytest.approx([7.0, 5.0, 0.0])


def test_draws_of_next_states_give_the_tilted_mean() -> None:
    """GQ, one step from the end of a chain of one: the tilted step's mean is that of N(m, std^2) e^{-(y - 2)^2 / lam}, which is
    (m / std^2 + 4 / lam) / (1 / std^2 + 2 / lam). The first order overshoots. std is large: the kernel of one step."""
    m, std, lam = np.linspace(-1, 1, 5), 0.8, 0.5
    y = torch.from_numpy(m[:, None] + std * np.random.default_rng(0).standard_normal((5, 200_000))).flatten()
    psi = -((y - 2) ** 2) / lam
    _, pull = mixed(psi, (-2 * (y - 2) / lam)[:, None], 200_000)
    expected = (m / std**2 + 4 / lam) / (1 / std**2 + 2 / lam)
    np.testing.assert_allclose(m + std**2 * pull[:, 0].numpy(), expected, atol=0.02)
    found, error = mean_of(run(source_of("GQ", 1000), form="next", lam=0.5, draws=100).value)
    first, _ = mean_of(run(source_of("GQ", 1000), form="next", lam=0.5).value)
    assert found < first - 4 * error  # less far


def test_the_path_kl_is_that_of_the_shifts() -> None:
    """GL: sum std^2 slope^2 / 2 lam^2 = VAR / 2 lam^2 nats, whatever the state, and of a step at the bound 2^2 / 2."""
    found = run(source_of("GL", 3), lam=LAM)
    assert found.kl_nats == pytest.approx(VAR / (2 * LAM**2), rel=1e-3)
    assert found.figures["shifts_shortened"] is None
    bounded = run(source_of("GL", 3), lam=1e-4, bound=2.0)
    assert bounded.kl_nats == pytest.approx(10 * 2.0, rel=1e-5)  # differences of means
    assert bounded.figures["shifts_shortened"] == 1.0
    assert bounded.figures["shift_length"] > 100


def test_a_tuned_policy_is_tilted_itself_or_left() -> None:
    """The attainable optimum of GL steered once more: twice the shift, four times the nats to the base."""
    source = replace(tuned_source(3), noise=Silent(0))
    with pytest.raises(ValueError, match=r"no weights.*guidance.tilted=policy"):
        run(source, lam=LAM)
    found = run(source, lam=LAM, tilted="policy")
    assert found.trajectory.sample.flatten().tolist() == pytest.approx([2 * VAR / LAM] * 3, abs=1e-3)
    assert found.kl_nats == pytest.approx(4 * VAR / (2 * LAM**2), rel=1e-3)
    assert "tuned policy" in Gradient(tilted="policy").aims_at(source)


@pytest.mark.parametrize(
    ("how", "queries", "rows", "backwards"),
    [
        ({"form": "own"}, 3 + 1, 4, 3),
        ({"form": "own", "draws": 5}, 15 + 1, 4, 3),
        ({"form": "next"}, 3 + 1, 4 + 3, 3),
        ({"form": "next", "draws": 5}, 15 + 1, 4 + 15, 15),
        ({"form": "score", "recurrence": 3}, 12 + 1, 12, 12),
    ],
)
def test_costs(how: dict[str, Any], queries: int, rows: int, backwards: int) -> None:
    """4 steps, 3 with noise. The score form moves all of them."""
    source = tiny_source(slots=5, reward=OnALine("linear", 0.0))
    source.world.reference.denoiser.rows = 0
    found = run(source, **how)
    assert found.queries == source.world.reward.asked == 5 * queries
    assert found.evaluations == source.world.reference.denoiser.rows == 5 * rows
    assert found.figures["backwards"] == 5 * backwards
    with pytest.raises(
        ValueError, match=f"5 samples .* take {queries} reward queries each, and there are {5 * queries - 1}"
    ):
        Gradient(**how).require(source, 5 * queries - 1)


@pytest.mark.parametrize(
    "how", [{"form": "own", "draws": 2}, {"form": "next", "draws": 2}, {"form": "score", "recurrence": 2}]
)
def test_batches_do_not_matter(how: dict[str, Any]) -> None:
    reward = Quadratic()
    whole, parts = (run(tiny_source(slots=5, rollout_batch=size, reward=reward), **how) for size in (10**9, 2))
    torch.testing.assert_close(parts.trajectory.sample, whole.trajectory.sample, rtol=1e-10, atol=1e-10)
    assert parts.kl_nats == (whole.kl_nats if whole.kl_nats is None else pytest.approx(whole.kl_nats))


class OneClass(Quadratic):
    """Not to be measured for any class but the first."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return replace(super().score(sample, cond), measured=cond == 0)


def test_what_cannot_be_measured_pulls_nowhere() -> None:
    """Its states take the base's steps, bit for bit."""
    found = run(tiny_source(slots=40, reward=OneClass(), max_failed=0.9))
    base = candidates(tiny_source(), Noise(3).of(0, range(3)))  # of the classes 0, 1, 0
    assert torch.equal(found.trajectory.sample[1], base.trajectory.sample[1])
    assert not torch.equal(found.trajectory.sample[0], base.trajectory.sample[0])
    assert found.figures["unscored"] == 20 * 3


class Steep(OnALine):
    """Values with a slope that is infinite at all points."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of((sample[:, 0].double() * 0).sqrt())


class FarOff(OnALine):
    """Finite values and slopes, that overflow once they are carried back through the network."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(1e300 * sample.double().sum(1))


def test_slopes_that_overflow_on_their_way_pull_nowhere() -> None:
    """Divided by lambda 1e-9 they are infinite in fp64."""
    found = run(tiny_source(slots=4, reward=FarOff("linear", 0.0)), form="own", lam=1e-9)
    assert found.trajectory.sample.isfinite().all()
    assert found.figures["unscored"] == 4 * 3


def test_infinite_slopes_pull_nowhere() -> None:
    found = run(tiny_source(slots=4, reward=Steep("linear", 0.0)))
    assert found.trajectory.sample.isfinite().all()
    assert found.figures["unscored"] == 4 * 3


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match=r"OnALine is not differentiable, and this guidance follows.*\(target, any_class.*guidance=smc"
    ):
        run(source_of("GI", 3))
    ode = source_of("GL", 3, eta=0.0)
    with pytest.raises(ValueError, match=r"std\^2, which is 0.*guidance.form=score"):
        run(ode)
    assert run(replace(ode, noise=Silent(0)), form="score", lam=1.0).trajectory.sample[0].item() == pytest.approx(
        1, abs=2e-3
    )
    for wrong in ({"draws": -1}, {"recurrence": 0}, {"bound": 0.0}, {"lam": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            Gradient(**wrong)  # type: ignore[arg-type]
