"""Plans, executed in PointMaze (gymnasium-robotics, MuJoCo): a controller drives the ball along them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pgdlab.planning.maps import GAP, WALL, Map
from pgdlab.planning.tasks import Tasks

GOAL = 0.45  # within that of the goal it is reached: PointMaze's own
SPEED = 1.5  # cells a second along the plan
PATIENCE = 1.0  # seconds after the plan's end
SHARPNESS = 20.0  # a second: of the controller, critically damped
MISSING = (
    "plans cannot be executed: gymnasium_robotics is not installed (pip install -e '.[planning]'); "
    "domain.executed=0 does without"
)


def installed() -> bool:
    """Whether the extra is there."""
    return all(importlib.util.find_spec(name) for name in ("gymnasium_robotics", "mujoco"))


@dataclass(frozen=True)
class Execution:
    """Of B plans: which reached the goal, which touched a wall or a block on the way, the simulator's steps (of .01 s) that the
    goal took (or that were allowed), and where the ball was at each, one array a plan."""

    reached: Bool[Tensor, " B"]
    touched: Bool[Tensor, " B"]
    steps: Int[Tensor, " B"]
    ways: list[Float[NDArray[np.float64], "_ 2"]]

    def figures(self) -> dict[str, float]:
        """executed: the share that reached the goal and touched nothing on the way; reached: that reached it, sliding along walls
        or not; execution_steps: the mean of those that reached it. The shares with _stderr."""
        clean = (self.reached & ~self.touched).double()
        out: dict[str, float] = {}
        for name, each in (("executed", clean), ("reached", self.reached.double())):
            out[name] = each.mean().item()
            if len(each) > 1:
                out[f"{name}_stderr"] = (each.std() / len(each) ** 0.5).item()
        return out | (
            {"execution_steps": self.steps[self.reached].double().mean().item()} if self.reached.any() else {}
        )


@functools.lru_cache(maxsize=4)
def simulator(map_: Map) -> Any:
    """PointMaze's ball on a map all of whose cells for blocks are blocks: which of them are there is set for each task, since to
    make a simulator takes as long as some thousand steps. Raises ValueError without the extra."""
    if not installed():
        raise ValueError(MISSING)
    with (
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):  # it advertises other environments
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    full = [[int(c in WALL + GAP) for c in row] for row in map_.rows]
    return PointMazeEnv(maze_map=full).point_env


def execute(plan: Float[Tensor, "B P 2"], map_: Map, tasks: Tasks, cond: Int[Tensor, " B"]) -> Execution:
    """Drives the ball along every plan, from its task's start, until its task's goal is reached or the time is over."""
    ball = simulator(map_)
    model = ball.model
    place = {cell: model.geom(f"block_{cell[0]}_{cell[1]}").id for cell in map_.cells(WALL + GAP)}
    walls = np.array(sorted(place.values()))
    found = []
    for way, c in zip(plan.double().cpu().numpy(), cond.tolist(), strict=True):
        for cell in map_.cells(GAP):
            there = int(tasks.occupied[c][cell])
            model.geom_contype[place[cell]] = model.geom_conaffinity[place[cell]] = there
        start, goal = tasks.ends[c].double().numpy()
        found.append(driven(ball, way, start, goal, walls))
    reached, touched, ways = zip(*found, strict=True)
    steps = torch.tensor([len(w) - 1 for w in ways])
    return Execution(torch.tensor(reached), torch.tensor(touched), steps, list(ways))


def driven(
    ball: Any, plan: NDArray[np.float64], start: NDArray[np.float64], goal: NDArray[np.float64], walls: NDArray[np.intp]
) -> tuple[bool, bool, NDArray[np.float64]]:
    """Whether the goal was reached, whether a wall was touched, and the way."""
    far = np.concatenate([[0], np.linalg.norm(np.diff(plan, axis=0), axis=1).cumsum()])
    tick, gear = ball.model.opt.timestep, ball.model.actuator_gear[0, 0]
    mass = ball.model.body("particle").mass[0]
    ball.set_state(start, np.zeros(2))
    way, touched = [start], False
    for step in range(1, int((far[-1] / SPEED + PATIENCE) / tick) + 1):
        now, soon = (
            np.stack([np.interp(min(t * SPEED, far[-1]), far, plan[:, k]) for k in (0, 1)])
            for t in (step * tick, (step + 1) * tick)
        )
        place, speed = ball.data.qpos, ball.data.qvel
        push = SHARPNESS**2 * (now - place) + 2 * SHARPNESS * ((soon - now) / tick - speed)
        ball.step(mass * push / gear)
        way.append(ball.data.qpos.copy())
        touched = touched or bool(np.isin(ball.data.contact.geom, walls).any())
        if np.linalg.norm(way[-1] - goal) <= GOAL:
            return True, touched, np.stack(way)
    return False, touched, np.stack(way)
