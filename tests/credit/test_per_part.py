"""Credit per part against numbers worked out by hand, and against the scale of the parts."""

from dataclasses import replace

import pytest
import torch

from pgdlab.credit.actor_critic import ActorCritic
from pgdlab.credit.per_part import PerPart
from pgdlab.rewards.base import StepRewards
from pgdlab.rewards.combine import Sum
from pgdlab.rewards.dense import EveryStep
from pgdlab.trainers.ppo import PPO
from tests.tiny import Quadratic, planned, tiny_policy, tiny_world


def world_of(scale=1.0, **weights):
    """8 samples in groups of 4; x's first coordinate and -scale times the square of its second."""
    world = tiny_world(tiny_policy(), samples=8, group=4)
    line = Quadratic(slope=(1.0, 0.0), curvature=(0.0, 0.0))
    return replace(
        world, reward=Sum(rewards={"line": line, "bowl": Quadratic((0.0, 0.0), (0.0, scale))}, weights=weights)
    )


def test_by_hand():
    """Two groups of four. line: 1 2 3 6 | 5 5 5 5; bowl: 0 0 4 4 | 1 3 1 3, weight 2; the last row failed.
    Centred by the others' mean, which is 4/3 of the distance to the group's: line -8/3 -4/3 0 4 over sqrt(14/3); equal in the
    second group, nothing. bowl: -8/3 -8/3 8/3 8/3 over sqrt(16/3) = 4/sqrt 3; of 1 3 1: -1 2 -1 over sqrt(4/3)."""
    world = world_of(bowl=2.0)
    line = torch.tensor([1.0, 2.0, 3.0, 6.0, 5.0, 5.0, 5.0, torch.nan])
    bowl = torch.tensor([0.0, 0.0, 4.0, 4.0, 1.0, 3.0, 1.0, torch.nan])
    zero = torch.zeros(8, dtype=torch.float64)
    measured = torch.arange(8) < 7
    paid = StepRewards(zero[:, None], zero, measured, {"line": line, "bowl": bowl})
    first = torch.tensor([-8 / 3, -4 / 3, 0.0, 4.0]) / (14 / 3) ** 0.5
    second = 2 * torch.tensor([-1.0, -1.0, 1.0, 1.0]) * (8 / 3) / (16 / 3) ** 0.5
    third = 2 * torch.tensor([-1.0, 2.0, -1.0]) / (4 / 3) ** 0.5
    expected = torch.cat([first + second, third, torch.zeros(1)]).double()
    got, counts = PerPart().together(world, paid)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    # a unit of a part counts weight / std in its group, 0 where it is dead, over the seven that were measured
    assert counts["part_weight/line"] == pytest.approx(4 * (3 / 14) ** 0.5 / 7, rel=1e-6)
    assert counts["part_weight/bowl"] == pytest.approx((4 * 2 * (3 / 16) ** 0.5 + 3 * 2 * (3 / 4) ** 0.5) / 7, rel=1e-6)


def collected(world, credit):
    return PPO(baseline="group", credit=credit).collect(world, 0)


def test_the_scale_of_a_part_changes_nothing_and_its_weight_does():
    """A thousandfold bowl with the same noise: the same advantages. Without PerPart they differ by hundreds."""
    small, large = (collected(world_of(scale), PerPart()) for scale in (1.0, 1000.0))
    torch.testing.assert_close(small.advantage, large.advantage)
    plain = [collected(world_of(scale), PPO().credit).advantage for scale in (1.0, 1000.0)]
    assert (plain[0] - plain[1]).abs().max() > 10
    assert not torch.allclose(collected(world_of(bowl=3.0), PerPart()).advantage, small.advantage)
    # what is logged is the plain sum
    assert large.logs["reward"] == pytest.approx(large.logs["reward/line"] + large.logs["reward/bowl"])


def test_one_part_is_grpo():
    """Its advantages are centred once more, which changes nothing: the others' mean of centred values is their own
    distance over 1 - G, so that G/(G-1) comes in twice."""
    world = world_of()
    world = replace(world, reward=Sum(rewards={"line": Quadratic((1.0, 0.0), (0.0, 0.0))}))
    per_part, grpo = collected(world, PerPart()), PPO(baseline="group", scale="group_std").collect(world, 0)
    torch.testing.assert_close(per_part.advantage, grpo.advantage * 4 / 3)


def test_a_floor_above_every_spread_is_the_plain_sum():
    """Divided by the floors: the advantages of a Sum of weights w_k / floor_k, which has an optimum. A floor below every spread
    changes nothing, and a floor is of its part alone."""
    floors = {"line": 40.0, "bowl": 80.0}
    world = world_of(bowl=2.0)
    plain = replace(world, reward=Sum(rewards=world.reward._each(), weights={"line": 1 / 40, "bowl": 2 / 80}))
    got = collected(world, PerPart(floors=floors))
    # centred twice, by the three others each time
    torch.testing.assert_close(got.advantage, collected(plain, PPO().credit).advantage * 4 / 3, rtol=1e-6, atol=1e-9)
    assert got.logs["part_weight/bowl"] == pytest.approx(2 / 80)
    free = collected(world, PerPart()).advantage
    torch.testing.assert_close(collected(world, PerPart(floors={"line": 1e-6})).advantage, free)
    assert not torch.allclose(collected(world, PerPart(floors={"line": 40.0})).advantage, free)


def test_a_pass_mark_that_nearly_all_pass_does_not_rule():
    """7 of 8 pass: std (1/8)^.5 = .354 of n - 1, so that a unit of it counts 2.83 times; with a floor of .5 twice."""
    world = planned(world_of(), samples=8, group=8)
    zero = torch.zeros(8, dtype=torch.float64)
    parts = {"line": torch.arange(8.0).double(), "bowl": torch.tensor([0.0] + [1.0] * 7).double()}
    paid = StepRewards(zero[:, None], zero, torch.ones(8, dtype=torch.bool), parts)
    counts = [PerPart(floors=floors).together(world, paid)[1]["part_weight/bowl"] for floors in ({}, {"bowl": 0.5})]
    assert counts == pytest.approx([8**0.5, 2.0], rel=1e-12)


@pytest.mark.parametrize("floors", [{"line": -1.0}, {"other": 1.0}])
def test_wrong_floors_are_refused(floors):
    with pytest.raises(ValueError, match=r"numbers of at least 0 for parts of the sum: \['bowl', 'line'\]"):
        PPO(credit=PerPart(floors=floors)).refuse(world_of())


@pytest.mark.parametrize(
    "reward",
    [Quadratic(), Sum(rewards={"dense": EveryStep(reward=Quadratic())})],
    ids=["no sum", "paid on the way"],
)
def test_other_rewards_are_refused(reward):
    world = replace(world_of(), reward=reward)
    with pytest.raises(ValueError, match="needs a reward that is a Sum"):
        PPO(credit=PerPart()).refuse(world)


def test_it_asks_the_credit_inside():
    """An actor-critic inside brings its critic."""
    world = world_of()
    assert PerPart(credit=ActorCritic()).equip(world).critic is not None
    assert PerPart().equip(world).critic is None
