"""The common part of the policy-gradient trainers: credit, passes, subsets of steps, what is counted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgdlab.credit.reward_to_go import returns_table
from pgdlab.diffusion.denoisers import ClassifierFreeGuidance
from pgdlab.diffusion.policy import Policy
from pgdlab.penalties.base import Penalty
from pgdlab.penalties.path_kl import PathKL
from pgdlab.processes import Processes
from pgdlab.rewards.base import RewardError, StepRewards
from pgdlab.rewards.dense import EveryStep
from pgdlab.rollout.plan import AllSteps, RandomSteps, Steps, Window
from pgdlab.trainers.interaction import draw_conditions
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.trainers.rwr import RewardWeightedRegression
from pgdlab.world import World
from tests.tiny import Failing, Quadratic, gradient, moved, planned, tiny_policy, tiny_world

EXACT = {"rtol": 1e-11, "atol": 1e-13}  # fp64 sums of some hundred terms in another order
TWICE = PPO(epochs=2, minibatches=3)


def world_of(eta: float = 0.7, times: int = 5, rho: bool = True, denoiser: bool = True, **more: Any) -> World:
    policy = tiny_policy(eta, times, rho=rho, denoiser=denoiser)
    reference = policy.reference()
    more = {"samples": 24, "penalty": PathKL(coefficient=0.5)} | more
    return tiny_world(moved(policy), reference, **more)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    for name in one:
        torch.testing.assert_close(one[name], two[name], **EXACT)


@dataclass(frozen=True)
class These(Steps):
    """A fixed subset with the scale of a random one."""

    trained: tuple[int, ...]

    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        return list(self.trained)


def with_steps(world: World, steps: Steps) -> dict[str, Tensor]:
    world = planned(world, trained_steps=steps)
    return gradient(world, Reinforce())


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("trained", [1, 2, 3])
def test_a_random_subset_of_steps_is_unbiased(trained: int, form: Any) -> None:
    """The average over all subsets is the full gradient, exactly: the trained steps' sum is scaled, rho's terms are not,
    and the KL in the returns covers all steps, trained or not."""
    world = world_of(penalty=PathKL(coefficient=0.5, form=form))
    full = with_steps(world, AllSteps())
    subsets = list(itertools.combinations(world.policy.stochastic_steps, trained))
    parts = [with_steps(world, These(s)) for s in subsets]
    assert len(subsets) == {1: 4, 2: 6, 3: 4}[trained]
    same(full, {name: torch.stack([p[name] for p in parts]).mean(0) for name in full})
    for part in parts:
        same({k: v for k, v in full.items() if "initial" in k}, {k: v for k, v in part.items() if "initial" in k})
    assert (parts[0]["denoiser.shift"] - full["denoiser.shift"]).abs().max() > 1e-3


def test_a_window_is_the_plain_sum_of_its_steps() -> None:
    """Biased, and documented as such: steps outside get no gradient, those inside the full one, unscaled."""
    world = world_of()
    full, part = with_steps(world, AllSteps()), with_steps(world, Window(start=1, stop=3))
    inside = [4 - h for h in (1, 2)]  # times fall
    outside = [t for t in range(5) if t not in inside]
    torch.testing.assert_close(part["denoiser.shift"][inside], full["denoiser.shift"][inside], **EXACT)
    assert torch.equal(part["denoiser.shift"][outside], torch.zeros(3, 2).double())


def test_random_steps_draw_sorted_parts_of_the_right_size_evenly() -> None:
    g, stochastic = torch.Generator().manual_seed(0), [0, 1, 3, 4, 6]
    draws = [RandomSteps(fraction=0.4).select(stochastic, g) for _ in range(500)]
    assert all(d == sorted(set(d)) and len(d) == 2 and set(d) <= set(stochastic) for d in draws)
    assert len({tuple(d) for d in draws}) == 10
    assert RandomSteps(fraction=0.01).select(stochastic, g)
    assert RandomSteps(fraction=0.4).scale(5, 2) == 2.5
    with pytest.raises(ValueError, match=r"holds none of the stochastic steps"):
        Window(start=7, stop=9).select(stochastic, g)


@pytest.mark.parametrize("algorithm", [Reinforce(), TWICE])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_passes_do_not_change_the_gradient(algorithm: Any, size: int) -> None:
    """pass_size changes memory only; every pair and every row appears once."""
    world = world_of()
    experience = algorithm.collect(world, 0)
    whole = gradient(world, algorithm, experience)
    world = planned(world, pass_size=size)
    pieces = algorithm.micro_batches(experience, 0, world)
    assert max(len(p.pairs.index) for p in pieces) <= size
    assert torch.cat([p.rows for p in pieces if p.rows is not None]).sort().values.tolist() == sorted(
        experience.order[0].tensor_split(algorithm.minibatches)[0].tolist()
    )
    same(whole, gradient(world, algorithm, experience))


def test_minibatches_cover_every_trajectory_once_an_epoch() -> None:
    world = world_of()
    experience = TWICE.collect(world, 0)
    rows = [
        torch.cat([p.rows for p in TWICE.micro_batches(experience, k, world) if p.rows is not None]).tolist()
        for k in range(TWICE.updates_per_iteration(world.plan))
    ]
    assert len(rows) == 6
    for epoch in (rows[:3], rows[3:]):
        assert sorted(itertools.chain(*epoch)) == list(range(24))
    assert rows[:3] != rows[3:], "an epoch is a fresh shuffle"


def test_the_minibatches_of_an_epoch_average_to_the_whole() -> None:
    """Equal parts: the mean of the three minibatches' gradients is the full batch's (no update in between)."""
    world = world_of()
    experience = TWICE.collect(world, 0)
    parts = [gradient(world, TWICE, experience, k) for k in range(3)]
    one = PPO(epochs=2, minibatches=1)
    whole = gradient(world, one, one.collect(world, 0))
    same(whole, {name: torch.stack([p[name] for p in parts]).mean(0) for name in whole})


class Share:
    """Two processes in turn: the second pass over the same code knows what the first one had."""

    def __init__(self) -> None:
        self.trained: list[list[Tensor]] = [[], []]

    def run(self, make: Any, algorithm: Any, updates: int) -> list[dict[str, Tensor]]:
        """Collects twice per process (the first time to learn what there is to gather), then sums the gradients."""
        for rank in (0, 1):
            world = make()
            record = self.trained[rank]
            world = replace(
                world, processes=Processes(rank, 2, lambda x, r=record: (r.append(x), torch.cat([x, x]))[1])
            )
            algorithm.collect(world, 0)
        total: list[dict[str, Tensor]] = []
        for rank in (0, 1):
            world, calls = make(), iter(range(len(self.trained[0])))
            world = replace(world, processes=Processes(rank, 2, lambda x, c=calls: self.joined(next(c))))
            experience = algorithm.collect(world, 0)
            total.append(
                {f"{k}/{n}": g for k in range(updates) for n, g in gradient(world, algorithm, experience, k).items()}
            )
        return total

    def joined(self, call: int) -> Tensor:
        return torch.cat([self.trained[0][call], self.trained[1][call]])


@pytest.mark.parametrize("baseline", ["leave_one_out", "group"])
def test_two_processes_give_what_one_gives(baseline: Any) -> None:
    """With unequal numbers of measured samples: both processes' gradients add up to the one of all samples."""

    def make() -> World:
        return world_of(reward=Failing(Quadratic()), max_failed=0.99, train_conditions=(0, 1), samples=24)

    algorithm = PPO(epochs=2, minibatches=3, baseline=baseline, scale="batch_std")
    alone = make()
    experience = algorithm.collect(alone, 0)
    failed = (~experience.measured).nonzero().flatten()
    assert len(failed) > 0
    assert int((failed < 12).sum()) != int((failed >= 12).sum()), "both halves failed alike: the test shows nothing"
    one, two = Share().run(make, algorithm, 6)
    for k in range(6):
        expected = gradient(alone, algorithm, experience, k)
        same(expected, {n: one[f"{k}/{n}"] + two[f"{k}/{n}"] for n in expected})


