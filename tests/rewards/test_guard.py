"""Rewards that fail: masked where they may be, the end of the run where they fail too often."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from pgdlab.molecules.batch import Molecules
from pgdlab.rewards.base import Outcome, Reward, Score, ShapeError, StepRewards, terminal
from pgdlab.rewards.combine import Gate, Sum
from pgdlab.rewards.dense import EveryStep
from pgdlab.rewards.guard import LONGEST, RewardError, _Search, guarded
from pgdlab.rewards.molecule.validity import Distinct


class Scripted(Reward):
    """Values are the samples, and whatever a function does with them."""

    def __init__(self, change: Callable[[Tensor], Score]) -> None:
        super().__init__()
        self.change = change
        self.sizes: list[int] = []

    def score(self, sample: Any, cond: Tensor) -> Score:
        self.sizes.append(len(sample))
        return self.change(sample)


def outcome(*values: float, steps: int = 3) -> Outcome:
    return Outcome(torch.tensor(values, dtype=torch.float32), torch.zeros(len(values), dtype=torch.long), steps)


def plain(x: Tensor) -> Score:
    return Score.of(x, double=2 * x)


def raises_at(bad: float) -> Callable[[Tensor], Score]:
    def change(x: Tensor) -> Score:
        if (x == bad).any():
            raise RuntimeError(f"cannot score {bad}")
        return plain(x)

    return change


def test_nothing_fails() -> None:
    paid = guarded(Scripted(plain), outcome(1, 2, 3), 0.0)
    assert paid.values.tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3]]
    assert paid.measured.tolist() == [True] * 3
    assert paid.parts["double"].tolist() == [2, 4, 6]
    assert paid.values.dtype == torch.float64


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_masked(bad: float) -> None:
    paid = guarded(Scripted(plain), outcome(1, bad, 3, 4), 0.25)
    assert paid.measured.tolist() == [True, False, True, True]
    assert paid.total.tolist() == [1, 0, 3, 4]


def test_a_scorer_may_say_that_it_failed() -> None:
    paid = guarded(Scripted(lambda x: Score(x, x < 3)), outcome(1, 2, 3, 4), 0.5)
    assert paid.measured.tolist() == [True, True, False, False]
    assert paid.total.tolist() == [1, 2, 0, 0]


class StartPays(Reward):
    """A reward on s_0 that is not finite for one sample."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return plain(sample)

    def forward(self, outcome: Outcome) -> StepRewards:
        return StepRewards(torch.zeros(len(outcome), 3).double(), outcome.sample.double(), outcome.cond == 0, {})


def test_what_the_initial_state_earns_is_masked_too() -> None:
    paid = guarded(StartPays(), outcome(1, math.nan, 3), 0.5)
    assert paid.measured.tolist() == [True, False, True]
    assert paid.initial.tolist() == [1, 0, 3]


@pytest.mark.parametrize("at", range(7))
def test_one_sample_that_raises_costs_only_itself(at: int) -> None:
    values = [float(i) for i in range(7)]
    reward = Scripted(raises_at(at))
    paid = guarded(reward, outcome(*values), 0.2)
    assert paid.measured.tolist() == [i != at for i in range(7)]
    assert paid.total.tolist() == [0.0 if i == at else i for i in range(7)]
    rest = [i for i in range(7) if i != at]
    assert paid.parts["double"][rest].tolist() == [2 * i for i in rest]
    assert math.isnan(paid.parts["double"][at])
    assert len(reward.sizes) <= 2 * 7, "it is halved, not tried one by one again and again"


def test_estimates_are_cut_with_the_samples() -> None:
    """A reward of intermediate states sees the rows of its own half."""

    class Early(Scripted):
        def needs_estimates(self) -> bool:
            return True

        def forward(self, outcome: Outcome) -> StepRewards:
            assert outcome.estimate is not None
            self.score(outcome.sample, outcome.cond)
            early = outcome.estimate(0).double()
            return StepRewards(early[:, None].expand(-1, 3), torch.zeros_like(early), torch.ones_like(early) > 0, {})

    seen = Outcome(torch.arange(5.0), torch.zeros(5, dtype=torch.long), 3, lambda h: 10 * torch.arange(5.0) + h)
    paid = guarded(Early(raises_at(3.0)), seen, 0.5)
    assert paid.values[:, 0].tolist() == [0, 10, 20, 0, 40]


