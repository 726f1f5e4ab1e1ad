"""Episodes side by side: what ends, what is cut off, what fails, and what a value sees of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgdlab.control.episodes import Loop
from pgdlab.control.linear import LinearQuadratic
from pgdlab.credit.environment import Environment as Credit
from pgdlab.rewards.base import RewardError
from tests.control.two_states import TwoStates, collected, world


def seed(environment: int, number: int) -> np.random.Generator:
    return np.random.default_rng([environment, number])


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_no_value_leaks_over_a_time_limit(lam: float) -> None:
    """With exact values every advantage has mean 0, whatever comes after the end: 3 steps of 4,000 environments, some of which
    end and begin anew on the way, within five standard errors. A value of the next episode's start, or of none, in the place of
    that of the state where the limit is, moves the last step's mean by 0.2 and more: 20 standard errors."""
    of = world(4000)
    found = collected(of)
    credited = Credit(gamma=0.9, gamma_lambda=lam).assign(of, found.trajectory, found.rewards)
    for t, column in enumerate(found.rewards.episodes.table(credited.table[:, 0]).unbind(1)):
        assert abs(column.mean()) < 5 * column.std() / 4000**0.5, t
    episodes = found.rewards.episodes
    assert episodes.terminated.any()
    assert episodes.table(episodes.truncated)[:, -1].double().mean() > 0.9
    values = TwoStates().values(0.9)
    assert abs(values[1] - values[0]) > 0.5  # what would leak


def test_a_failure_ends_its_episode_and_counts() -> None:
    """Copy 1 raises at its second step, copy 2 gives NaN at its first: both begin anew; the row before a failure is cut off."""
    trouble = {(1, 1): "raises", (2, 0): "nan"}
    of = world(4, TwoStates(trouble=lambda copy, step: trouble.get((copy, step), "")), max_failed=0.2)
    episodes = collected(of).rewards.episodes
    assert episodes.table(episodes.measured).tolist() == [
        [True, True, True], [True, False, True], [False, True, True], [True, True, True]
    ]  # fmt: skip
    cut, ended = episodes.table(episodes.truncated), episodes.table(episodes.terminated)
    assert cut[1, 0]
    assert not ended[1, 0]
    assert episodes.whole.tolist() == [True, False, False, True]
    assert episodes.reward.isfinite().all()
    loop = Loop(of.environment, 4, 2, seed)
    for _ in range(2):
        loop.act(torch.zeros(4, 1, 1))
    assert loop.number == [1, 2, 2, 1]  # episodes begun


def test_failures_teach_nothing_and_too_many_stop_the_run() -> None:
    of = world(4, TwoStates(trouble=lambda copy, step: "nan" if copy == 0 else ""), max_failed=0.3)
    found = collected(of)
    credited = Credit(gamma=0.9).assign(of, found.trajectory, found.rewards)
    assert credited.table[:3].abs().max() < 1e-12  # no error, so that a value is not fitted to it either
    assert not found.rewards.measured[:3].any()
    assert found.rewards.measured[3:].all()
    with pytest.raises(RewardError, match=r"failed in 25% of 12 chunks of actions \(plan.max_failed allows 10%\)"):
        collected(world(4, TwoStates(trouble=lambda copy, step: "nan" if copy == 0 else ""), max_failed=0.1))


def test_a_chunk_is_paid_its_sum_and_stops_at_the_end() -> None:
    """A regulator of 3 steps in chunks of 2: the second chunk takes one step. Against the same actions one at a time."""
    environment, g = LinearQuadratic(limit=3), torch.Generator().manual_seed(0)
    actions = torch.randn(2, 2, 2, 1, generator=g, dtype=torch.float64)
    loop, single = Loop(environment, 2, 2, seed), environment.copies(2)
    every = torch.arange(2)
    single.reset(every, [seed(0, 0), seed(1, 0)])
    paid = [single.step(every, actions[c // 2, :, c % 2]) for c in range(3)]
    for chunk in actions:
        loop.act(chunk)
    found = loop.episodes(torch.arange(4))
    rewards = torch.stack([paid[0].reward + paid[1].reward, paid[2].reward], 1)
    torch.testing.assert_close(found.table(found.reward), rewards, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(found.returns, rewards.sum(1), rtol=1e-12, atol=0.0)
    assert found.steps == 6
    assert found.length.tolist() == [3, 3]
    torch.testing.assert_close(loop.afters[1], paid[2].observation)
    assert found.table(found.terminated).tolist() == [[False, True]] * 2
    assert not found.truncated.any()


def test_the_regret_of_the_best_controller_is_0() -> None:
    """Its returns, and what is expected of it from each start, within five standard errors of 2,000 episodes."""
    environment = LinearQuadratic(limit=4)
    gains = environment.regulator().optimum().gains
    loop = Loop(environment, 2000, 4, seed)
    for t in range(4):
        loop.act((loop.observation[:, :2] @ gains[t].T)[:, None])
    figures = loop.episodes(torch.arange(8000)).figures(lambda x: x, torch.device("cpu"))
    assert abs(figures["regret"]) < 5 * figures["regret_stderr"] < 0.05
    assert figures["episode_length"] == 4
    assert "success" not in figures