def test_what_was_not_measured_trains_nothing() -> None:
    """A failed sample's rubbish value enters no mean, no advantage, no KL term and no count."""
    world = world_of(reward=Failing(Quadratic(), above=-0.4), max_failed=0.99)
    experience = Reinforce().collect(world, 0)
    measured = experience.measured
    assert 4 <= int((~measured).sum()) <= 20
    (piece,) = Reinforce().micro_batches(experience, 0, world)
    assert measured[piece.rows].all()
    assert measured[piece.pairs.row].all()
    assert piece.count == int(measured.sum())
    assert torch.equal(experience.advantage[~measured], torch.zeros_like(experience.advantage[~measured]))
    centred = experience.advantage[measured].sum(0)
    torch.testing.assert_close(centred, torch.zeros_like(centred), rtol=0, atol=1e-11)
    clean = world_of(reward=Quadratic()).reward.score(experience.trajectory.sample, experience.trajectory.cond).value
    assert experience.logs["reward"] == pytest.approx(clean[measured].mean().item(), rel=1e-12)
    assert experience.logs["reward_std"] == pytest.approx(np.std(clean[measured].numpy(), ddof=1), rel=1e-12)
    assert experience.logs["failed"] == pytest.approx((~measured).double().mean().item())


def test_columns_of_the_returns() -> None:
    """0 is rho's: everything, and what is paid for s_0 alone. h + 1 is action h's: from its own reward on."""
    paid = StepRewards(
        torch.tensor([[1.0, 10.0, 100.0]]).double(), torch.tensor([0.5]).double(), torch.tensor([True]), {}
    )
    assert returns_table(paid).tolist() == [[111.5, 111, 110, 100]]