def test_a_reward_that_always_raises_stops_the_run_and_says_why() -> None:
    def broken(x: Tensor) -> Score:
        raise KeyError("no such property")

    with pytest.raises(
        RewardError, match=r"reward Scripted failed on at least 50% of 4 samples .*KeyError\('no such property'\)"
    ) as e:
        guarded(Scripted(broken), outcome(1, 2, 3, 4), 0.25)
    assert isinstance(e.value.__cause__, KeyError)


def test_too_many_nans_stop_the_run() -> None:
    with pytest.raises(
        RewardError, match=r"failed on 50% of 4 samples \(plan.max_failed allows 25%\); values were not"
    ):
        guarded(Scripted(lambda x: Score.of(torch.where(x > 2, torch.nan, x))), outcome(1, 2, 3, 4), 0.25)


SHAPES = {
    "values of shape (3,), expected (4,)": lambda x: Score.of(x[1:]),
    "values of shape (4, 1), expected (4,)": lambda x: Score.of(x[:, None]),
    "values of shape (), expected (4,)": lambda x: Score.of(x.mean()),
    "double of shape (1,), expected (4,)": lambda x: Score.of(x, double=x[:1]),
    "measured of shape (2,), expected (4,)": lambda x: Score(x, torch.ones(2, dtype=torch.bool)),
    "a Tensor: return Score.of(values)": lambda x: x,
    "a float: return Score.of(values)": lambda x: 0.5,
    "a list: return Score.of(values)": lambda x: x.tolist(),
}


@pytest.mark.parametrize("said", SHAPES)
@pytest.mark.parametrize("inside", [None, "EveryStep", "Gate"])
def test_what_is_no_value_a_sample_is_named(said: str, inside: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's run sees it: without the checks of annotations that tests have. No sample is tried by itself."""
    monkeypatch.setitem(jaxtyping.config.__dict__, "jaxtyping_disable", True)
    bad: Reward = Scripted(SHAPES[said])
    seen = outcome(1, 2, 3, 4)
    if inside == "EveryStep":
        bad, seen = EveryStep(reward=bad), replace(seen, estimate=lambda h: seen.sample)
    if inside == "Gate":
        bad = Gate(reward=Scripted(plain), gate=bad)
    with pytest.raises(ShapeError, match=f"reward Scripted returned {re.escape(said)}"):
        guarded(bad, seen, 0.9)


def test_what_a_reward_of_its_own_forward_pays_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Scripted):
        def forward(self, seen: Outcome) -> StepRewards:
            return terminal(self.scored(seen.sample, seen.cond), seen.steps + 1)

    with pytest.raises(ShapeError, match=r"reward Own returned values of shape \(2, 4\), expected \(2, 3\)"):
        guarded(Own(plain), outcome(1, 2), 0.9)


@pytest.mark.parametrize(("failed", "of"), [(3, 10), (1, 10), (7, 10), (1, 3), (29, 100)])
def test_the_limit_itself_is_allowed(failed: int, of: int) -> None:
    """1 - mean(measured) would be 0.30000000000000004 for 3 of 10."""
    values = [math.nan] * failed + [1.0] * (of - failed)
    assert int(guarded(Scripted(plain), outcome(*values), failed / of).measured.sum()) == of - failed
    with pytest.raises(RewardError):
        guarded(Scripted(plain), outcome(*values), (failed - 0.5) / of)


def test_interrupts_are_not_swallowed() -> None:
    def stop(x: Tensor) -> Score:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(Scripted(stop), outcome(1, 2), 1.0)


def test_no_gradient_reaches_a_reward() -> None:
    """A reward network in a policy-gradient run is never differentiated."""
    weight = torch.ones((), requires_grad=True)
    paid = guarded(Scripted(lambda x: Score.of(weight * x)), outcome(1, 2), 0.0)
    assert not paid.values.requires_grad


@pytest.mark.parametrize("at", [-1, 0, 37])
def test_every_row_that_was_scored_is_counted(at: int) -> None:
    """Finding a bad sample scores rows again. Row 0: the batch, rows 0 and 1, the halves of the rest. Row 37: the batch, row 0,
    the other 63, and halves of them: 32 + 16 + 8 + 4 + 2."""
    reward = Scripted(raises_at(at))
    paid = guarded(reward, outcome(*[float(i) for i in range(64)]), 0.25)
    assert paid.queries == sum(reward.sizes) == {-1: 64, 0: 64 + 2 + 62, 37: 64 + 1 + 63 + 62}[at]


