"""max_m G(m) - a/2 |m - y|^2 on a grid: the best mean of a Gaussian step, for every y at once."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.oracle.grid.spline import Box, Spline

CLIMBS = 12  # Newton steps at most, from the best node's mean: quadratic convergence needs 3 or 4
CLOSE = 1e-5  # cells: a shorter step is the last one (the value's error is the square)


def best_nodes(values: Float[Tensor, " *N"], spacing: Float[Tensor, " D"], curvature: float, reach: float) -> Tensor:
    """For each node y, the node m (as indices, (*N, D)) that maximises G(m) - curvature/2 |m - y|^2.

    The penalty is a sum over axes, so one axis after the other is exact. reach: no |m - y| beyond it is tried per axis.
    """
    chosen: list[Tensor] = []
    for axis in reversed(range(values.ndim)):
        cells = min(int(reach / float(spacing[axis]) + 1e-9), values.shape[axis] - 1)
        values, index = best_along(values, axis, cells, curvature * float(spacing[axis]) ** 2 / 2)
        chosen = [index, *(torch.gather(other, axis, index) for other in chosen)]
    return torch.stack(chosen, -1)


def best_along(
    values: Float[Tensor, " *N"], axis: int, cells: int, cost: float
) -> tuple[Float[Tensor, " *N"], Int[Tensor, " *N"]]:
    """max_j values[j] - cost (i - j)^2 over |i - j| <= cells along an axis, and its j."""
    lines, n = values.movedim(axis, 0), values.shape[axis]
    best, offset = lines.clone(), torch.zeros_like(lines, dtype=torch.long)
    for k in range(1, cells + 1):
        for to, source, sign in ((slice(0, n - k), slice(k, n), k), (slice(k, n), slice(0, n - k), -k)):
            other = lines[source] - cost * k * k
            better = other > best[to]
            best[to] = torch.where(better, other, best[to])
            offset[to] = torch.where(better, sign, offset[to])
    index = offset + torch.arange(n).reshape(-1, *[1] * (values.ndim - 1))
    return best.movedim(0, axis), index.movedim(0, axis)


def climb(
    g: Spline, y: Float[Tensor, "P D"], start: Float[Tensor, "P D"], curvature: float, radius: float
) -> Float[Tensor, "P D"]:
    """Newton's method from `start` to a local maximum of g(m) - curvature/2 |m - y|^2 with |m - y| <= radius per axis.

    The Hessian is shifted until it is negative, a step that does not improve is taken back and shortened.
    """
    low, high = g.box.nearest(y - radius), g.box.nearest(y + radius)
    found, shorter = start.clamp(low, high), torch.ones(len(y), 1, dtype=y.dtype)
    reached = penalised(g, found, y, curvature)
    going = torch.arange(len(y))
    for _ in range(CLIMBS):
        m, to, least, most = found[going], y[going], low[going], high[going]
        step = (shorter[going] * newton(g, m, to, curvature, least, most)).clamp(-2 * g.box.spacing, 2 * g.box.spacing)
        tried = (m + step).clamp(least, most)
        value = penalised(g, tried, to, curvature)
        better = value > reached[going]
        found[going[better]], reached[going[better]] = tried[better], value[better]
        shorter[going] = torch.where(better[:, None], 1.0, shorter[going] / 4)
        going = going[(step.abs() > CLOSE * g.box.spacing).any(1)]
        if not len(going):
            break
    return found


def penalised(g: Spline, m: Float[Tensor, "P D"], y: Float[Tensor, "P D"], curvature: float) -> Float[Tensor, " P"]:
    """g(m) - curvature/2 |m - y|^2."""
    return g(m)[:, 0] - curvature / 2 * (m - y).square().sum(1)


def newton(
    g: Spline, m: Float[Tensor, "P D"], y: Float[Tensor, "P D"], curvature: float, low: Tensor, high: Tensor
) -> Float[Tensor, "P D"]:
    """-(H - shift)^-1 gradient; coordinates that are at a bound and pushed out of it stay."""
    slope, bend = (part[:, 0] for part in g.derivatives(m))
    slope = slope - curvature * (m - y)
    held = ((m <= low) & (slope < 0)) | ((m >= high) & (slope > 0))
    slope = slope.masked_fill(held, 0.0)
    eye = torch.eye(m.shape[1], dtype=m.dtype)
    bend = (bend - curvature * eye).masked_fill(held[:, :, None] | held[:, None, :], 0.0) - held[:, :, None] * eye
    size = bend.abs().amax((1, 2)).clamp(min=1e-12)
    shift = (largest_eigenvalue(bend) + 1e-3 * size).clamp(min=0)
    return -solve(bend - shift[:, None, None] * eye, slope)


def largest_eigenvalue(a: Float[Tensor, "P D D"]) -> Float[Tensor, " P"]:
    """Of symmetric 1x1 or 2x2 matrices."""
    if a.shape[1] == 1:
        return a[:, 0, 0]
    half, difference = (a[:, 0, 0] + a[:, 1, 1]) / 2, (a[:, 0, 0] - a[:, 1, 1]) / 2
    return half + (difference.square() + a[:, 0, 1].square()).sqrt()


def solve(a: Float[Tensor, "P D D"], b: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
    """a^-1 b of 1x1 or 2x2 matrices by Cramer's rule."""
    if a.shape[1] == 1:
        return b / a[:, 0]
    determinant = a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]
    first = a[:, 1, 1] * b[:, 0] - a[:, 0, 1] * b[:, 1]
    second = a[:, 0, 0] * b[:, 1] - a[:, 1, 0] * b[:, 0]
    return torch.stack([first, second], 1) / determinant[:, None]


def corners(box: Box, y: Float[Tensor, "P D"]) -> list[Int[Tensor, "P D"]]:
    """The indices of the 2^D nodes around each y."""
    top = torch.tensor(box.shape) - 2
    cell = ((y - box.low) / box.spacing).floor().long().clamp(min=torch.zeros_like(top), max=top)
    return [cell + torch.tensor(corner) for corner in itertools.product((0, 1), repeat=y.shape[1])]


def maximise(
    g: Spline, nodes: Int[Tensor, "*N D"], y: Float[Tensor, "P D"], curvature: float, radius: float
) -> Float[Tensor, "P D"]:
    """argmax_m g(m) - curvature/2 |m - y|^2, |m - y| <= radius per axis: Newton from the best of what best_nodes found
    for the nodes around y. No local maximum is taken for the global one, as long as the grid separates them."""
    best = start = None
    for index in corners(g.box, y):
        m = g.box.low + g.box.spacing * nodes[tuple(index.unbind(1))]
        m = m.clamp(y - radius, y + radius)
        value = penalised(g, m, y, curvature)
        if best is None or start is None:
            best, start = value, m
        else:
            start = torch.where((value > best)[:, None], m, start)
            best = torch.maximum(best, value)
    assert start is not None
    return climb(g, y, start, curvature, radius)
