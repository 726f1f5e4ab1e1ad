"""Sum, Product and Gate against numbers worked out by hand."""

import pytest
import torch

from pgdlab.functional.returns import reward_to_go
from pgdlab.rewards.base import Outcome, Reward, Score, ShapeError, StepRewards
from pgdlab.rewards.combine import Gate, Product, Sum
from pgdlab.rewards.dense import EveryStep, Shaped
from pgdlab.rewards.guard import guarded

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

    def forward(self, outcome):
        ones = torch.ones(len(outcome), outcome.steps, dtype=torch.float64)
        return StepRewards(ones, 10 * ones[:, 0], torch.ones(len(outcome), dtype=torch.bool), {})


def test_sum_weighs_the_values_and_keeps_unweighted_parts():
    score = Sum(rewards={"one": Power(1), "square": Power(2)}, weights={"square": 0.5}).score(SAMPLE, COND)
    assert score.value.tolist() == [1.5, 4.0, 12.0]
    assert score.parts["square"].tolist() == [1.0, 4.0, 16.0]
    assert set(score.parts) == {"one", "one/root", "square", "square/root"}


def test_sum_of_a_final_and_a_dense_reward_pays_each_where_it_is_due():
    both = Sum(rewards={"one": Power(1), "dense": Dense(1)}, weights={"dense": 2.0})
    paid = both(Outcome(SAMPLE, COND, steps=2))
    assert both.needs_estimates()
    assert not Sum(rewards={"one": Power(1)}).needs_estimates()
    assert paid.values.tolist() == [[2.0, 3.0], [2.0, 4.0], [2.0, 6.0]]
    assert paid.initial.tolist() == [20.0] * 3
    assert paid.parts["dense"].tolist() == [12.0] * 3  # unweighted, rho's share included


def test_sum_is_measured_where_all_are():
    both = Sum(rewards={"one": Power(1), "two": Power(2, lame=True)})
    assert both.score(SAMPLE, COND).measured.tolist() == [True, True, False]
    assert both(Outcome(SAMPLE, COND, steps=2)).measured.tolist() == [True, True, False]


@pytest.mark.parametrize("weights", [{"tow": 1.0}, None])
def test_sum_refuses_a_weight_of_nothing_and_an_empty_sum(weights):
    with pytest.raises(ValueError, match="this sum's rewards"):
        Sum(rewards={"two": Power(1)} if weights else {}, weights=weights)


def test_a_product_multiplies_final_values_and_keeps_them_as_parts():
    both = Product(rewards={"one": Power(1), "square": Power(2, lame=True)})
    score = both.score(SAMPLE, COND)
    assert score.value.tolist() == [1.0, 8.0, 64.0]
    assert score.measured.tolist() == [True, True, False]
    assert score.parts["square"].tolist() == [1.0, 4.0, 16.0]
    assert both(Outcome(SAMPLE, COND, steps=2)).values.tolist() == [[0.0, 1.0], [0.0, 8.0], [0.0, 64.0]]


def test_a_product_has_the_gradient_of_a_product_also_at_zero():
    """d (x x^2) / dx = 3 x^2, and of (x)(1 - x^2 where a factor is 0) what the other factor gives: 1 at 0."""
    x = torch.tensor([2.0, 0.0], requires_grad=True)
    some = Product(rewards={"one": Power(1), "square": Power(2)})
    (slope,) = torch.autograd.grad(some.combined({"a": x, "b": x**2}).sum(), x, retain_graph=True)
    assert slope.tolist() == [12.0, 0.0]
    (slope,) = torch.autograd.grad(some.combined({"a": x, "b": 5 - x**2}).sum(), x)
    assert slope.tolist() == [5 - 3 * 4.0, 5.0]


def test_a_product_is_refused_where_two_bad_values_make_a_good_one():
    with pytest.raises(ShapeError, match=r"rewards\.one is -1 at a sample; a product takes rewards of 0 and more"):
        Product(rewards={"one": Power(1), "square": Power(2)}).score(torch.tensor([1.0, -1.0, 4.0]), COND)
    with pytest.raises(ValueError, match="two or more rewards of final samples"):
        Product(rewards={"one": Power(1)})
    with pytest.raises(ValueError, match=r"\['dense'\].* pay on the way too"):
        Product(rewards={"one": Power(1), "dense": Dense(1)})
    assert not Product(rewards={"one": Power(1), "two": Power(1)}).differentiable