def test_what_a_reward_pays_is_moved_to_where_the_conditions_are() -> None:
    """A scorer may work on the CPU while the policy is on a GPU; the meta device stands for that one here."""
    seen = replace(outcome(1, 2), cond=torch.zeros(2, dtype=torch.long, device="meta"))
    paid = _Search(Scripted(plain), seen, 1.0).attempt(seen)
    assert paid is not None
    every = (paid.values, paid.initial, paid.measured, *paid.parts.values())
    assert {x.device.type for x in every} == {"meta"}


def test_a_reward_is_scored_in_batches_of_its_own_size() -> None:
    """Values, what was measured and parts are those of one call, whatever the reward stands in; a batch never has more rows."""
    sizes: list[int] = []

    class Counting(Reward):
        batch = 3

        def score(self, sample, cond):
            sizes.append(len(sample))
            return Score(sample.double() + cond, sample > 2, {"twice": 2 * sample})

    seen = outcome(*[float(i) for i in range(8)])
    whole = Counting()
    whole.batch = 0
    for wrapped in (lambda r: r, lambda r: Sum(rewards={"x": r})):
        expected = guarded(wrapped(whole), seen, 0.5)
        sizes.clear()
        got = guarded(wrapped(Counting()), seen, 0.5)
        assert sizes == [3, 3, 2]
        assert torch.equal(got.values, expected.values)
        assert torch.equal(got.measured, expected.measured)
        assert got.parts.keys() == expected.parts.keys()
        assert all(torch.equal(got.parts[name], part) for name, part in expected.parts.items())
    assert got.queries == 8


UNFIT = {
    "values as a ndarray": lambda x: Score(x.numpy(), torch.ones(4, dtype=torch.bool)),
    "Score.of was given values as a ndarray; it takes tensors: torch.as_tensor(values)": lambda x: Score.of(x.numpy()),
    "Score.of was given ink as a list": lambda x: Score.of(x, ink=[1.0] * 4),
    "complex values: take the real part, or the modulus": lambda x: Score.of(torch.complex(x, x)),
    "complex phase": lambda x: Score.of(x, phase=torch.complex(x, x)),
    "measured as torch.float32, expected torch.bool": lambda x: Score(x, torch.ones(4)),
    "measured as torch.int64, expected torch.bool": lambda x: Score(x, torch.ones(4, dtype=torch.long)),
    "values of shape (4, 1), expected (4,): leave the last dimension out": lambda x: Score.of(x[:, None]),
    "a part named ''": lambda x: Score.of(x, **{"": x}),
    "a part named 'a,b'": lambda x: Score.of(x, **{"a,b": x}),
    "a part named 'a\\nb'": lambda x: Score.of(x, **{"a\nb": x}),
    "a part named '/a'": lambda x: Score.of(x, **{"/a": x}),
}


@pytest.mark.parametrize("said", UNFIT)
def test_what_no_column_and_no_mean_can_take_is_named(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jaxtyping.config.__dict__, "jaxtyping_disable", True)
    reward = Scripted(UNFIT[said])
    with pytest.raises(ShapeError, match=re.escape(said)):
        guarded(reward, outcome(1, 2, 3, 4), 0.9)
    assert reward.sizes == [4]


def test_whole_numbers_and_truth_values_are_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jaxtyping.config.__dict__, "jaxtyping_disable", True)
    for change in (lambda x: Score.of(x.long()), lambda x: Score.of(x > 1.5)):
        assert guarded(Scripted(change), outcome(1, 2), 0.0).total.tolist() in ([1, 2], [0, 1])


@pytest.mark.parametrize("limit", [0.0, 0.25])
def test_a_mistake_of_the_rewards_own_is_found_with_few_calls(limit: float) -> None:
    """As many single samples are tried as the limit needs: of 16 samples a fourth and one, after the batch."""

    def broken(x: Tensor) -> Score:
        raise KeyError("x" * 5000)

    reward = Scripted(broken)
    with pytest.raises(RewardError, match="KeyError") as stopped:
        guarded(reward, outcome(*range(16)), limit)
    assert reward.sizes == [16] + [1] * (int(16 * limit) + 1)
    assert LONGEST < len(str(stopped.value)) < LONGEST + 300
    assert "(5,012 characters)" in str(stopped.value)


