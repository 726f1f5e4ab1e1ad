"""Functions on a uniform grid of one or two dimensions: nodes, and their quintic spline interpolant."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.linalg import solve_banded
from torch import Tensor

TAPS = 6  # B-splines of degree 5 that differ from 0 at a point
CHUNK = 1 << 16  # points evaluated at a time


@dataclass(frozen=True)
class Box:
    """The nodes low + spacing * i, i in 0 .. shape - 1 per axis."""

    low: Float[Tensor, " D"]
    spacing: Float[Tensor, " D"]
    shape: tuple[int, ...]

    @property
    def high(self) -> Float[Tensor, " D"]:
        return self.low + self.spacing * (torch.tensor(self.shape) - 1)

    def nodes(self) -> Float[Tensor, "N D"]:
        """All nodes, the last axis fastest."""
        axes = [
            a + d * torch.arange(n, dtype=torch.float64)
            for a, d, n in zip(self.low, self.spacing, self.shape, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)

    def padded(self, cells: tuple[int, ...]) -> Box:
        """The same nodes and `cells` more on both sides of each axis."""
        more = torch.tensor(cells)
        shape = tuple(n + 2 * c for n, c in zip(self.shape, cells, strict=True))
        return Box(self.low - self.spacing * more, self.spacing, shape)

    def nearest(self, x: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        """x where it is inside, else the closest point of the box."""
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def outside(self, x: Float[Tensor, "P D"]) -> Bool[Tensor, " P"]:
        """Points beyond the outermost nodes."""
        return ((x < self.low) | (x > self.high)).any(1)


def pieces() -> Float[Tensor, "6 6"]:
    """Row k: powers of t in [0, 1) -> the B-spline of degree 5 whose knots start 5 - k cells to the left.

    B(u) = sum_j (-1)^j C(6, j) max(u - j, 0)^5 / 5!   (Schoenberg 1946; de Boor 1978, "A practical guide to splines", ch.
    X), u = t + 5 - k.
    """
    table = np.zeros((TAPS, TAPS))
    for k in range(TAPS):
        for j in range(TAPS - k):
            sign = (-1) ** j * math.comb(6, j) / 120
            for power in range(TAPS):
                table[k, power] += sign * math.comb(5, power) * (5 - k - j) ** (5 - power)
    return torch.from_numpy(table)


PIECES = pieces()


def weights(t: Float[Tensor, "*P"], order: int = 0) -> Float[Tensor, "*P 6"]:
    """The order-th derivatives (per cell^order) of the six B-splines at position t within a cell."""
    fall = torch.tensor([math.perm(p, order) for p in range(order, TAPS)], dtype=torch.float64)
    powers = t[..., None] ** torch.arange(TAPS - order, dtype=torch.float64)
    return (fall * powers) @ PIECES[:, order:].mT


def coefficients(values: Float[Tensor, "N *C"]) -> Float[Tensor, "M *C"]:
    """The N + 4 B-spline coefficients along the first axis that interpolate `values`, with not-a-knot ends: the fifth
    derivative does not jump at the two nodes next to each end."""
    n = len(values)
    if n < 8:
        raise ValueError(f"there are {n} nodes on an axis; for a quintic spline there must be at least 8")
    band = np.zeros((13, n + 4))  # band[6 + row - column, column]
    rows = np.arange(2, n + 2)
    for offset, b in zip(range(-2, 3), (1, 26, 66, 26, 1), strict=True):
        band[6 - offset, rows + offset] = b / 120
    for k in range(7):
        sixth = (-1) ** k * math.comb(6, k)
        for row, first in ((0, 0), (1, 1), (n + 2, n - 4), (n + 3, n - 3)):
            band[6 + row - first - k, first + k] = sixth
    side = np.zeros((n + 4, values[0].numel()))
    side[2:-2] = values.reshape(n, -1).numpy()
    return torch.from_numpy(solve_banded((6, 6), band, side)).reshape(n + 4, *values.shape[1:])


class Spline:
    """C functions known at the nodes of a box, as one quintic spline; linear beyond the box. Differentiable in x."""

    def __init__(self, box: Box, values: Float[Tensor, "C *N"]) -> None:
        self.box = box
        table = values
        for axis in range(1, values.ndim):
            table = coefficients(table.movedim(axis, 0)).movedim(0, axis)
        self.table = table.flatten(1).mT.contiguous()  # (M, C), the last axis fastest

    def __call__(self, x: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        """The values at x."""
        inside = self.box.nearest(x)
        (value,) = self.each(inside, [(0,) * x.shape[1]])
        if (inside == x).all():
            return value
        return value + (self.gradient(inside) * (x - inside)[:, None]).sum(-1)

    def gradient(self, x: Float[Tensor, "P D"]) -> Float[Tensor, "P C D"]:
        """First derivatives at x inside the box."""
        return torch.stack(self.each(x, orders(x.shape[1], 1)), -1)

    def derivatives(self, x: Float[Tensor, "P D"]) -> tuple[Float[Tensor, "P C D"], Float[Tensor, "P C D D"]]:
        """First and second derivatives at x inside the box."""
        d = x.shape[1]
        parts = self.each(x, orders(d, 1) + orders(d, 2))
        second = torch.stack([parts[d + i + j] for i in range(d) for j in range(d)], -1)
        return torch.stack(parts[:d], -1), second.unflatten(-1, (d, d))

    def each(self, x: Float[Tensor, "P D"], wanted: list[tuple[int, ...]]) -> list[Float[Tensor, "P C"]]:
        """Mixed derivatives of those orders along each axis, at x inside the box."""
        parts = [self.piece(some, wanted) for some in x.split(CHUNK)]
        return [torch.cat(same) for same in zip(*parts, strict=True)]

    def piece(self, x: Float[Tensor, "P D"], wanted: list[tuple[int, ...]]) -> list[Float[Tensor, "P C"]]:
        position = ((x - self.box.low) / self.box.spacing).clamp(min=0)
        cell = torch.minimum(position.detach().floor().long(), torch.tensor(self.box.shape) - 2)
        index = torch.zeros(len(x), 1, dtype=torch.long)
        for d, n in enumerate(self.box.shape):
            row = index * (n + TAPS - 2) + cell[:, d, None]
            index = (row[:, :, None] + torch.arange(TAPS)).flatten(1)
        out = []
        for order in wanted:
            w = [weights((position - cell)[:, d], k) / self.box.spacing[d] ** k for d, k in enumerate(order)]
            mass = w[0] if len(w) == 1 else (w[0][:, :, None] * w[1][:, None]).flatten(1)
            out.append(torch.nn.functional.embedding_bag(index, self.table, mode="sum", per_sample_weights=mass))
        return out


def orders(dimension: int, total: int) -> list[tuple[int, ...]]:
    """Orders per axis of the first (total 1) or second derivatives: d/dx, d/dy; d2/dx2, d2/dxdy, d2/dy2."""
    if dimension == 1:
        return [(total,)]
    return [(total - k, k) for k in range(total + 1)]