def test_gate_pays_nothing_below_the_threshold_and_the_threshold_itself_passes():
    gate = Gate(reward=Power(2), gate=Power(1), threshold=2.0)
    score = gate.score(SAMPLE, COND)
    assert score.value.tolist() == [0.0, 4.0, 16.0]
    assert score.parts["open"].tolist() == [0.0, 1.0, 1.0]
    assert score.parts["ungated"].tolist() == [1.0, 4.0, 16.0]
    assert gate(Outcome(SAMPLE, COND, steps=2)).values.tolist() == [[0.0, 0.0], [0.0, 4.0], [0.0, 16.0]]


def test_gate_pays_all_of_it_at_the_end():
    """Intermediate and initial pay too: whether it is open is only decided there."""
    paid = Gate(reward=Dense(1), gate=Power(1), threshold=2.0)(Outcome(SAMPLE, COND, steps=2))
    assert paid.values.tolist() == [[0.0, 0.0], [0.0, 12.0], [0.0, 12.0]]
    assert paid.initial.tolist() == [0.0, 0.0, 0.0]


def test_behind_a_closed_gate_a_failed_reward_is_a_measured_zero_but_a_failed_gate_is_not():
    lame = Power(1, lame=True)
    closed, opened = (Gate(reward=lame, gate=Power(1), threshold=t).score(SAMPLE, COND) for t in (9.0, 0.0))
    assert closed.measured.tolist() == [True, True, True]
    assert opened.measured.tolist() == [True, True, False]
    assert Gate(reward=Power(1), gate=lame, threshold=9.0).score(SAMPLE, COND).measured.tolist() == [True, True, False]


class Step(Reward):
    """The state, a number, itself."""

    def score(self, sample, cond):
        return Score.of(sample)


@pytest.mark.parametrize(
    "reward",
    [Step(), EveryStep(reward=Step()), Shaped(reward=Step(), potential=Step()), Dense(1)],
    ids=["final", "every step", "shaped", "initial"],
)
def test_the_reward_to_go_of_a_gate_gives_the_gradient_of_its_return(reward):
    """By enumeration: a_0, a_1 in {0, 1} with p(1) = sigmoid(theta_h), s_2 = .7 + a_0 + 2 a_1, closed below 1.
    sum_h dlog pi_h R_h is unbiased only if nothing that a later action decides is dropped from an earlier one's return."""
    gate = Gate(reward=reward, gate=Step(), threshold=1.0)
    theta = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)
    actions = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2)
    states = torch.stack(
        [torch.full((4,), 0.7), 0.7 + actions[:, 0], 0.7 + actions @ torch.tensor([1.0, 2.0]).double()]
    )
    paid = gate(Outcome(states[2], torch.zeros(4, dtype=torch.long), 2, lambda h: states[h]))
    log_pi = torch.distributions.Bernoulli(logits=theta).log_prob(actions)
    probability = log_pi.sum(1).exp()
    (exact,) = torch.autograd.grad((probability * paid.total).sum(), theta, retain_graph=True)
    surrogate = (probability.detach()[:, None] * log_pi * reward_to_go(paid.values)).sum()
    torch.testing.assert_close(torch.autograd.grad(surrogate, theta)[0], exact, rtol=1e-12, atol=1e-12)
    assert exact.abs().min() > 0.1


@pytest.mark.parametrize("name", ["type", "keys", "items", "a.b", "forward", "pH-7"])
def test_a_reward_of_a_sum_may_have_any_plain_name(name):
    """Words that torch's modules use themselves are names like others; the columns are named by them."""
    score = Sum(rewards={name: Power(1), "other": Power(2)}, weights={name: 2.0}).score(SAMPLE, COND)
    assert score.value.tolist() == [3.0, 8.0, 24.0]
    assert set(score.parts) == {name, f"{name}/root", "other", "other/root"}
    assert score.parts[name].tolist() == SAMPLE.tolist()


@pytest.mark.parametrize("name", ["", "a/b", "a,b", "two words", "line\nbreak", '"'])
def test_a_name_that_would_break_a_column_is_refused(name):
    with pytest.raises(ValueError, match="letters, digits and"):
        Sum(rewards={name: Power(1)})


class Odd(Power):
    def __init__(self, name) -> None:
        super().__init__(1)
        self.name = name

    def score(self, sample, cond):
        return Score(sample, sample > 0, {self.name: sample})


@pytest.mark.parametrize("name", ["", " ", "line\nbreak", "tab\t"])
def test_a_part_that_would_break_a_column_is_refused_at_once(name):
    with pytest.raises(ShapeError, match="a part named"):
        guarded(Odd(name), Outcome(SAMPLE, COND, steps=1), max_failed=0.9)
    assert guarded(Odd("p-3/share"), Outcome(SAMPLE, COND, steps=1), max_failed=0.0).measured.all()