def test_credit_by_hand() -> None:
    """The advantage is reward-to-go less the penalty's part, less the others' mean, for the trained steps and for rho."""
    world = world_of()
    world = planned(world, trained_steps=These((0, 2)))
    experience = Reinforce().collect(world, 0)
    out, reward = (
        experience.trajectory,
        world.reward.score(experience.trajectory.sample, experience.trajectory.cond).value,
    )
    columns = [(experience.initial_advantage, 0), (experience.advantage[:, 0], 1), (experience.advantage[:, 1], 3)]
    for got, first in columns:
        r = reward - 0.5 * out.kl[:, first:].sum(1)
        torch.testing.assert_close(got, (r - r.mean()) * 24 / 23, **EXACT)


def test_a_group_shares_its_condition_and_groups_are_drawn_evenly() -> None:
    """Groups are complete and in order."""
    world = world_of(train_conditions=(0, 1), samples=400)
    cond = draw_conditions(world, 3)
    assert (cond.reshape(100, 4) == cond.reshape(100, 4)[:, :1]).all()
    assert 30 < int(cond.reshape(100, 4)[:, 0].sum()) < 70  # four standard errors of 100 fair coins
    assert torch.equal(cond, draw_conditions(world, 3))
    assert not torch.equal(cond, draw_conditions(world, 4))


COUNTED: list[tuple[Penalty | None, bool, bool]] = [
    (penalty, dense, frozen)
    for penalty in (None, PathKL(coefficient=0.5)) for dense in (False, True) for frozen in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("penalty", "dense", "frozen"), COUNTED)
def test_network_evaluations_are_counted(penalty: Penalty | None, dense: bool, frozen: bool) -> None:
    """Rows that really went through the networks. Without a penalty no reference pass is made at stochastic steps."""
    world = world_of(penalty=penalty, denoiser=not frozen, reward=EveryStep(reward=Quadratic()) if dense else None)
    experience = Reinforce().collect(world, 0)
    networks = {id(d): d for d in (world.policy.denoiser, world.reference.denoiser)}.values()
    assert sum(d.rows for d in networks) == experience.evaluations  # type: ignore[misc]
    if not dense and not world.penalties.needs_reference():
        assert experience.evaluations == 24 * 5, "one pass a step"
    assert experience.queries == 24


