"""Proposals that are moved along a gradient, and the forms that weigh anew at every state: laws by another program."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.space import Dense
from pgdlab.guidance.base import EstimateReward, Potential, Tilted, Valued
from pgdlab.guidance.particles import Form, Weights
from pgdlab.guidance.shift import bounded
from pgdlab.guidance.smc import SMC
from pgdlab.rewards.base import Score
from tests.guidance.lines import PROBLEMS, Exact, OnALine, chain, source_of
from tests.guidance.test_smc import mean_reward, run, tiny_source, z_of
from tests.guidance.test_tuned import tuned_source

FREE = 1e9  # stds: no bound


@pytest.mark.parametrize(
    "how", [{}, {"potential": Exact(name="GQ")}, {"threshold": 1.0, "temper": 1.0}, {"twist": 0.3}], ids=str
)
def test_weights_undo_the_moved_proposals(how: dict[str, Any]) -> None:
    """E[Z estimate] = Z whatever the proposal is; without the ratio of the densities it is far off."""
    found = run("GQ", 4, 20_000, seed=5, **({"twist": FREE} | how))
    mean, error = z_of(found, PROBLEMS["GQ"].log_z)
    assert error < 0.06
    assert mean == pytest.approx(1, abs=4 * error)


# the mean reward of one draw by n particles with moved proposals, as another program (numpy, another grid) has it
TWISTED = [
    ("GL", 4, 8000, "x0", 1.270), ("GL", 16, 3000, "x0", 1.341), ("GQ", 4, 8000, "x0", -0.248), ("GQ", 4, 8000, "exact", -0.520),
    ("GI", 4, 8000, "exact", 0.776), ("ML", 4, 8000, "x0", 0.915), ("MQ", 16, 3000, "x0", -0.167),
]  # fmt: skip


@pytest.mark.parametrize(("name", "n", "slots", "potential", "expected"), TWISTED)
def test_the_law_of_a_draw_with_moved_proposals(name: str, n: int, slots: int, potential: str, expected: float) -> None:
    """4 standard errors, and .005 for two grids (psi of an indicator is steep)."""
    given = {"potential": Exact(name=name)} if potential == "exact" else {}
    mean, error = mean_reward(run(name, n, slots, seed=6, twist=FREE, **given))
    assert mean == pytest.approx(expected, abs=4 * error + 0.005)


def test_moved_proposals_cost_no_further_row_or_query() -> None:
    source = source_of("GQ", 10)
    found = SMC(lam=0.5, scored=(0.3, 0.6), twist=2.0).population(source, 4, 10)
    assert found.evaluations == 40 * 10
    assert found.queries == 40 * 3
    assert source.world.reward.asked == found.queries  # type: ignore[attr-defined]


@pytest.mark.parametrize(("tilted", "expected"), [("base", 1.3611), ("policy", 0.6 * 1.3611 + 1.3611)])
def test_a_tuned_policy_is_moved_too(tilted: Tilted, expected: float) -> None:
    """A policy of the mean .3 x 1.3611: log Z of the base as before with the ratio to it, and without it that of the policy, the
    mean / .5 more."""
    how = SMC(lam=0.5, scored="all", twist=FREE, tilted=tilted)
    mean, error = z_of(how.population(tuned_source(4000, share=0.3), 8, 4000), expected)
    assert error < 0.03
    assert mean == pytest.approx(1, abs=4 * error)


def test_a_reward_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="not differentiable"):
        SMC(lam=0.2, twist=1.0).refuse(source_of("GI", 4))

    @dataclass(frozen=True, kw_only=True)
    class Flat(Potential):
        def __call__(self, world: Any, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Valued: ...

    with pytest.raises(ValueError, match="Flat has no gradient"):
        SMC(lam=0.2, twist=1.0, potential=Flat()).refuse(source_of("GL", 4))
    with pytest.raises(ValueError, match="twist is -1"):
        SMC(lam=0.2, twist=-1.0)


def test_the_gradient_goes_through_the_estimate() -> None:
    """d/dx r(x0hat(x)) by differences, r = -(x - 2)^2: for N(0, 1) x0hat is alpha x."""
    source = source_of("GQ", 3)
    x = torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64, requires_grad=True)
    cond, h = torch.zeros(3, dtype=torch.long), torch.full((3,), 6)
    x0 = source.policy.estimate(x, h, cond)
    found = EstimateReward().slope(source.world, x, x0, 6, cond)
    alpha = chain(1.0, 10)[0][6]
    torch.testing.assert_close(found.value, -((alpha * x[:, 0].detach() - 2) ** 2))
    torch.testing.assert_close(found.gradient, -2 * alpha * (alpha * x.detach() - 2))
    assert found.queries == 3


class Half(OnALine):
    """x, which is not measured above 0."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score(sample[:, 0].double(), sample[:, 0] <= 0)