def test_with_other_processes_every_row_is_tried_before_all_stop_alike() -> None:
    def broken(x: Tensor) -> Score:
        raise KeyError("x")

    reward, asked = Scripted(broken), []
    with pytest.raises(RewardError, match="100% of 8 samples"):
        guarded(reward, outcome(1, 2, 3, 4), 0.0, lambda x: asked.append(len(x)) or torch.cat([x, x]))
    assert asked == [4]


class Company(Reward):
    """Raises on methane, else 1."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        if any(m.smiles == "C" for m in sample):
            raise RuntimeError("no methane")
        return Score.of(torch.ones(len(cond), dtype=torch.float64))


@pytest.mark.parametrize("at", range(8))
def test_copies_are_paid_once_where_another_sample_raises(at: int) -> None:
    """Seven ethanes and a methane, wherever it stands: the first ethane alone is worth something."""
    smiles = ["CC"] * 7
    smiles.insert(at, "C")
    seen = Outcome(Molecules.from_smiles(smiles), torch.zeros(8, dtype=torch.long), 2)
    paid = guarded(Distinct(reward=Company()), seen, 0.5)
    assert paid.total.tolist() == [float(i == (at == 0)) for i in range(8)]
    assert paid.measured.tolist() == [i != at for i in range(8)]
    assert paid.parts["first"].nan_to_num(-1).tolist() == [-1 if i == at else float(i == (at == 0)) for i in range(8)]


def test_what_a_reward_writes_into_its_samples_stays_with_it() -> None:
    class Writing(Scripted):
        def score(self, sample: Any, cond: Tensor) -> Score:
            score = super().score(sample, cond)
            sample.mul_(0)
            cond.add_(1)
            return score

    class WritingItself(Writing):
        def forward(self, outcome: Outcome) -> StepRewards:
            return terminal(self.score(outcome.sample, outcome.cond), outcome.steps)

    for reward in (Writing(raises_at(3)), WritingItself(raises_at(3)), Sum(rewards={"a": Writing(plain)})):
        seen = outcome(1, 2, 3, 4)
        guarded(reward, seen, 0.5)
        assert seen.sample.tolist() == [1, 2, 3, 4]
        assert seen.cond.tolist() == [0] * 4
    both = Sum(rewards={"first": Writing(lambda x: plain(1 * x)), "second": Scripted(plain)})
    assert guarded(both, outcome(1, 2), 0.0).total.tolist() == [2, 4]


def test_a_reward_that_goes_elsewhere_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()

    def leaves(x: Tensor) -> Score:
        os.chdir("x")
        if (x == 2).any():
            raise RuntimeError
        return plain(x)

    guarded(Scripted(leaves), outcome(1, 2, 3), 0.5)
    assert Path.cwd() == tmp_path


def test_a_reward_that_ends_the_program_is_an_error() -> None:
    def ends(x: Tensor) -> Score:
        sys.exit(0)

    with pytest.raises(ShapeError, match=r"reward Scripted asked to end the program \(sys.exit\(0\)\)"):
        guarded(Scripted(ends), outcome(1, 2), 1.0)


def test_trajectories_are_picked_in_any_order() -> None:
    seen = Outcome(torch.arange(4.0), torch.arange(4), 2, lambda h: torch.arange(4.0) + 10 * h)
    picked = seen.some([3, 0])
    assert (picked.sample.tolist(), picked.cond.tolist()) == ([3, 0], [3, 0])
    assert picked.estimate is not None
    assert picked.estimate(1).tolist() == [13, 10]
    molecules = Outcome(Molecules.from_smiles(["C", "CC", "O"]), torch.zeros(3), 2).some([2, 1])
    assert [m.smiles for m in molecules.sample] == ["O", "CC"]


@pytest.mark.parametrize("name", ["", "x y", "a/b", "a,b"])
def test_a_sums_reward_is_named_as_a_column_can_be(name: str) -> None:
    with pytest.raises(ValueError, match="a name is a column of the figures"):
        Sum(rewards={name: Scripted(plain)})
