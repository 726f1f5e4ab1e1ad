"""SVDD: the distance of a choice, its law, its costs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pgdlab.guidance.base import Steered
from pgdlab.guidance.best_of_n import candidates
from pgdlab.guidance.svdd import SVDD
from tests.guidance.lines import PROBLEMS, Exact, OnALine, chain, source_of
from tests.guidance.lines import mean_of as mean_of_step
from tests.guidance.test_smc import tiny_source
from tests.guidance.test_soft_best_of_n import mean_of
from tests.tiny import tiny_policy


def run(name: str, m: int, slots: int, **how: Any) -> Steered:
    eta = how.pop("eta", 1.0)
    given = {"lam": PROBLEMS[name].lam, "candidates": m, **how}
    return next(iter(SVDD(**given).steer(source_of(name, slots, eta=eta), 10**9)))


# of a draw, as another program has it; -.982 is far from the tilt (-.472): few candidates
@pytest.mark.parametrize(
    ("name", "m", "exact", "expected"),
    [
        ("GL", 16, True, 1.252),
        ("GL", 4, False, 0.942),
        ("GQ", 4, True, -0.982),
        ("GQ", 16, False, -0.214),
        ("GI", 4, True, 0.459),
    ],
)
def test_the_law_of_a_draw(name: str, m: int, exact: bool, expected: float) -> None:
    """4 standard errors and .008: the values are means of some thousand draws."""
    given = {"potential": Exact(name=name)} if exact else {}
    mean, error = mean_of(run(name, m, 60_000 // m, **given).value)
    assert error < 0.015
    assert mean == pytest.approx(expected, abs=4 * error + 0.008)


def test_at_a_small_eta_it_reaches_a_share_of_the_tilt() -> None:
    """GL, eta .5, H 10: T_rho gains .592 of what T_full does, var / lam; 64 candidates come 6 % short at most."""
    from pgdlab.guidance.best_of_n import BestOfN

    base = list(BestOfN().steer(source_of("GL", 40_000, seed=5, eta=0.5), 40_000))[-1].value
    mean, error = mean_of(run("GL", 64, 2000, potential=Exact(name="GL", eta=0.5), eta=0.5).value)
    share = mean / (base.var().item() / 0.5)
    assert 0.592 * 0.94 - 4 * error < share < 0.592 + 4 * error


def test_the_distance_of_greedy_choices() -> None:
    """Path KL H (log M - (M - 1) / M) = 6.3629 for M 4, H 10, where no potentials are equal."""
    found = run("GL", 4, 10, greedy=True)
    assert found.figures["kl_bound_nats"] == pytest.approx(6.3629, abs=1e-4)


def test_a_greedy_choice_of_four_by_simulation() -> None:
    """One choice: the density of the kept one's quantile u is 4 u^3, whose KL to the uniform one is log 4 - 3/4 = E[log 4 u^3].
    GL, the sample alone is chosen: r is the quantile of a normal step. 4 standard errors."""
    slots = 40_000
    source = source_of("GL", slots)
    found = next(iter(SVDD(lam=0.5, candidates=4, greedy=True, scored=(1.0,)).steer(source, 10**9)))
    # the noise of the last step, of every candidate: the kept one's is the largest of four
    z = torch.stack([[*source.noise.steps(k, range(slots), 11, (1,))][-1][:, 0] for k in range(4)])
    u = torch.distributions.Normal(0.0, 1.0).cdf(z.max(0).values)
    assert (4 * u**3).log().mean().item() == pytest.approx(math.log(4) - 0.75, abs=4 * 0.75 / slots**0.5)
    base = run("GL", 1, slots, scored=(1.0,)).value
    lift = (found.value - base) / 0.01  # std of the last step
    torch.testing.assert_close(lift, z.max(0).values - z[0], rtol=0, atol=0.05)
    assert found.figures["kl_bound_nats"] == pytest.approx(math.log(4) - 0.75)


def beam_elsewhere(b: int, m: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """GL by numpy alone, the b largest of b m next states kept at every step: psi rises with x. All that are left; the best."""
    rng, std = np.random.default_rng(1), chain(1.0, 10)[4]
    x = rng.standard_normal((runs, b))
    for h in range(10):
        y = mean_of_step(False, x, h, 1.0, 10)[..., None] + std[h] * rng.standard_normal((runs, b, m))
        x = np.sort(y.reshape(runs, -1))[:, -b:]
    return x, x[:, -1]


def test_the_best_few_states_of_a_beam() -> None:
    """The mean of all that a beam 4 x 4 keeps is 3.35 by another program, to .02 in its 1,024 runs; the best is returned. 4
    standard errors of both. One state of 4 candidates comes to 2.47 alone."""
    kept, best = beam_elsewhere(4, 4, 4000)
    assert kept.mean() == pytest.approx(3.35, abs=0.06)
    found = run("GL", 4, 4000, greedy=True, beam=4).value
    mean, error = mean_of(found)
    assert mean == pytest.approx(best.mean(), abs=4 * math.hypot(error, best.std() / 4000**0.5))
    assert error < 0.02
    alone, error = mean_of(run("GL", 4, 4000, greedy=True).value)
    assert alone == pytest.approx(2.47, abs=4 * error + 0.008)


@pytest.mark.parametrize(
    ("scored", "queries", "rows"),
    [("all", 12 * 3 + 1, 3 + 12 * 3), ((0.25, 0.75), 12 * 2 + 1, 3 + 12 + 3 + 12), ((), 1, 4)],
)
def test_costs_of_a_beam(scored: Any, queries: int, rows: int) -> None:
    """Three states with four candidates each; after the last choice one. Where it is to be said how far that is from the base,
    nothing is known."""
    source = tiny_source(slots=5, reward=OnALine("linear", 0.0))
    source.world.reference.denoiser.rows = 0
    how = SVDD(candidates=4, beam=3, greedy=True, scored=scored)
    found = next(iter(how.steer(source, 5 * queries)))
    assert found.queries == source.world.reward.asked == 5 * queries
    assert found.evaluations == source.world.reference.denoiser.rows == 5 * rows
    assert "kl_bound_nats" not in found.figures
    assert found.trajectory.cond.tolist() == source.cond.tolist()
    with pytest.raises(ValueError, match=f"take {queries} reward queries each"):
        how.require(source, 5 * queries - 1)


def test_lines_of_a_beam_begin_apart_and_the_best_of_them_is_returned() -> None:
    """Two candidates, a beam of 3, chosen once, at state 3 of 4: what is returned began with the noise of row 0, 2 or 4 of its
    slot, and not always with the same."""
    source = tiny_source(slots=30, reward=OnALine("linear", 0.0))
    found = next(iter(SVDD(candidates=2, beam=3, greedy=True, scored=(0.75,)).steer(source, 10**6)))
    starts = torch.stack([next(source.noise.steps(k, range(30), 1, (2,))).double() for k in range(6)], 1)
    began = (starts == found.trajectory.initial[:, None]).all(2)
    assert (began.sum(1) == 1).all()
    assert set(began.nonzero()[:, 1].tolist()) == {0, 2, 4}


def test_one_candidate_is_the_base_bit_for_bit() -> None:
    source = tiny_source(slots=5)
    found = next(iter(SVDD(candidates=1).steer(source, 10**6)))
    base = candidates(source, source.noise.of(0, range(5)))
    assert torch.equal(found.trajectory.sample, base.trajectory.sample)
    assert torch.equal(found.value, base.value)
    assert found.figures["kl_bound_nats"] == 0


@pytest.mark.parametrize(
    ("scored", "queries", "rows"),
    [("all", 4 * 3 + 1, 1 + 4 * 3), ((0.5,), 4 + 1, 1 + 1 + 4 + 1), ((), 1, 4)],
)
def test_costs(scored: Any, queries: int, rows: int) -> None:
    """4 steps, 3 with noise: the states 1, 2, 3 have candidates, and the sample has none of its own. A state costs M rows where
    its candidates are scored, else 1."""
    source = tiny_source(slots=5, reward=OnALine("linear", 0.0))
    source.world.reference.denoiser.rows = 0
    found = next(iter(SVDD(candidates=4, scored=scored).steer(source, 10**6)))
    assert found.queries == source.world.reward.asked == 5 * queries
    assert found.evaluations == source.world.reference.denoiser.rows == 5 * rows


def test_a_chain_whose_last_step_has_noise_chooses_the_sample() -> None:
    """M H queries and 1 + M (H - 1) rows a sample."""
    source = source_of("GL", 6)
    found = next(iter(SVDD(candidates=3).steer(source, 10**6)))
    assert found.queries == source.world.reward.asked == 6 * 3 * 10
    assert found.evaluations == 6 * (1 + 3 * 9)


@pytest.mark.parametrize("batch", [4, 10])
@pytest.mark.parametrize("how", [SVDD(lam=0.2), SVDD(lam=0.2, beam=2, greedy=True)], ids=["one", "beam"])
def test_batches_do_not_matter(how: SVDD, batch: int) -> None:
    whole, parts = (next(iter(how.steer(tiny_source(slots=5, rollout_batch=size), 10**6))) for size in (10**9, batch))
    torch.testing.assert_close(parts.trajectory.sample, whole.trajectory.sample, rtol=1e-10, atol=1e-10)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"eta 0.*guidance=metropolis"):
        SVDD().refuse(tiny_source(policy=tiny_policy(eta=0.0)))
    with pytest.raises(ValueError, match="scored has 1, state 4 of 4: the step to it has no noise"):
        SVDD(scored=(0.5, 1.0)).refuse(tiny_source())
    with pytest.raises(
        ValueError, match=r"5 samples \(plan.eval_samples\) take 13 reward queries each, and there are 60"
    ):
        next(iter(SVDD(candidates=4).steer(tiny_source(slots=5), 60)))
    for wrong in ({"candidates": 0}, {"lam": 0.0}, {"scored": (0.0,)}, {"beam": 0}, {"beam": 2}):
        with pytest.raises(
            ValueError, match=r"candidates is 0|lam is 0|scored is|beam is 0|beam is 2, and states are drawn"
        ):
            SVDD(**wrong)  # type: ignore[arg-type]
    assert (SVDD().law, replace(SVDD(), greedy=True).law) == ("T_rho", "none")
