"""What an evaluation says, by hand: errors, the paired gain, and whose network an ODE uses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.policy import ODE
from pgdlab.evaluation.evaluate import Measured, described, headline, mean_and_error, measure
from pgdlab.rewards.base import Reward, Score
from pgdlab.trainers.interaction import in_turn
from tests.worlds import POINTS, recorder


def test_the_error_of_a_mean_by_hand() -> None:
    """1, 2, 3, 4: mean 2.5, sum of squares about it 5, variance 5 / 3, error sqrt(5 / 3 / 4)."""
    found = described("x", torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    assert found == pytest.approx({"x": 2.5, "x_stderr": math.sqrt(5 / 12), "x_std": math.sqrt(5 / 3)})
    assert mean_and_error("x", torch.tensor([1.0])) == {"x": None, "x_stderr": None}
    assert described("x", torch.tensor([])) == {"x": None, "x_stderr": None, "x_std": None}


def test_the_error_covers_the_mean_as_often_as_it_says() -> None:
    """400 samples of 50: the mean is within two errors of 0 in 95 % of them, give or take 1.1 points."""
    g = torch.Generator().manual_seed(0)
    rows = [mean_and_error("x", torch.randn(50, generator=g)) for _ in range(400)]
    inside = sum(abs(row["x"] or 0) < 1.96 * (row["x_stderr"] or 0) for row in rows) / 400
    assert inside == pytest.approx(0.945, abs=0.04)


def test_few_samples_of_many_conditions_are_of_all_of_them_alike() -> None:
    """In turn where each has its turn; else from the whole list, which may be sorted."""
    assert in_turn((7, 8, 9), 7).tolist() == [7, 8, 9, 7, 8, 9, 7]
    assert in_turn((7, 8, 9), 3).tolist() == [7, 8, 9]
    assert in_turn(range(100, 110), 4).tolist() == [100, 102, 105, 107]


def result(some: Measured, reward: list[float], known: list[bool]) -> Measured:
    """An evaluation with these rewards in the place of its own."""
    value, measured = torch.tensor(reward, dtype=torch.float64), torch.tensor(known)
    return replace(some, reward=value, measured=measured, figures=some.figures | described("reward", value[measured]))


def test_the_gain_is_over_pairs_of_which_both_are_known() -> None:
    """Four pairs; the second is known before only, the third after only. The gains that count are 1 and 3."""
    module = recorder(*POINTS, "plan.eval_samples=4")[0]
    with torch.no_grad():
        some = measure(module.world, module.world.reference)
    before = result(some, [0.0, 9.0, -50.0, 1.0], [True, True, False, True])
    after = result(some, [1.0, 70.0, 5.0, 4.0], [True, False, True, True])
    found = headline({"base/sde": before, "raw/sde": before, "ema/sde": after})
    assert found["reward_gain"] == pytest.approx(2.0)
    assert found["reward_gain_stderr"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert found["reward_before"] == pytest.approx(10 / 3)


class Partly(Reward):
    """The first coordinate, known of the first half of a batch."""

    def score(self, sample: Tensor, cond: Tensor) -> Score:
        value = sample[:, 0].double()
        return Score(value, torch.arange(len(value)) < len(value) // 2)


def test_a_spread_does_not_depend_on_how_many_are_known() -> None:
    """400 samples of a normal distribution of which a held-out reward knows 200: its standard error grows by sqrt(2), its
    standard deviation stays (error of either: 5 %)."""
    module = recorder(*POINTS, "plan.eval_samples=400")[0]
    world = replace(module.world, heldout=Partly())
    with torch.no_grad():
        found = measure(world, world.reference).figures
    assert found["heldout_std"] == pytest.approx(found["reward_std"], rel=0.2)
    assert found["heldout_stderr"] == pytest.approx(found["heldout_std"] / math.sqrt(200))
    assert found["reward_stderr"] == pytest.approx(found["reward_std"] / math.sqrt(400))


@pytest.mark.parametrize("kind", ["sde", "ode"])
def test_the_tuned_network_is_used_by_every_sampler(kind: str) -> None:
    """Weights moved off the base move the samples, and under an ODE they are those of an own loop over its steps."""
    module = recorder(*POINTS, "penalty=none", "plan.eval_samples=6", nudge=0.3)[0]
    world = module.world
    policies = {"tuned": world.policy, "base": world.reference}
    if kind == "ode":
        policies = {name: policy.with_kernel(ODE) for name, policy in policies.items()}
    with torch.no_grad():
        found = {name: measure(world, policy).trajectory for name, policy in policies.items()}
        assert torch.equal(found["tuned"].initial, found["base"].initial), "the same noise"
        assert (found["tuned"].sample - found["base"].sample).abs().max() > 1e-3
        if kind == "ode":
            x = found["tuned"].initial
            for h in range(world.policy.steps):
                x = policies["tuned"](x, torch.full((len(x),), h), found["tuned"].cond).mean
            torch.testing.assert_close(found["tuned"].sample, x)
