"""Credit, by hand-made numbers and by enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.functional.returns import (  # fmt: skip
    advantages,
    baseline,
    dead_rows,
    group_std,
    masked_mean,
    reward_to_go,
    softmax_weights,
    strictly_later,
)

ALL = torch.ones(4, dtype=torch.bool)
ONE_GROUP = torch.zeros(4, dtype=torch.long)
PAIRS = torch.tensor([0, 0, 1, 1])
EXACT = {"rtol": 1e-13, "atol": 1e-13}  # a few fp64 operations on numbers of size 1 to 100


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_returns_include_the_own_step_and_later_costs_do_not() -> None:
    r = torch.tensor([[1.0, 10.0, 100.0], [0.5, 0.0, -2.0]])
    assert reward_to_go(r).tolist() == [[111, 110, 100], [-1.5, -2, -2]]
    assert strictly_later(r).tolist() == [[110, 100, 0], [-2, -2, 0]]
    assert reward_to_go(r).dtype == strictly_later(r).dtype == torch.float64


def test_masked_mean_ignores_what_was_not_measured() -> None:
    x = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")], [5.0, 4.0]], dtype=torch.float64)
    measured = torch.tensor([True, False, True])
    assert masked_mean(x, measured).tolist() == [3.0, 3.0]
    assert masked_mean(x, torch.zeros(3, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_baselines_by_hand() -> None:
    r = column(1, 2, 6, 11)
    assert baseline(r, ALL, PAIRS, "none").flatten().tolist() == [0, 0, 0, 0]
    assert baseline(r, ALL, PAIRS, "mean").flatten().tolist() == [5, 5, 5, 5]
    torch.testing.assert_close(baseline(r, ALL, PAIRS, "leave_one_out"), column(19 / 3, 6, 14 / 3, 3), **EXACT)
    assert baseline(r, ALL, PAIRS, "group").flatten().tolist() == [2, 1, 11, 6]


def test_what_was_not_measured_enters_no_mean_and_earns_nothing() -> None:
    r, measured = column(1, float("nan"), 6, 11), torch.tensor([True, False, True, True])
    torch.testing.assert_close(baseline(r, measured, PAIRS, "leave_one_out")[measured], column(8.5, 6, 3.5), **EXACT)
    a, _ = advantages(r, measured, PAIRS, "leave_one_out")
    torch.testing.assert_close(a, column(-7.5, 0, 0, 7.5), **EXACT)
    a, _ = advantages(r, measured, PAIRS, "group")
    assert a.flatten().tolist() == [0, 0, -5, 5], "a row whose whole group failed has nothing to be compared with"
    a, _ = advantages(r, measured, PAIRS, "mean")
    torch.testing.assert_close(a, column(-5, 0, 0, 5), **EXACT)
    torch.testing.assert_close(group_std(r, measured, ONE_GROUP), column(5, 5, 5, 5), **EXACT)


def test_the_mean_with_the_own_sample_shrinks_by_one_over_n() -> None:
    """r_i - mean = (1 - 1/G) (r_i - mean of the others), exactly, also within groups."""
    r = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    every = torch.ones(12, dtype=torch.bool)
    loo, _ = advantages(r, every, torch.zeros(12, dtype=torch.long), "leave_one_out")
    mean, _ = advantages(r, every, torch.zeros(12, dtype=torch.long), "mean")
    torch.testing.assert_close(mean, (1 - 1 / 12) * loo, **EXACT)
    group, _ = advantages(r, every, torch.arange(12) // 4, "group")
    own = r - r.reshape(3, 4, 3).mean(1).repeat_interleave(4, 0)
    torch.testing.assert_close(own, (1 - 1 / 4) * group, **EXACT)


@pytest.mark.parametrize(("kind", "factor"), [("none", 1.0), ("leave_one_out", 1.0), ("mean", 1 - 1 / 3)])
def test_leave_one_out_is_unbiased_by_enumeration(kind: str, factor: float) -> None:
    """A Bernoulli(p) policy, 3 samples, all 8 outcomes with their probabilities: E[sum_i A_i dlog p_i / n]
    is the gradient d/dp E[r] = r(1) - r(0), and with the own sample in the mean 2/3 of it."""
    p, paid = 0.3, (0.7, 2.5)
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=3):
        weight = torch.tensor([p if b else 1 - p for b in outcome]).double().prod()
        score = torch.tensor([1 / p if b else -1 / (1 - p) for b in outcome], dtype=torch.float64)
        a, _ = advantages(column(*[paid[b] for b in outcome]), ALL[:3], ONE_GROUP[:3], kind)  # type: ignore[arg-type]
        total += float(weight * (a[:, 0] * score).mean())
    assert total == pytest.approx(factor * (paid[1] - paid[0]), rel=1e-6)  # 1e-6: p is rounded to fp32 once


@pytest.mark.parametrize("kind", ["mean", "leave_one_out", "group"])
def test_equal_rewards_give_exactly_no_advantage(kind: Any) -> None:
    """Rounding noise must not become an advantage; 7 rows, so that the mean of 1/3 is not exact."""
    measured, group = torch.ones(7, dtype=torch.bool), torch.zeros(7, dtype=torch.long)
    scales: tuple[Any, ...] = ("none", "group_std", "batch_std")
    for scale, value in itertools.product(scales, (1.0, 0.1, 1 / 3, -123.456, 1e5)):
        r = torch.full((7, 2), value)  # fp32, as rewards come
        a, scalar = advantages(r.double(), measured, group, kind, scale)
        assert torch.equal(a, torch.zeros(7, 2, dtype=torch.float64)), (scale, value)
        assert scalar == 1.0


def test_rounding_around_equal_rewards_is_dead_too() -> None:
    """A binary reward that carries fp64 rounding; groups of ones, of zeros and a mixed one."""
    jitter = 1e-13 * torch.randn(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    r = column(1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1) + jitter
    groups, every = torch.arange(12) // 4, torch.ones(12, dtype=torch.bool)
    a, _ = advantages(r, every, groups, "group", "group_std")
    assert torch.equal(a[:8], torch.zeros(8, 1, dtype=torch.float64))
    # leave-one-out: +-2/3, over the (n - 1) std of (1, 0, 0, 1), 1/sqrt 3
    torch.testing.assert_close(a[8:], column(1, -1, -1, 1) * 2 / 3**0.5, rtol=1e-10, atol=0)
    assert dead_rows(r, every, groups)[:, 0].tolist() == [True] * 8 + [False] * 4


def test_a_small_difference_is_not_dead() -> None:
    a, _ = advantages(column(1e5, 1e5 + 1e-2, 1e5, 1e5), ALL, ONE_GROUP, "leave_one_out")
    torch.testing.assert_close(a[1], column(1e-2)[0], rtol=1e-8, atol=0)  # 1e5 carries 1e-11 in fp64


def test_group_std_against_torch() -> None:
    r = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = r.reshape(3, 4, 2).std(1).repeat_interleave(4, 0)
    torch.testing.assert_close(group_std(r, torch.ones(12, dtype=torch.bool), torch.arange(12) // 4), expected, **EXACT)


def test_a_sample_alone_in_its_group_has_no_advantage() -> None:
    groups = torch.tensor([0, 1, 1, 2])
    a, _ = advantages(column(3, 1, 2, 5), ALL, groups, "group")
    assert a.flatten().tolist() == [0, -1, 1, 0]


def test_batch_std_is_one_scalar_of_the_first_column() -> None:
    """The scalar is returned, to multiply reward and KL alike; the advantages stay as they are."""
    r = torch.tensor([[1.0, 7.0], [2.0, 7.5], [4.0, 8.0], [9.0, 0.0]], dtype=torch.float64)
    plain, one = advantages(r, ALL, PAIRS, "leave_one_out")
    scaled, scalar = advantages(r, ALL, PAIRS, "leave_one_out", "batch_std")
    assert torch.equal(plain, scaled)
    assert one == 1.0
    assert scalar == pytest.approx(1 / r[:, 0].std().item(), rel=1e-12)


def test_spreads_are_those_of_what_was_earned() -> None:
    """A KL of 1e-6 in the returns of groups with equal rewards. Without a division it counts as what it is."""
    earned, groups = column(1, 1, 0, 4), PAIRS
    returns = earned - column(1e-6, 3e-6, 0.5, 0)
    divided, _ = advantages(returns, ALL, groups, "group", "group_std", earned)
    torch.testing.assert_close(divided, column(0, 0, -4.5, 4.5) / 8**0.5, rtol=1e-12, atol=0)
    plain, _ = advantages(returns, ALL, groups, "group", "none", earned)
    torch.testing.assert_close(plain[:2], column(2e-6, -2e-6), rtol=1e-6, atol=0)
    same, scalar = advantages(returns[:2], ALL[:2], groups[:2], "leave_one_out", "batch_std", earned[:2])
    assert scalar == 1, "all rewards equal: the KL keeps its units"
    torch.testing.assert_close(same, column(2e-6, -2e-6), rtol=1e-6, atol=0)
    assert advantages(returns, ALL, groups, "leave_one_out", "batch_std", earned)[1] == pytest.approx(1 / 3**0.5)


def test_advantages_are_fp64_whatever_comes_in() -> None:
    """Differences of nearly equal returns lose their digits in fp32."""
    a, _ = advantages(torch.randn(4, 2), ALL, PAIRS)
    assert a.dtype == torch.float64


def test_no_baseline_keeps_equal_rewards() -> None:
    a, _ = advantages(column(2, 2, 2, 2), ALL, PAIRS, "none")
    assert a.flatten().tolist() == [2, 2, 2, 2], "without a baseline a constant reward is no rounding noise"


@pytest.mark.parametrize("value", [0.93, 0.1, 300.0])
@pytest.mark.parametrize("kind", ["group", "leave_one_out", "none"])
def test_neighbours_in_fp32_are_equal_rewards(value: float, kind: Any) -> None:
    """Rewards arrive rounded to fp32; one ulp of difference, divided by its own std, would have size 1."""
    near = torch.full((8, 1), value)
    r = torch.where(torch.arange(8)[:, None] % 3 == 0, near, near.nextafter(torch.tensor(1e9)))
    assert len(r.unique()) == 2
    r, groups, every = torch.cat([r.double(), column(0.0, value)]), torch.tensor([0] * 8 + [1] * 2), ALL.repeat(3)[:10]
    a, _ = advantages(r, every, groups, kind, "group_std")
    assert torch.equal(a[:8], torch.zeros(8, 1, dtype=torch.float64))
    assert a[9] > 0.1
    assert advantages(r[:8], every[:8], groups[:8], "leave_one_out", "batch_std")[1] == 1


def test_dead_is_relative_to_the_rewards() -> None:
    """The unit of a reward does not matter; all zero is dead; rounding around 0 is measured by the other groups."""
    r = column(1, 2, 3, 4, 1, 1, 1, 1)
    groups, every = torch.arange(8) // 4, ALL.repeat(2)
    for unit in (1e-10, 1.0, 1e10):
        assert dead_rows(unit * r, every, groups)[:, 0].tolist() == [False] * 4 + [True] * 4
    assert dead_rows(0 * r, every, groups).all()
    opposite = column(-1, 1, -1, 1)
    assert not dead_rows(1e-10 * opposite, ALL, ONE_GROUP).any(), "a mean of 0 is no spread of 0"
    around = torch.cat([column(1, 2, 3, 4), 1e-8 * opposite])
    assert dead_rows(around, every, groups)[:, 0].tolist() == [False] * 4 + [True] * 4


def test_without_a_baseline_a_dead_group_is_not_divided() -> None:
    a, _ = advantages(column(1, 1, 0, 1), ALL, PAIRS, "none", "group_std")
    torch.testing.assert_close(a, column(0, 0, 0, 2**0.5), **EXACT)


def test_softmax_weights_by_hand() -> None:
    """Two prompts of 3 and 2 samples; log 3 over log 1 is a weight of 3 to 1, in each, whatever their level."""
    score = torch.tensor([0.0, math.log(3), 50.0, -7.0, math.log(3) - 7])
    measured = torch.tensor([True, True, False, True, True])
    groups = torch.tensor([4, 4, 4, 0, 0])
    got = softmax_weights(score, measured, groups)
    torch.testing.assert_close(got, torch.tensor([0.75, 2.25, 0.0, 0.5, 1.5]).double(), rtol=1e-6, atol=0)


def test_softmax_weights_of_one_prompt_are_one_softmax() -> None:
    score, every = torch.randn(9, dtype=torch.float64), torch.ones(9, dtype=torch.bool)
    assert torch.equal(softmax_weights(score, every, torch.full((9,), 3)), score.softmax(0) * 9)


def test_a_prompt_that_was_not_measured_leaves_its_weight_to_the_others() -> None:
    measured = torch.tensor([True, True, False, False])
    got = softmax_weights(torch.tensor([1.0, 1.0, 9.0, 9.0]), measured, torch.tensor([0, 0, 1, 1]))
    assert got.tolist() == [2.0, 2.0, 0.0, 0.0]
