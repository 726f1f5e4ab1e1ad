"""Rewards of plans, by hand, around one pillar."""

from __future__ import annotations

import pytest
import torch

from pgdlab.diffusion.conditioning import NoLabels
from pgdlab.planning.conditions import TaskTable
from pgdlab.planning.maps import Map
from pgdlab.planning.tasks import Tasks
from pgdlab.rewards.plan.base import PlanReward
from pgdlab.rewards.plan.collision import CollisionFree, CollisionShare, Crossing, Depth, Short

ROOM = Map(("#####", "#ooo#", "#o#o#", "#ooo#", "#####"))
ENDS = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
ROUND = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [0.0, -1.0]], dtype=torch.float64)
THROUGH = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.0, -0.5], [0.0, -1.0]], dtype=torch.float64)
COND = torch.tensor([0, 0, 1])  # around, through, and around where a block is in the way
PLANS = torch.stack([ROUND, THROUGH, ROUND])


def told() -> TaskTable:
    blocked = ROOM.walls.clone()
    blocked[2, 3] = True  # the square from 1/2 to 3/2 and from -1/2 to 1/2
    cells = torch.tensor([[[1, 2], [3, 2]]]).expand(2, -1, -1)
    return TaskTable(
        ROOM, Tasks(torch.stack([ROOM.walls, blocked]), cells, ENDS.expand(2, -1, -1), torch.full((2,), 4.0)), 2.0
    )


def met(reward: PlanReward) -> PlanReward:
    reward.meet(told())
    return reward


def test_a_table_tells_of_blocks_start_and_goal() -> None:
    out = told()(torch.tensor([0, 1, 2]))
    assert torch.equal(out["pinned"][0], ENDS / 2)
    assert out["blocks"].tolist() == [
        [0] * 8,
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0] * 8,
    ]  # row by row, the pillar is none of them
    assert out["cells"][0].tolist() == [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert not out["pinned"][2].any()


def test_values_by_hand() -> None:
    assert met(CollisionFree()).scored(PLANS, COND).value.tolist() == [1, 0, 0]
    # 17 points each: 9 of the straight plan, an eighth apart, are less than .6 from the middle; of the way round, a quarter
    # apart, those at 0, +-1/4 and +-1/2 of the side that the block is on
    expected = torch.tensor([0, -9 / 17, -5 / 17], dtype=torch.float64)
    torch.testing.assert_close(met(CollisionShare()).scored(PLANS, COND).value, expected)
    assert met(Short()).scored(PLANS, COND).value.tolist() == [-4, -2, -4]


def test_depth_by_hand_and_by_finite_differences() -> None:
    """Depths of the straight plan at 0, 1/8, ... from the middle: 1/2, 3/8, 1/4, 1/8, 0, then -1/8, and .2 more by the margin."""
    reward = met(Depth(margin=0.2))
    value = reward.scored(PLANS, COND).value
    through = (0.7 + 2 * (0.575 + 0.45 + 0.325 + 0.2 + 0.075)) / 17
    assert value[:2].tolist() == pytest.approx([0, -through])
    g = torch.Generator().manual_seed(0)
    plans = (THROUGH + 0.1 * torch.randn(3, 5, 2, dtype=torch.float64, generator=g)).requires_grad_()
    assert reward.differentiable
    assert torch.autograd.gradcheck(lambda x: reward.score(x, COND).value, (plans,), eps=1e-7, atol=1e-5)


HURRIED = torch.tensor([[0.0, 1.0], [0.0, 0.9], [0.0, 0.8], [0.0, -0.8], [0.0, -1.0]], dtype=torch.float64)


def test_a_long_step_through_a_wall_crosses_as_much() -> None:
    """Straight through: a triangle of height .75 (half the pillar and the margin) over 1.5 cells, area .5625. In one step of 1.6
    cells, seen at 0, +-.4 and +-.8 from the middle: .4 (.35 + .75 + .35) = .58, while the mean depth falls to a third."""
    reward, plans, cond = met(Crossing(margin=0.25)), torch.stack([ROUND, THROUGH, HURRIED]), torch.tensor([0, 0, 0])
    assert reward.score(plans, cond).value.tolist() == pytest.approx([0, -1.3125, -1.33])
    assert met(Crossing(margin=0.25, deepest=0.0)).score(plans, cond).value.tolist() == pytest.approx(
        [0, -0.5625, -0.58]
    )
    depth = met(Depth(margin=0.25)).score(plans, cond).value
    assert depth[2] > depth[1] / 3
    noise = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = (THROUGH + 0.1 * noise).requires_grad_()
    assert reward.differentiable
    assert torch.autograd.gradcheck(lambda x: reward.score(x, COND).value, (given,), eps=1e-7, atol=1e-5)
    with pytest.raises(ValueError, match="margin is 0"):
        Crossing(margin=0.0)


def test_a_reward_needs_its_tasks() -> None:
    with pytest.raises(ValueError, match="CollisionFree does not know the tasks"):
        CollisionFree().score(PLANS, COND)
    with pytest.raises(ValueError, match="Short scores plans of tasks, and a NoLabels has no tasks"):
        Short().meet(NoLabels(3))
    with pytest.raises(ValueError, match="margin is 1"):
        Depth(margin=1.0)
