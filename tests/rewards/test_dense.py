"""EveryStep and Shaped, r_h paid for the state h + 1, on a three-step outcome worked out by hand."""

import pytest
import torch

from pgdlab.rewards.base import Outcome, Reward, Score
from pgdlab.rewards.dense import EveryStep, Shaped

COND = torch.zeros(2, dtype=torch.long)
# what the reference makes of states 0, 1, 2 of two trajectories, and the samples (state 3)
ESTIMATES = torch.tensor([[0.1, 0.7], [0.2, 0.5], [0.4, 0.3]], dtype=torch.float64)
SAMPLE = torch.tensor([0.8, 0.9], dtype=torch.float64)


class Itself(Reward):
    """The number that stands for the sample, times scale; samples above `broken` cannot be measured."""

    def __init__(self, scale: float = 1.0, broken: float = 9.0) -> None:
        super().__init__()
        self.scale, self.broken = scale, broken

    def score(self, sample, cond):
        return Score(self.scale * sample, sample <= self.broken, {"itself": sample})


def outcome() -> Outcome:
    return Outcome(SAMPLE, COND, 3, lambda h: ESTIMATES[h])


def test_every_step_is_paid_for_the_state_it_leads_to():
    paid = EveryStep(reward=Itself(), weight=10.0)(outcome())
    # action 0 leads to state 1, action 1 to state 2, action 2 to the sample; state 0 is nobody's doing
    torch.testing.assert_close(paid.values, 10 * torch.tensor([[0.2, 0.4, 0.8], [0.5, 0.3, 0.9]], dtype=torch.float64))
    assert paid.initial.tolist() == [0.0, 0.0]
    assert paid.parts["final"].tolist() == SAMPLE.tolist()


def test_shaping_pays_the_growth_of_the_potential_and_the_last_action_loses_it():
    paid = Shaped(reward=Itself(), potential=Itself(2.0))(outcome())
    # by hand for the first: 2 (.2 - .1), 2 (.4 - .2), .8 + 0 - 2 * .4
    torch.testing.assert_close(paid.values[0], torch.tensor([0.2, 0.4, 0.0], dtype=torch.float64))
    torch.testing.assert_close(paid.values[1], torch.tensor([-0.4, -0.4, 0.3], dtype=torch.float64))


def test_shaping_leaves_the_return_of_the_initial_distribution_unchanged():
    # telescoping is exact up to the rounding of fp64
    plain, shaped = Itself()(outcome()), Shaped(reward=Itself(), potential=Itself(3.0))(outcome())
    torch.testing.assert_close(shaped.total, plain.total, rtol=0, atol=1e-15)
    # and the reward-to-go of action h differs by -Phi(s_h) only, which no action from h on can change
    to_go = [p.values.flip(1).cumsum(1).flip(1) for p in (shaped, plain)]
    torch.testing.assert_close(to_go[0] - to_go[1], -3 * ESTIMATES.T, rtol=0, atol=1e-14)


def test_shaping_an_every_step_reward_keeps_its_total_too():
    every = EveryStep(reward=Itself())
    shaped = Shaped(reward=every, potential=Itself(), weight=0.5)(outcome())
    torch.testing.assert_close(shaped.total, every(outcome()).total, rtol=0, atol=1e-15)


@pytest.mark.parametrize("make", [lambda r: EveryStep(reward=r), lambda r: Shaped(reward=Itself(), potential=r)])
def test_one_failed_step_makes_the_trajectory_unmeasured(make):
    # only the estimate of state 1 of trajectory 1 (0.5) is above the limit besides the final samples
    wrapped = make(Itself(broken=0.45))
    seen = Outcome(torch.zeros(2, dtype=torch.float64), COND, 3, lambda h: ESTIMATES[h] * (1 if h else 0))
    assert wrapped(seen).measured.tolist() == [True, False]


def test_both_say_that_they_need_estimates_and_score_like_what_they_wrap():
    for wrapped in (EveryStep(reward=Itself(), weight=7.0), Shaped(reward=Itself(), potential=Itself())):
        assert wrapped.needs_estimates()
        assert wrapped.score(SAMPLE, COND).value.tolist() == SAMPLE.tolist()
        with pytest.raises(ValueError, match="without estimates"):
            wrapped(Outcome(SAMPLE, COND, 3))
