"""Maps of cells, in the coordinates of PointMaze (gymnasium-robotics): walls, blocks, and how far a point is from them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WALL, FREE, GAP = "#", ".", "o"
RADIUS = 0.1  # of the ball that PointMaze moves
PILLARS = (
    "#########",
    "#.o.o.o.#",
    "#o#o#o#o#",
    "#.o.o.o.#",
    "#o#o#o#o#",
    "#.o.o.o.#",
    "#o#o#o#o#",
    "#.o.o.o.#",
    "#########",
)  # fmt: skip


@dataclass(frozen=True)
class Map:
    """Rows of cells of side 1: "#" a wall, "." free, "o" free, and where a block may be put. The centre of cell (i, j) is at
    x = j + 1/2 - width / 2, y = height / 2 - i - 1/2. Raises ValueError for what is no map."""

    rows: tuple[str, ...] = PILLARS

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        odd = sorted({c for row in self.rows for c in row} - {WALL, FREE, GAP})
        if odd or len(self.rows) < 3 or len({len(row) for row in self.rows}) != 1:
            raise ValueError(
                f"map must be 3 rows or more of one length, of # (wall), . (free) and o (free, a block may be there); "
                f"it has {len(self.rows)} rows of {sorted({len(row) for row in self.rows})} cells"
                + (f" and {''.join(odd)!r}" if odd else "")
            )
        edge = self.rows[0] + self.rows[-1] + "".join(row[:: len(row) - 1] for row in self.rows)
        if set(edge) != {WALL}:
            raise ValueError("map is open: the cells at its edge must all be walls, #")

    @property
    def height(self) -> int:
        """Rows."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """Cells in a row."""
        return len(self.rows[0])

    @functools.cached_property
    def walls(self) -> Bool[Tensor, "H W"]:
        """Where walls are, without any blocks."""
        return torch.tensor([[c == WALL for c in row] for row in self.rows])

    def cells(self, kinds: str) -> Sequence[tuple[int, int]]:
        """The cells (i, j) of these kinds, row by row."""
        return [(i, j) for i, row in enumerate(self.rows) for j, c in enumerate(row) if c in kinds]

    def centre(self, cells: Tensor) -> Float[Tensor, "... 2"]:
        """Cells (..., 2) -> the coordinates of their centres."""
        i, j = cells.unbind(-1)
        return torch.stack([j + 0.5 - self.width / 2, self.height / 2 - i - 0.5], -1)


def clearance(points: Float[Tensor, "B N 2"], occupied: Bool[Tensor, "B H W"]) -> Float[Tensor, "B N"]:
    """The distance of points to the nearest occupied cell, below 0 inside of one (then minus the way out of it), at most 1: of
    the nine cells around a point. Outside of the map it is minus the way back. Gradients pass; it is not smooth where two cells
    are as near."""
    height, width = occupied.shape[1:]
    there = torch.nn.functional.pad(occupied, (1, 1, 1, 1), value=True)
    column, row = points[..., 0] + width / 2, height / 2 - points[..., 1]
    j = column.detach().floor().long().clamp(0, width - 1)
    i = row.detach().floor().long().clamp(0, height - 1)
    batch = torch.arange(len(points), device=points.device)[:, None]
    nearest = torch.ones_like(column)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            off_x = (column - (j + right + 0.5)).abs() - 0.5
            off_y = (row - (i + down + 0.5)).abs() - 0.5
            squared = off_x.clamp_min(0).square() + off_y.clamp_min(0).square()
            outside = squared.where(squared > 0, 1.0).sqrt().where(squared > 0, 0.0)
            distance = outside + torch.maximum(off_x, off_y).clamp_max(0)
            taken = there[batch, i + down + 1, j + right + 1]
            nearest = torch.where(taken, torch.minimum(nearest, distance), nearest)
    outside = torch.maximum(points[..., 0].abs() - width / 2, points[..., 1].abs() - height / 2)
    return torch.where(outside > 0, -outside, nearest)


def along(path: Float[Tensor, "B N 2"], between: int = 4) -> Float[Tensor, "B M 2"]:
    """Points along the lines from waypoint to waypoint, `between` a line, and the last waypoint."""
    share = torch.arange(between, device=path.device, dtype=path.dtype)[:, None] / between
    lines = path[:, :-1, None] * (1 - share) + path[:, 1:, None] * share
    return torch.cat([lines.flatten(1, 2), path[:, -1:]], 1)


def length(path: Float[Tensor, "B N 2"]) -> Float[Tensor, " B"]:
    """Of the lines from waypoint to waypoint."""
    return path.diff(dim=1).norm(dim=2).sum(1)