def test_only_what_trains_gets_a_gradient() -> None:
    for denoiser, rho in ((True, False), (False, True), (True, True)):
        world = world_of(denoiser=denoiser, rho=rho)
        moving = {name.split(".")[0] for name, g in gradient(world, Reinforce()).items() if g.abs().max() > 0}
        assert moving == {name for name, on in (("denoiser", denoiser), ("initial", rho)) if on}


@pytest.mark.parametrize("penalty", [None, PathKL(coefficient=1e-3)])
def test_dead_groups_are_counted_and_train_nothing(penalty: Penalty | None) -> None:
    """In a whole iteration: a binary reward; groups that agree on it have no advantage at all. A KL in the
    returns must not stand in for the reward: divided by its own tiny spread, its noise would be of size 1."""

    class Binary(Quadratic):
        def score(self, sample: Any, cond: Tensor) -> Any:
            return replace(super().score(sample, cond), value=(sample[:, 0] > -0.3).float())

    world = world_of(reward=Binary(), penalty=penalty, samples=64)
    algorithm = PPO(baseline="group", scale="group_std")
    experience = algorithm.collect(world, 0)
    hits = (experience.trajectory.sample[:, 0] > -0.3).reshape(16, 4)
    dead = hits.all(1) | ~hits.any(1)
    assert 0 < int(dead.sum()) < 16
    assert experience.logs["dead_groups"] == pytest.approx(dead.double().mean().item())
    advantage = experience.advantage.reshape(16, 4, -1)
    assert torch.equal(advantage[dead], torch.zeros_like(advantage[dead]))
    assert advantage[~dead].abs().min() > 0.1


def test_logged_kl_covers_all_steps_and_rho() -> None:
    world = world_of(samples=256)
    world = planned(world, trained_steps=These((1,)))
    experience = Reinforce().collect(world, 0)
    logs, out = experience.logs, experience.trajectory
    assert logs["path_kl_nats"] == pytest.approx(out.kl.sum(1).mean().item())
    assert logs["kl_nats"] == pytest.approx(logs["path_kl_nats"] + logs["initial_kl_nats"])
    assert (out.kl[:, :4].mean(0) > 0).all()


def test_iterations_use_fresh_noise() -> None:
    """Keyed by the iteration that the module counts, not by Lightning's epoch."""
    world = world_of()
    first, again, second = (Reinforce().collect(world, k).trajectory.sample for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - second).abs().min() > 0


class Raising(Quadratic):
    """Cannot score a batch with a sample whose first coordinate is above 0.5; knows no part below -0.5."""

    def score(self, sample: Any, cond: Tensor) -> Any:
        if (sample[:, 0] > 0.5).any():
            raise RuntimeError("too far to the right")
        score = super().score(sample, cond)
        return replace(score, parts={"left": sample[:, 0].masked_fill(sample[:, 0] < -0.5, torch.nan)})


@pytest.mark.parametrize("trainer", [Reinforce(), RewardWeightedRegression()])
def test_queries_are_the_rows_that_were_scored(trainer: Any) -> None:
    rows = []

    class Counting(Raising):
        def score(self, sample: Any, cond: Tensor) -> Any:
            rows.append(len(sample))
            return super().score(sample, cond)

    world = tiny_world(reward=Counting(), samples=64, max_failed=0.9)
    assert trainer.collect(world, 0).queries == sum(rows) > 64


def test_a_part_is_averaged_over_its_finite_values() -> None:
    """A part may be unknown where the reward is measured: behind a closed gate, for one."""
    world = tiny_world(reward=Raising(), samples=64, max_failed=0.9)
    experience = Reinforce().collect(world, 0)
    x = experience.trajectory.sample[:, 0]
    assert (x < -0.5).any()
    assert experience.logs["reward/left"] == pytest.approx(x[(x >= -0.5) & experience.measured].mean().item())


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"minibatches": 0}, {"minibatches": 17}, {"epochs": -1}])
def test_numbers_of_updates_that_cannot_be(setting: dict[str, int]) -> None:
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=rf"{name} is {value}; it must be at least 1"):
        PPO(**setting).refuse(tiny_world(samples=16))


