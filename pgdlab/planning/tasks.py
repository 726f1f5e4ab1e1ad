"""Tasks: a layout of blocks, a start and a goal. A table of them is what the numbers of conditions stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.planning.maps import FREE, GAP, Map
from pgdlab.planning.search import distances

TRIES = 200  # draws of a layout, or of a pair of cells, before a map is said to have none
JITTER = 0.25  # of start and goal around the centres of their cells, as in PointMaze


@dataclass(frozen=True)
class Tasks:
    """T tasks: where blocks and walls are, the cells and the coordinates of start and goal, and the length of the shortest path
    over cells (steps to the side 1, diagonal ones 2^(1/2))."""

    occupied: Bool[Tensor, "T H W"]
    cells: Int[Tensor, "T 2 2"]
    ends: Float[Tensor, "T 2 2"]
    shortest: Float[Tensor, " T"]

    def __len__(self) -> int:
        return len(self.ends)

    @classmethod
    def joined(cls, parts: Sequence[Tasks]) -> Tasks:
        """One table after the other."""
        names = ("occupied", "cells", "ends", "shortest")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def drawn(map_: Map, count: int, blocks: int, apart: float, seed: int) -> Tasks:
    """`count` tasks, each with its own layout of `blocks` blocks, and a start and a goal that are at least `apart` from each
    other by the shortest path. Raises ValueError where a map has none: too many blocks, or cells that cannot be reached."""
    generator = np.random.default_rng(seed)
    if blocks > len(map_.cells(GAP)):
        raise ValueError(f"blocks is {blocks}; the map has {len(map_.cells(GAP))} cells for them, marked {GAP}")
    rows = [one(map_, blocks, apart, generator) for _ in range(count)]
    occupied, cells, shortest = zip(*rows, strict=True)
    placed = torch.from_numpy(np.array(cells)).long()
    shift = torch.from_numpy(generator.uniform(-JITTER, JITTER, (count, 2, 2)))
    return Tasks(
        torch.from_numpy(np.stack(occupied)), placed, (map_.centre(placed) + shift).float(),
        torch.tensor(shortest, dtype=torch.float32),
    )  # fmt: skip


def one(
    map_: Map, blocks: int, apart: float, generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "H W"], list[tuple[int, int]], float]:
    """A layout, the cells of start and goal, and the shortest path's length."""
    gaps, free = map_.cells(GAP), map_.cells(FREE + GAP)
    for _ in range(TRIES):
        occupied = map_.walls.numpy().copy()
        for k in generator.choice(len(gaps), blocks, replace=False) if blocks else ():
            occupied[gaps[int(k)]] = True
        start = free[int(generator.integers(len(free)))]
        if occupied[start]:
            continue
        far = distances(occupied, start)
        goals = np.argwhere(np.isfinite(far) & (far >= apart))
        if len(goals):
            i, j = goals[generator.integers(len(goals))]
            return occupied, [start, (int(i), int(j))], float(far[i, j])
    raise ValueError(
        f"no start and goal that are {apart:g} apart and joined by a path were found in {TRIES} layouts of {blocks} blocks: take "
        "fewer blocks, a smaller distance (domain.apart), or a map whose free cells are joined"
    )
