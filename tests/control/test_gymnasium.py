"""Environments of gymnasium: what they tell, what they are seeded with, what of them fails, and PointMaze's expert."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium_robotics")
pytest.importorskip("mujoco")

from pgdlab.control.episodes import Loop
from pgdlab.domains.control import Control
from pgdlab.planning.point_maze import PointMaze
from tests.control.boxes import Walking


def seed(environment: int, number: int) -> np.random.Generator:
    return np.random.default_rng([environment, number])


def acted(loop: Loop, push: torch.Tensor, chunks: int) -> None:
    """As many chunks of one action, the same each time."""
    for _ in range(chunks):
        loop.act(push[:, None, None])


def test_ends_and_cuts_are_kept_apart_and_the_last_observation_is_seen() -> None:
    """From s in [0, 1) by 0.8 a step it ends beyond 2: after the second step where s > 0.4, else after the third; by 0 a step it
    is cut off after the fourth. What is seen after an end is where it ended, not where the next episode began."""
    loop = Loop(Walking(), 3, 4, seed)
    start = loop.observation[:, 0].clone()
    push = torch.tensor([0.8, 0.0, 5.0]).double()  # 5 is put back to 1
    acted(loop, push, 4)
    found = loop.episodes(torch.arange(12))
    ended, cut = found.table(found.terminated), found.table(found.truncated)
    steps = [next(k for k in range(1, 5) if start[n] + k * move > 2) for n, move in ((0, 0.8), (2, 1.0))]
    assert [int(ended[n].int().argmax()) + 1 for n in (0, 2)] == steps
    assert found.length.tolist() == [steps[0], 4, steps[1]]
    assert cut[1].tolist() == [False, False, False, True]
    assert not ended[1].any()
    assert found.success.tolist() == [True, False, True]
    assert found.returns.tolist() == [1, 0, 1]
    for n, move in ((0, 0.8), (2, 1.0)):
        last = steps[0 if n == 0 else 1]
        assert loop.afters[last - 1][n].item() == pytest.approx(
            start[n].item() + last * move, rel=1e-6
        )  # of a box of fp32
        assert len(found.ways()[n]) == last + 1
        torch.testing.assert_close(
            found.ways()[n][:, 0], start[n] + move * torch.arange(last + 1.0).double(), rtol=1e-6, atol=0
        )
    assert len(found.ways()[1]) == 5


def test_what_raises_and_what_is_not_a_number_is_counted_and_begins_anew() -> None:
    """Copy 0 walks up and raises beyond 1.5, copy 1 walks down and gives NaN below -1.5, copy 2 stays."""
    trouble = Walking(limit=5, trouble=lambda place: "raises" if place > 1.5 else "nan" if place < -1.5 else "")
    loop = Loop(trouble, 3, 3, seed)
    push = torch.tensor([1.0, -1.0, 0.0]).double()
    says = "environment walk raised RuntimeError: the floor gave way; its episode is over"
    with pytest.warns(UserWarning, match=says):
        acted(loop, push, 3)
    found = loop.episodes(torch.arange(9))
    failures = (~found.table(found.measured)).sum(1).tolist()
    assert failures[0] >= 1
    assert failures[1] == 1
    assert failures[2] == 0
    assert found.whole.tolist() == [False, False, True]
    assert loop.number == [1 + failures[0], 2, 1]
    assert found.reward.isfinite().all()
    assert loop.observation.isfinite().all()


def test_without_the_extra_it_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mujoco" else real(name))
    with pytest.raises(ValueError, match=r"of mujoco, which is not installed: pip install .*\[planning\]'"):
        Control(environment=PointMaze(), demonstrations=5)


def played(rows: list[int], environment: PointMaze) -> torch.Tensor:
    """What is seen in these environments of all, under actions that depend on their number."""
    copies, every = environment.copies(len(rows)), torch.arange(len(rows))
    seen = [copies.reset(every, [seed(row, 0) for row in rows])]
    for t in range(20):
        actions = torch.tensor([[np.sin(row + t), np.cos(2 * row - t)] for row in rows])
        seen.append(copies.step(every, actions).observation)
    return torch.stack(seen, 1)


def test_an_episode_is_its_seeds_whatever_simulator_it_is_in() -> None:
    """Four mazes at once, then two processes' halves in simulators that have had other episodes, in another order: the same to
    the last bit. Two seeds are two episodes."""
    environment = PointMaze()
    whole = played([0, 1, 2, 3], environment)
    assert len(environment.idle) == 4  # given back
    assert torch.equal(played([3, 2], environment), whole[[3, 2]])
    assert torch.equal(played([1, 0], environment), whole[[1, 0]])
    assert len(environment.idle) == 4
    assert not torch.equal(whole[0, 0], whole[1, 0])


def test_the_expert_goes_round_the_walls() -> None:
    """It reaches every goal, in 10 mazes; in a U of two arms it goes the long way round, by hand."""
    environment = PointMaze()
    loop = Loop(environment, 10, 400, seed)
    hands = [np.random.default_rng([k, 9]) for k in range(10)]
    for _ in range(400):
        loop.act(environment.expert(loop.observation, hands)[:, None])
        if not loop.first.any():
            break
    assert loop.success.all()
    u = PointMaze(map=("#####", "#.#.#", "#.#.#", "#...#", "#####"), expert_noise=0.0)
    start, goal = u.grid.centre(torch.tensor([[1, 1], [1, 3]])).unbind(0)
    far = u.onward[1 * 5 + 1, 1 * 5 + 3].item()
    assert far == 2 * 5 + 1  # down
    steps, at = 0, 1 * 5 + 1
    while at != 1 * 5 + 3:
        at, steps = int(u.onward[at, 1 * 5 + 3]), steps + 1
    assert steps == 6
    pushed = u.expert(torch.cat([start, torch.zeros(2), goal])[None], [seed(0, 0)])
    assert pushed.tolist() == [[0.0, -1.0]]  # a cell down; at stiffness 10 the push is at its bound
    near = torch.cat([goal + torch.tensor([0.01, 0.05]), torch.tensor([0.1, 0.2]), goal])[None].double()
    # 10 times what is left, less the speed
    torch.testing.assert_close(u.expert(near, [seed(0, 0)]), torch.tensor([[-0.2, -0.7]]).double(), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="in two parts"):
        PointMaze(map=("#####", "#.#.#", "#####")).onward  # noqa: B018
    with pytest.raises(ValueError, match="no cell of an episode is blocked"):
        PointMaze(map=("#####", "#.o.#", "#####"))
