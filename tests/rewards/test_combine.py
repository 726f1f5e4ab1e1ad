"""Sum and Gate against numbers worked out by hand."""

import pytest
import torch

from pgdlab.rewards.base import Episode, Paid, Reward, Score
from pgdlab.rewards.combine import Gate, Sum

COND = torch.zeros(3, dtype=torch.long)
SAMPLE = torch.tensor([1.0, 2.0, 4.0])


class Power(Reward):
    """sample^p; the last sample is not measured where lame."""

    def __init__(self, p: float, lame: bool = False) -> None:
        super().__init__()
        self.p, self.lame = p, lame

    def score(self, sample, cond):
        measured = torch.ones(len(sample), dtype=torch.bool)
        measured[-1] = not self.lame
        return Score(sample**self.p, measured, {"root": sample})


class Dense(Power):
    """Pays 10 on the initial state and 1 for every action."""

    def needs_estimates(self):
        return True

    def forward(self, episode):
        ones = torch.ones(len(episode), episode.steps, dtype=torch.float64)
        return Paid(ones, 10 * ones[:, 0], torch.ones(len(episode), dtype=torch.bool), {})


def test_sum_weighs_the_values_and_keeps_unweighted_parts():
    score = Sum(rewards={"one": Power(1), "square": Power(2)}, weights={"square": 0.5}).score(SAMPLE, COND)
    assert score.value.tolist() == [1.5, 4.0, 12.0]
    assert score.parts["square"].tolist() == [1.0, 4.0, 16.0]
    assert set(score.parts) == {"one", "one/root", "square", "square/root"}


def test_sum_of_a_final_and_a_dense_reward_pays_each_where_it_is_due():
    both = Sum(rewards={"one": Power(1), "dense": Dense(1)}, weights={"dense": 2.0})
    paid = both(Episode(SAMPLE, COND, steps=2))
    assert both.needs_estimates()
    assert not Sum(rewards={"one": Power(1)}).needs_estimates()
    assert paid.values.tolist() == [[2.0, 3.0], [2.0, 4.0], [2.0, 6.0]]
    assert paid.initial.tolist() == [20.0] * 3
    assert paid.parts["dense"].tolist() == [12.0] * 3  # unweighted, rho's share included


def test_sum_is_measured_where_all_are():
    both = Sum(rewards={"one": Power(1), "two": Power(2, lame=True)})
    assert both.score(SAMPLE, COND).measured.tolist() == [True, True, False]
    assert both(Episode(SAMPLE, COND, steps=2)).measured.tolist() == [True, True, False]


@pytest.mark.parametrize("weights", [{"tow": 1.0}, None])
def test_sum_refuses_a_weight_of_nothing_and_an_empty_sum(weights):
    with pytest.raises(ValueError, match="this sum's rewards"):
        Sum(rewards={"two": Power(1)} if weights else {}, weights=weights)


def test_gate_pays_nothing_below_the_threshold_and_the_threshold_itself_passes():
    gate = Gate(reward=Power(2), gate=Power(1), threshold=2.0)
    score = gate.score(SAMPLE, COND)
    assert score.value.tolist() == [0.0, 4.0, 16.0]
    assert score.parts["open"].tolist() == [0.0, 1.0, 1.0]
    assert score.parts["ungated"].tolist() == [1.0, 4.0, 16.0]
    assert gate(Episode(SAMPLE, COND, steps=2)).values.tolist() == [[0.0, 0.0], [0.0, 4.0], [0.0, 16.0]]


def test_gate_closes_intermediate_and_initial_pay_too():
    paid = Gate(reward=Dense(1), gate=Power(1), threshold=2.0)(Episode(SAMPLE, COND, steps=2))
    assert paid.values.sum(1).tolist() == [0.0, 2.0, 2.0]
    assert paid.initial.tolist() == [0.0, 10.0, 10.0]


def test_behind_a_closed_gate_a_failed_reward_is_a_measured_zero_but_a_failed_gate_is_not():
    lame = Power(1, lame=True)
    closed, opened = (Gate(reward=lame, gate=Power(1), threshold=t).score(SAMPLE, COND) for t in (9.0, 0.0))
    assert closed.measured.tolist() == [True, True, True]
    assert opened.measured.tolist() == [True, True, False]
    assert Gate(reward=Power(1), gate=lame, threshold=9.0).score(SAMPLE, COND).measured.tolist() == [True, True, False]
