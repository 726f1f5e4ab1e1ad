"""Credit with a value function: by hand-made numbers, by its definitions written as sums, and by exact values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pgdlab.functional.credit import (
    differential,
    differential_td_errors,
    discount_factors,
    discounted_reward_to_go,
    episodic_gae,
    gae,
    td_errors,
    td_targets,
    updated_average_reward,
)
from pgdlab.functional.returns import reward_to_go

EXACT = {"rtol": 1e-13, "atol": 1e-13}  # a few fp64 operations on numbers of size 1 to 100
REWARDS = torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.0, -4.0]])
VALUES = torch.tensor([[10.0, 20.0, 30.0, 40.0], [2.0, 4.0, 6.0, 8.0]])
ENDS = torch.tensor([True, False])


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 7, generator=generator), torch.randn(2, 8, generator=generator)


def test_the_discount_counts_from_the_step_itself() -> None:
    """gamma 1/2: G = (1 + 2/2 + 4/4, 2 + 4/2, 4), whatever came before the step."""
    assert discounted_reward_to_go(REWARDS, 0.5).tolist() == [[3, 4, 4], [7, -2, -4]]
    assert discounted_reward_to_go(REWARDS, 0.0).tolist() == REWARDS.tolist()
    assert torch.equal(discounted_reward_to_go(REWARDS, 1.0), reward_to_go(REWARDS))
    assert discount_factors(4, 0.5).tolist() == [1, 0.5, 0.25, 0.125]
    assert discount_factors(2, 0.0).tolist() == [1, 0], "gamma 0: only the first step counts, and it does"


def test_td_errors_by_hand() -> None:
    """A time limit bootstraps: row 0 ended (4 - 30), row 1 was cut off and bootstraps (-4 + 8/2 - 6)."""
    expected = rows([1 + 10 - 10, 2 + 15 - 20, 4 - 30], [8 + 2 - 2, 0 + 3 - 4, -4 + 4 - 6])
    assert torch.equal(td_errors(REWARDS, VALUES, 0.5, ENDS), expected)
    assert torch.equal(td_errors(REWARDS, VALUES, 0.5, True)[0], expected[0])
    assert torch.equal(td_errors(REWARDS, VALUES, 0.5, False)[1], expected[1])


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), 1e30])
def test_what_comes_after_termination_does_not_matter(lost: float) -> None:
    values = VALUES.clone()
    values[0, -1] = lost
    for lam in (0.0, 0.5, 1.0):
        assert torch.equal(gae(REWARDS, values, 0.5, lam, ENDS), gae(REWARDS, VALUES, 0.5, lam, ENDS))
        assert torch.equal(td_targets(REWARDS, values, 0.5, lam, ENDS), td_targets(REWARDS, VALUES, 0.5, lam, ENDS))


def test_gae_by_hand() -> None:
    """gamma lam = 1/4 on the TD errors 1, -3, -26 and 8, -1, -6."""
    expected = rows([1 - 3 / 4 - 26 / 16, -3 - 26 / 4, -26], [8 - 1 / 4 - 6 / 16, -1 - 6 / 4, -6])
    assert torch.equal(gae(REWARDS, VALUES, 0.5, 0.5, ENDS), expected)


def n_step(rewards: Tensor, values: Tensor, gamma: float, h: int, n: int, terminated: bool) -> Tensor:
    """sum_{i<n} gamma^i r_{h+i} + gamma^n V(s_{h+n})   (Sutton & Barto 2018, eq. 7.1)."""
    total = sum(gamma**i * rewards[:, h + i].double() for i in range(n))
    ended = terminated and h + n == rewards.shape[1]
    return total + (0 if ended else gamma**n * values[:, h + n].double())


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9, 1.0])
def test_the_lambda_return_is_the_mixture_of_n_step_returns(lam: float, terminated: bool) -> None:
    """(1 - lam) sum_n lam^(n-1) G^(n), the rest of the weight on the longest (eq. 12.3); gae is that less V, written
    by Schulman et al. as a mixture of n-step advantages (eq. 16)."""
    rewards, values = random_case()
    targets, advantage = td_targets(rewards, values, 0.8, lam, terminated), gae(rewards, values, 0.8, lam, terminated)
    for h in range(7):
        longest = 7 - h
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, longest)] + [lam ** (longest - 1)]
        parts = [n_step(rewards, values, 0.8, h, n, terminated) for n in range(1, longest + 1)]
        expected = sum(w * g for w, g in zip(weights, parts, strict=True))
        torch.testing.assert_close(targets[:, h], expected, **EXACT)
        torch.testing.assert_close(advantage[:, h], expected - values[:, h].double(), **EXACT)


def test_monte_carlo_targets_do_not_know_the_values() -> None:
    rewards, values = random_case()
    targets = td_targets(rewards, values, 0.8, 1.0, True)
    torch.testing.assert_close(targets, discounted_reward_to_go(rewards, 0.8), **EXACT)
    cut = td_targets(rewards, values, 0.8, 1.0, False)
    tail = 0.8 ** torch.arange(7, 0, -1, dtype=torch.float64) * values[:, -1:].double()
    torch.testing.assert_close(cut, targets + tail, **EXACT)


def test_targets_are_constants() -> None:
    """The semi-gradient: a target that followed V would train another objective."""
    values = VALUES.clone().requires_grad_()
    for made in (
        gae(REWARDS, values, 0.5, 0.5, ENDS),
        td_targets(REWARDS, values, 0.5, 0.5, ENDS),
        differential_td_errors(REWARDS, values, 1.0),
    ):
        assert not made.requires_grad
        assert made.dtype == torch.float64


def test_differential_errors_by_hand() -> None:
    """r - rbar + V(s') - V(s); there is no end, so the last column bootstraps."""
    expected = rows([1 - 3 + 10, 2 - 3 + 10, 4 - 3 + 10], [8 - 5 + 2, 0 - 5 + 2, -4 - 5 + 2])
    assert torch.equal(differential_td_errors(REWARDS, VALUES, torch.tensor([3.0, 5.0])), expected)
    assert torch.equal(differential_td_errors(REWARDS, VALUES, 3.0)[0], expected[0])
    assert torch.equal(differential(REWARDS, 1.5), REWARDS.double() - 1.5)


def test_the_average_reward_moves_by_the_mean_error() -> None:
    errors = rows([8, 9, 10], [5, -3, -7])
    moved = updated_average_reward(torch.tensor([3.0, 5.0]), errors, 0.5)
    torch.testing.assert_close(moved, torch.tensor([3 + 4.5, 5 - 5 / 6], dtype=torch.float64), **EXACT)
    assert updated_average_reward(1.0, errors[:1], 0.1).tolist() == [1.9]


def test_the_average_reward_is_found_from_above_and_below() -> None:
    """A cycle paying 1, 2, 6: gain 3, differential values 0, 2, 3 solve h(s) = r - 3 + h(s'). With these V the update
    is a contraction to 3, from any start."""
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    values = torch.tensor([[0.0, 2.0, 3.0, 0.0]])
    assert differential_td_errors(rewards, values, 3.0).abs().max() == 0
    for start in (-10.0, 10.0):
        average: Tensor = torch.tensor([start])
        for _ in range(60):
            average = updated_average_reward(average, differential_td_errors(rewards, values, average), 0.5)
        assert average.item() == pytest.approx(3, abs=1e-12)  # 13 * 2^-60 is 1e-17


def test_episodes_in_a_row_do_not_see_each_other() -> None:
    """By hand, gamma 1/2, lam 1/2. The first row is cut off after its second step, from a state worth 8: delta = (1 + 6/2 - 4,
    2 + 8/2 - 6, 4 + 0 - 2), the last one terminated. The second ends after its first step, and is cut off at the end."""
    rewards, values = rows([1, 2, 4], [3, 5, 7]), rows([4, 6, 2], [1, 10, 20])
    after = rows([6, 8, 100], [100, 20, 40])
    terminated = torch.tensor([[False, False, True], [True, False, False]])
    truncated = torch.tensor([[False, True, False], [False, False, True]])
    found = episodic_gae(rewards, values, after, terminated, truncated, 0.5, 0.5)
    # (0 + 0 / 4, 0, 2) and (3 - 1, (5 + 10 - 10) + 7 / 4, 7 + 20 - 20)
    assert found.tolist() == [[0, 0, 2], [2, 6.75, 7]]


def test_one_episode_a_row_is_gae() -> None:
    rewards, values = random_case()
    flags = torch.zeros(2, 7, dtype=torch.bool)
    last = flags.clone()
    last[:, -1] = True
    for ended in (True, False):
        found = episodic_gae(
            rewards, values[:, :-1], values[:, 1:], last if ended else flags, flags if ended else last, 0.9, 0.8
        )
        torch.testing.assert_close(found, gae(rewards, values, 0.9, 0.8, ended), **EXACT)