def test_what_is_not_measured_moves_nothing() -> None:
    """The weights are right all the same: E[exp(x / lam) 1[x <= 0]] under N(0, .680566)."""
    source = source_of("GL", 20_000, seed=7, max_failed=0.9)
    source = replace(source, world=replace(source.world, reward=Half("linear", 0.0)))
    found = SMC(lam=0.5, scored="all", twist=FREE).population(source, 4, 20_000)
    var = 0.680566
    right = math.log(math.exp(2 * var) * 0.5 * math.erfc(2 * var / math.sqrt(2 * var)))
    mean, error = z_of(found, right)
    assert mean == pytest.approx(1, abs=4 * error)
    assert error < 0.06


def test_the_bound_is_in_standard_deviations() -> None:
    shift = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    kept, length = bounded(shift, 0.5, 2.0, Dense((2,)), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(length, torch.tensor([10.0, 1.0, 0.0], dtype=torch.float64))
    assert bounded(shift, 0.5, None, Dense((2,)), torch.zeros(3, dtype=torch.long))[0].equal(shift)
    torch.testing.assert_close(kept, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="not finite"):
        bounded(shift * torch.nan, 0.5, 2.0, Dense((2,)), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("form", "expected"), [("difference", [1, 3, 3, 2]), ("max", [1, 4, 4, 7]), ("sum", [1, 5, 5, 11])]
)
def test_forms_by_hand(form: Form, expected: list[float]) -> None:
    """Values 1, 3, one that is not measured, 2: the sum over states of the largest so far, or of the sum so far."""
    now = Weights.of(1, 1, torch.device("cpu"), form)
    seen = []
    for value, known in ((1.0, True), (3.0, True), (9.0, False), (2.0, True)):
        now = now.valued(Valued(torch.tensor([value], dtype=torch.float64), torch.tensor([known])), form)
        seen.append(now.psi.item())
    assert seen == expected


# resampled always, all 10 states scored: more particles are worse (T_full has 1.3611, -.4715, .8414)
ANEW = [("GL", 4, 1.155), ("GL", 16, 2.046), ("GQ", 4, -0.635), ("GI", 4, 0.177), ("ML", 16, 1.112)]


@pytest.mark.parametrize(("name", "n", "expected"), ANEW)
def test_the_largest_so_far_is_worse_with_more_particles(name: str, n: int, expected: float) -> None:
    mean, error = mean_reward(run(name, n, 24_000 // n, seed=8, form="max", threshold=1.0))
    assert mean == pytest.approx(expected, abs=4 * error + 0.005)


@pytest.mark.parametrize("form", ["max", "sum"])
def test_without_resampling_all_forms_are_one(form: Form) -> None:
    """Then the last weight is exp(r / lam): what was applied on the way has been paid back, path by path."""
    one, other = (
        SMC(lam=0.2, scored="all", threshold=0.0, form=f).population(tiny_source(), 5, 3) for f in ("difference", form)
    )
    torch.testing.assert_close(one.log_weight, other.log_weight)
    assert not torch.allclose(one.ess[:, 1], other.ess[:, 1])


def test_many_scored_states_are_warned_of() -> None:
    """4 of 10 are silent, and so are all with `difference`."""
    source, many = source_of("GL", 4), (0.1, 0.3, 0.5, 0.7, 0.9)
    assert "with 5 scored states" in SMC(lam=0.2, scored=many, form="max").advice(source)
    assert SMC(lam=0.2, scored=many[1:], form="sum").advice(source) == ""
    assert SMC(lam=0.2, scored="all").advice(source) == ""