def test_samples_that_are_not_finite_are_not_the_rewards_fault() -> None:
    """A decoder may make something of them: argmax of NaN is class 0, a bad molecule and no failure."""
    world = tiny_world(samples=4)
    with torch.no_grad():
        next(world.policy.denoiser.parameters()).fill_(torch.nan)
    with pytest.raises(RewardError, match=r"the policy's samples are not finite: is the learning rate too high"):
        PPO().collect(world, 0)


def test_a_base_that_is_not_finite_is_not_the_learning_rates_fault() -> None:
    """Before anything is trained; and once it is, the base is not blamed."""
    world = tiny_world(samples=4)
    for policy in (world.policy, world.reference):
        policy.denoiser.get_buffer("means").fill_(torch.nan)
    with pytest.raises(RewardError, match=r"the policy is the base's, untrained: look at its scheduler_config.json"):
        PPO().collect(world, 0)
    world = tiny_world(tiny_policy(rho=True, denoiser=False), samples=4)
    with torch.no_grad():
        world.policy.initial.get_parameter("mean").fill_(torch.nan)
    with pytest.raises(RewardError, match=r"is the learning rate too high"):
        PPO().collect(world, 0)


@pytest.mark.parametrize(
    ("settings", "sizes", "said"),
    [
        ({"baseline": "group"}, {"group": 1}, "plan.group is 1: .*trainer.baseline=group"),
        ({"scale": "group_std"}, {"group": 1}, "plan.group is 1: .*trainer.scale=group_std"),
        ({}, {"samples": 1, "group": 1}, "plan.samples is 1: trainer.baseline=leave_one_out has no other sample"),
        ({"baseline": "mean"}, {"samples": 1, "group": 1}, "plan.samples is 1: trainer.baseline=mean has no other"),
    ],
)
def test_samples_that_are_compared_with_themselves_are_refused(settings: Any, sizes: Any, said: str) -> None:
    """The gradient would be 0 whatever they earn."""
    with pytest.raises(ValueError, match=said):
        Reinforce(**settings).refuse(tiny_world(**sizes))
    Reinforce(baseline="none").refuse(tiny_world(**sizes))


def test_one_step_is_refused_for_what_it_is() -> None:
    """It is the step to the sample, which has no noise at any eta."""
    with pytest.raises(ValueError, match=r"policy.steps is 1, and the only step is the one to the sample"):
        Reinforce().refuse(tiny_world(tiny_policy(eta=1.0, steps=1)))
    for steps in (1, 4):
        with pytest.raises(ValueError, match=r"no stochastic step \(eta 0\)"):
            Reinforce().refuse(tiny_world(tiny_policy(eta=0.0, steps=steps)))


def test_guidance_between_an_estimate_and_itself_is_refused() -> None:
    """All prompts mean "none", which is what guidance compares with."""
    plain = tiny_policy()
    guided = Policy(ClassifierFreeGuidance(plain.denoiser, 3.0, 2), plain.space, plain.initial, plain.kernel, 4)
    with pytest.raises(ValueError, match=r"domain.train_conditions has no other"):
        Reinforce().refuse(tiny_world(guided, train_conditions=(2,)))
    Reinforce().refuse(tiny_world(guided, train_conditions=(1, 2)))
    Reinforce().refuse(tiny_world(plain, train_conditions=(2,)))


@pytest.mark.parametrize(("fraction", "trained"), [(0.35, 4), (0.34, 3), (0.04, 1), (1.0, 10)])
def test_random_steps_round_to_the_nearest(fraction: float, trained: int) -> None:
    """Of ten steps: 3.5 are 4 (the even one), 3.4 are 3, and never none."""
    g = torch.Generator().manual_seed(0)
    assert len(RandomSteps(fraction=fraction).select(list(range(10)), g)) == trained
