"""PointMaze (gymnasium-robotics, MuJoCo) in closed loop: a ball is pushed through a maze to a goal."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pgdlab.control.environment import Seeds
from pgdlab.control.gymnasium import GymnasiumEnvironment
from pgdlab.planning.maps import FREE, GAP, WALL, Map
from pgdlab.planning.search import distances

MEDIUM = (
    "########",
    "#..##..#",
    "#..#...#",
    "##...###",
    "#..#...#",
    "#.#..#.#",
    "#...#..#",
    "########",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class PointMaze(GymnasiumEnvironment):
    """The ball's place and speed and the goal's place -> a push in x and in y, from -1 to 1. 1 is paid where the goal is reached,
    which ends the episode; start and goal are anywhere in the map.

    map: rows of # and ., see pgdlab.planning.maps.Map; the default is PointMaze_Medium-v3's. stiffness, damping, expert_noise: of
    the scripted controller, which pushes with stiffness (aim - place) - damping speed, at most 1, + N(0, expert_noise^2), at most
    1 again, to the next cell of a shortest path.
    """

    needs: ClassVar[tuple[str, ...]] = ("gymnasium", "gymnasium_robotics", "mujoco")
    extra: ClassVar[str] = "planning"
    map: tuple[str, ...] = MEDIUM
    limit: int = 400
    stiffness: float = 10.0
    damping: float = 1.0
    expert_noise: float = 0.5
    observation: ClassVar[int] = 6  # type: ignore[misc]
    action: ClassVar[int] = 2  # type: ignore[misc]
    has_goal: ClassVar[bool] = True  # type: ignore[misc]
    name: str = "pointmaze"

    def __post_init__(self) -> None:
        if self.limit < 1 or min(self.stiffness, self.damping, self.expert_noise) < 0:
            raise ValueError("limit must be at least 1; stiffness, damping and expert_noise at least 0")
        if self.grid.cells(GAP) or len(self.grid.cells(FREE)) < 2:
            raise ValueError(
                f"map is of walls, {WALL}, and two free cells or more, {FREE}: no cell of an episode is blocked"
            )

    @functools.cached_property
    def grid(self) -> Map:
        """The map."""
        return Map(self.map)

    def make(self) -> Any:
        import gymnasium

        cells = [[int(c == WALL) for c in row] for row in self.grid.rows]
        return gymnasium.make(
            "PointMaze_Medium-v3", maze_map=cells, continuing_task=False, max_episode_steps=self.limit,
            disable_env_checker=True,
        )  # fmt: skip

    def seen(self, observation: Any) -> Float[NDArray[np.float64], " O"]:
        return np.concatenate([observation["observation"], observation["desired_goal"]])

    def succeeded(self, info: dict[str, Any]) -> bool:
        return bool(info["success"])

    @functools.cached_property
    def onward(self) -> Int[Tensor, "S S"]:
        """[from, to]: the neighbour of a free cell that is nearest to another cell. Cells as i W + j."""
        grid, walls = self.grid, self.grid.walls.numpy()
        table = torch.arange(grid.height * grid.width)[:, None].repeat(1, grid.height * grid.width)
        for to in grid.cells(FREE):
            far = distances(walls, to, diagonal=False)
            if not np.isfinite(far[~walls]).all():
                raise ValueError(f"map is in two parts: cell {to} cannot be reached from everywhere")
            for i, j in grid.cells(FREE):
                near = [(far[n], n) for n in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)) if not walls[n]]
                here = i * grid.width + j, to[0] * grid.width + to[1]
                table[here] = here[1] if (i, j) == to else int(np.dot(min(near)[1], (grid.width, 1)))
        return table

    def expert(self, observation: Float[Tensor, "R O"], seeds: Seeds) -> Float[Tensor, "R A"]:
        place, speed, goal = observation.double().split(2, 1)
        width = self.grid.width
        here, there = (self.cell(x) for x in (place, goal))
        next_ = self.onward[here, there]
        centre = self.grid.centre(torch.stack([next_ // width, next_ % width], 1)).double()
        aim = torch.where((next_ == there)[:, None], goal, centre)
        noise = torch.from_numpy(np.stack([seed.standard_normal(2) for seed in seeds]))
        push = self.stiffness * (aim - place) - self.damping * speed
        return (push.clamp(-1, 1) + self.expert_noise * noise).clamp(-1, 1)

    def cell(self, place: Float[Tensor, "R 2"]) -> Int[Tensor, " R"]:
        """The cells that points are in, as i W + j."""
        j = (place[:, 0] + self.grid.width / 2).floor().long()
        i = (self.grid.height / 2 - place[:, 1]).floor().long()
        return i * self.grid.width + j

    def report(self, ways: dict[str, list[Float[Tensor, "_ O"]]], folder: Path) -> list[Path]:
        from pgdlab.planning.episodes import animation, picture

        places = {title: [way[:, :2].numpy() for way in each] for title, each in ways.items()}
        goals = [way[0, 4:].numpy() for way in next(iter(ways.values()))]
        return [
            picture(places, goals, self.grid, folder / "episodes.png"),
            animation(places, goals, self.grid, folder / "episodes.gif"),
        ]
