"""Shortest paths over the free cells of a map, by Dijkstra (scipy)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

Cell = tuple[int, int]
STEPS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))  # straight ones first


def edges(
    occupied: Bool[NDArray[np.bool_], "H W"], diagonal: bool = False
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """From, to (cells as i W + j) and length of the steps between free cells. diagonal: also past a corner where both cells
    beside it are free."""
    height, width = occupied.shape
    number = np.arange(height * width).reshape(height, width)
    free = ~occupied
    found = []
    for down, right in STEPS if diagonal else STEPS[:4]:
        i, j = np.nonzero(free)
        to_i, to_j = i + down, j + right
        inside = (to_i >= 0) & (to_i < height) & (to_j >= 0) & (to_j < width)
        i, j, to_i, to_j = i[inside], j[inside], to_i[inside], to_j[inside]
        open_ = free[to_i, to_j] & free[to_i, j] & free[i, to_j]
        pair = number[i[open_], j[open_]], number[to_i[open_], to_j[open_]]
        found.append((*pair, np.full(open_.sum(), np.hypot(down, right))))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def distances(
    occupied: Bool[NDArray[np.bool_], "H W"], start: Cell, diagonal: bool = True
) -> Float[NDArray[np.float64], "H W"]:
    """The length of the shortest path from a cell to every cell; inf where there is none."""
    from_, to, weight = edges(occupied, diagonal)
    size = occupied.size
    graph = csr_array((weight, (from_, to)), shape=(size, size))
    return dijkstra(graph, indices=start[0] * occupied.shape[1] + start[1]).reshape(occupied.shape)


def random_path(
    occupied: Bool[NDArray[np.bool_], "H W"], start: Cell, goal: Cell, spread: float, generator: np.random.Generator
) -> list[Cell]:
    """The shortest path where the cost of entering a cell is exp(spread z), z ~ N(0, 1): several ways round. Raises ValueError
    where there is none."""
    from_, to, _ = edges(occupied)
    height, width = occupied.shape
    cost = np.exp(spread * generator.standard_normal(height * width))
    graph = csr_array((cost[to], (from_, to)), shape=(occupied.size, occupied.size))
    first, last = start[0] * width + start[1], goal[0] * width + goal[1]
    _, before = dijkstra(graph, indices=first, return_predecessors=True)
    found = [last]
    while found[-1] != first:
        if before[found[-1]] < 0:
            raise ValueError(f"no path leads from cell {start} to cell {goal}: the goal cannot be reached")
        found.append(int(before[found[-1]]))
    return [divmod(cell, width) for cell in reversed(found)]
