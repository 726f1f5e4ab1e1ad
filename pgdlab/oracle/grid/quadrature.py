"""Gaussian expectations of functions on a uniform grid, also of functions that jump."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from pgdlab.oracle.grid.spline import TAPS, Box, coefficients, weights

REACH = 7.0  # standard deviations that are integrated over on each side: the rest is 3e-12
NARROW = 1.25  # cells: a narrower Gaussian is integrated by Gauss-Hermite on the spline, not by the trapezoid rule
HERMITE = 9  # its nodes
BLOCK = 64  # outputs of a convolution that share one Toeplitz matrix
JUMP = 6.0  # sixth difference / range of its seven values from which a function counts as jumping there
NOISE = 1e-7  # of the widest range: sixth differences that are not looked at
SIXTH = np.array([1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0])
SUBSAMPLES = {1: 129, 2: 13}  # per axis, to average a cell where the function jumps

Function = Callable[[Tensor], Tensor]  # points (P, D) -> channels (P, C)


def margin(box: Box, std: float, reach: float) -> tuple[int, ...]:
    """Nodes that an expectation over `reach` stds needs beyond the box on each side of each axis."""
    return tuple(math.ceil(reach * max(std / float(d), 1.0)) + 1 for d in box.spacing)


def expectation(
    values: Float[Tensor, "C *M"], box: Box, std: float, tilt: float | None = None, reach: float = REACH
) -> Float[Tensor, "C *N"]:
    """E[f(z)], z ~ N(y, std^2 I), at the nodes y of the box, from f at the nodes of box.padded(margin(box, std, reach)).

    tilt: channel 0 becomes tilt log E[exp(f_0 / tilt)], and the others E[f_c exp(f_0 / tilt)] / E[exp(f_0 / tilt)].
    Trapezoid rule (its error for std >= 1.25 cells is below 1e-13), or 9 Gauss-Hermite nodes where std is smaller. A
    function that jumps is not resolved then: std counts as one cell, which keeps the result between the function's
    least and largest value, and shows in the difference between two grids.
    """
    out = values
    scale = 1.0 if tilt is None else tilt
    jumps = bool(rough(values[:1]).any())
    out = torch.cat([out[:1] / scale, out[1:]])
    for axis, (cells, spacing) in enumerate(zip(margin(box, std, reach), box.spacing, strict=True)):
        width = std / float(spacing)
        lines = out.movedim(axis + 1, 1)
        along = hermite if width < NARROW and not jumps else trapezoid
        width = max(width, 1.0) if jumps else width
        out = along(lines, width, cells, tilt is not None).movedim(1, axis + 1)
    return torch.cat([out[:1] * scale, out[1:]])


def trapezoid(lines: Float[Tensor, "C M *R"], width: float, cells: int, tilted: bool) -> Float[Tensor, "C N *R"]:
    """Along axis 1 with weights proportional to exp(-k^2 / 2 width^2), k in cells; `cells` fewer at both ends."""
    k = torch.arange(-cells, cells + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (k / width) ** 2)
    kernel, n = kernel / kernel.sum(), lines.shape[1] - 2 * cells
    matrix = torch.zeros(BLOCK, BLOCK + len(kernel) - 1, dtype=torch.float64)
    for row in range(BLOCK):
        matrix[row, row : row + len(kernel)] = kernel
    blocks = []
    for first in range(0, n, BLOCK):
        rows = min(BLOCK, n - first)
        window = lines[:, first : first + rows + len(kernel) - 1]
        blocks.append(weighted(matrix[:rows, : window.shape[1]], window, tilted))
    return torch.cat(blocks, 1)


def weighted(matrix: Float[Tensor, "A B"], window: Float[Tensor, "C B *R"], tilted: bool) -> Float[Tensor, "C A *R"]:
    """matrix @ window, or channel 0 as log(matrix @ exp) and the others weighted by matrix * exp."""
    if not tilted:
        return torch.tensordot(window, matrix, ([1], [1])).movedim(-1, 1)
    highest = window[0].amax(0, keepdim=True)
    mass = (window[0] - highest).exp()
    total = torch.tensordot(matrix, mass, 1).clamp(min=1e-300)
    others = torch.tensordot(window[1:] * mass, matrix, ([1], [1])).movedim(-1, 1) / total
    return torch.cat([(total.log() + highest)[None], others])


def hermite(lines: Float[Tensor, "C M *R"], width: float, cells: int, tilted: bool) -> Float[Tensor, "C N *R"]:
    """Along axis 1: sum_q w_q f(y + width xi_q), f the spline of the values; `cells` fewer at both ends."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(HERMITE)
    table, n = coefficients(lines.movedim(1, 0)).movedim(0, 1), lines.shape[1] - 2 * cells
    shifted = []
    for offset in width * nodes:
        whole = math.floor(offset)
        taps = weights(torch.tensor(offset - whole, dtype=torch.float64))
        first = cells + whole
        six = torch.stack([table[:, first + k : first + k + n] for k in range(TAPS)], -1)
        shifted.append(six @ taps)
    window = torch.stack(shifted, 1)  # (C, Q, N, *R)
    row = torch.from_numpy(mass / mass.sum())[None]
    return weighted(row, window, tilted)[:, 0]


def rough(values: Float[Tensor, "C *M"]) -> Bool[Tensor, " *M"]:
    """Nodes next to a jump: where the sixth difference is above 6 times the range of the seven values that it is made of,
    after a straight line is taken out (a jump has 12, a kink 4 at most, a step smoothed by a Gaussian of .8 cells 3).
    Jumps below 1e-7 of the widest channel's range are let pass."""
    found = np.zeros(values.shape[1:], dtype=bool)
    line = np.linspace(0, 1, 7)
    noise = NOISE * float((values.flatten(1).amax(1) - values.flatten(1).amin(1)).max())
    for f in values.numpy():
        for axis in range(f.ndim):
            seven = sliding_window_view(f, 7, axis=axis)
            bent = seven - seven[..., :1] - (seven[..., -1:] - seven[..., :1]) * line
            limit = JUMP * (bent.max(-1) - bent.min(-1)) + noise
            inner = (slice(None),) * axis + (slice(3, -3),)
            found[inner] |= np.abs(bent @ SIXTH) > limit
    return torch.from_numpy(found)


def sampled(f: Function, box: Box, channels: int, merge: Function) -> Float[Tensor, "C *N"]:
    """f at the nodes of a box; where one of its first `channels` jumps, its values all over the node's
    cell as `merge`, (P, S, C) -> (P, C), averages them.

    So that sums over nodes against a smooth density keep the mass on either side of a jump: the position of a jump is
    then known to a cell / SUBSAMPLES, not to a cell.
    """
    points = box.nodes()
    values = f(points)
    grid = values.mT.reshape(-1, *box.shape)
    bad = rough(grid[:channels]).flatten()
    if not bad.any():
        return grid
    per_axis = SUBSAMPLES[len(box.shape)]
    inner = Box(-box.spacing * (1 - 1 / per_axis) / 2, box.spacing / per_axis, (per_axis,) * len(box.shape)).nodes()
    averages = [
        merge(f((some[:, None] + inner).flatten(0, 1)).unflatten(0, (len(some), len(inner))))
        for some in points[bad].split(1024)
    ]
    values[bad] = torch.cat(averages)
    return values.mT.reshape(-1, *box.shape)
