"""Darcy flow on the unit square: -div(K grad p) = f, no flux through the boundary, p of zero mean.

The problem is that of Zhu and Zabaras 2018 (arXiv:1801.06879) and Bastek et al. 2024 (arXiv:2403.14404): log K is a Gaussian
field, f is 10 in one corner and -10 in the opposite one. Cells of a square grid, 5-point finite volumes: the flux through a
face is the harmonic mean of its two cells' K times the difference of their p. fp64 throughout.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

LENGTH, MODES = 0.1, 64  # of the exponential kernel; of its largest eigenfunctions
STRENGTH, WIDTH = 10.0, 0.125  # of the source; of its two corners

Array = NDArray[np.float64]


def require_size(size: int) -> None:
    """Raises ValueError for a grid whose cells do not fill the corners of the source."""
    if size < 8 or size % 8:
        raise ValueError(f"size is {size}; it must be a multiple of 8: the source fills corners of width {WIDTH}")


def source(size: int) -> Float[Array, "S S"]:
    """f in every cell: STRENGTH in the corner at the origin, -STRENGTH in the opposite one."""
    wide, found = round(WIDTH * size), np.zeros((size, size))
    found[:wide, :wide], found[-wide:, -wide:] = STRENGTH, -STRENGTH
    return found


@functools.cache
def modes(size: int) -> Float[Array, "M C"]:
    """The MODES largest eigenfunctions of exp(-|x - y| / LENGTH) on the cells' centres, times the roots of their eigenvalues."""
    at = (np.arange(size) + 0.5) / size
    points = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    kernel = np.exp(-np.linalg.norm(points[:, None] - points[None], axis=-1) / LENGTH)
    values, vectors = np.linalg.eigh(kernel)
    found: Array = (vectors[:, -MODES:] * np.sqrt(values[-MODES:])).T
    return found


def log_permeability(count: int, size: int, rng: np.random.Generator) -> Float[Array, "N S S"]:
    """Draws log K: a centred Gaussian field, a Karhunen-Loeve sum of MODES terms. Any grid gets the same coefficients."""
    field: Array = (rng.standard_normal((count, MODES)) @ modes(size)).reshape(count, size, size)
    return field


def conductances(log_k: Float[Array, "*B S S"]) -> tuple[Array, Array]:
    """Harmonic means of K at the inner faces, over the squared width of a cell: across rows (*B, S-1, S), and columns."""
    resistance = np.exp(-log_k) / log_k.shape[-1] ** 2
    return (
        2 / (resistance[..., 1:, :] + resistance[..., :-1, :]),
        2 / (resistance[..., :, 1:] + resistance[..., :, :-1]),
    )


def residual(log_k: Float[Array, "*B S S"], p: Float[Array, "*B S S"]) -> Float[Array, "*B S S"]:
    """-div(K grad p) - f in every cell, by the stencil that the data are solved with."""
    down, right = conductances(log_k)
    out = np.zeros(np.broadcast_shapes(log_k.shape, p.shape))
    flux = down * (p[..., 1:, :] - p[..., :-1, :])
    out[..., :-1, :] -= flux
    out[..., 1:, :] += flux
    flux = right * (p[..., :, 1:] - p[..., :, :-1])
    out[..., :, :-1] -= flux
    out[..., :, 1:] += flux
    return out - source(log_k.shape[-1])


def residual_with_gradient(log_k: Float[Tensor, "B S S"], p: Float[Tensor, "B S S"]) -> Float[Tensor, "B S S"]:
    """The same in torch, with gradients."""
    pad = torch.nn.functional.pad
    resistance = (-log_k).exp() / log_k.shape[-1] ** 2
    down = p.diff(dim=1) * 2 / (resistance[:, 1:] + resistance[:, :-1])
    right = p.diff(dim=2) * 2 / (resistance[:, :, 1:] + resistance[:, :, :-1])
    out = -pad(down, (0, 0, 1, 1)).diff(dim=1) - pad(right, (1, 1)).diff(dim=2)
    return out - torch.from_numpy(source(log_k.shape[-1])).to(out)


@functools.cache
def waves(size: int) -> tuple[Float[Array, "S S"], Float[Array, "S S"]]:
    """Orthonormal cosines, a row each, that no flux leaves, and what the stencil of K = 1 multiplies their products by; inf for
    the constant, which it makes 0."""
    k, at = np.arange(size), (np.arange(size) + 0.5) / size
    rows = np.cos(np.pi * k[:, None] * at) * np.sqrt(np.where(k, 2, 1) / size)[:, None]
    each = 4 * size**2 * np.sin(np.pi * k / size / 2) ** 2
    factor = each[:, None] + each
    factor[0, 0] = np.inf
    return rows, factor


def relative_residual(log_k: Any, p: Any, effect: bool = False) -> Any:
    """What the residual is worth in pressure, over the pressure: ||L^-1 R|| / ||p||, (*B, S, S) -> (*B), numpy's or torch's (then
    with gradients). effect: over what K does to it, ||L^-1 R|| / ||p - q||. L and q are stencil and pressure of an even K, the
    geometric mean of the field's own.

    What is rough does not weigh more, as it does in R, and both are the same for K c and p / c. Where K is nearly even the second
    is the same for log K and p - q times c; not finite where p is q.
    """
    exact, norm = (torch, torch.linalg.norm) if isinstance(p, Tensor) else (np, np.linalg.norm)
    left = (residual_with_gradient if exact is torch else residual)(log_k, p)
    known: tuple[Any, ...] = (*waves(p.shape[-1]), solve(np.zeros(p.shape[-2:])))
    rows, factor, even = (torch.from_numpy(x).to(p) for x in known) if exact is torch else known
    mean = exact.exp(log_k.mean((-2, -1)))[..., None, None]
    wrong = rows.T @ (rows @ left @ rows.T / factor) @ rows / mean
    whole = p - even / mean if effect else p
    return norm(wrong.reshape(*p.shape[:-2], -1), axis=-1) / norm(whole.reshape(*p.shape[:-2], -1), axis=-1)


def solve(log_k: Float[Array, "S S"]) -> Float[Array, "S S"]:
    """p of one log K, by a sparse LU decomposition. The law fixes p up to a constant: one cell is held at 0, its own equation
    left out (the sum of all says nothing), and the mean taken off. Raises ValueError where log K is not finite, RuntimeError
    where the matrix is singular to working precision."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    size = log_k.shape[-1]
    down, right = (c.ravel() for c in conductances(log_k))
    if not (np.isfinite(down).all() and np.isfinite(right).all() and min(down.min(), right.min()) > 0):
        raise ValueError("log K is not finite, or so large that a face conducts nothing, or everything, in fp64")
    cell = np.arange(size * size).reshape(size, size)
    one = np.concatenate([cell[:-1].ravel(), cell[:, :-1].ravel()])
    two = np.concatenate([cell[1:].ravel(), cell[:, 1:].ravel()])
    c = np.concatenate([down, right])
    rows, columns = np.concatenate([one, two, one, two]), np.concatenate([one, two, two, one])
    matrix = coo_matrix((np.concatenate([c, c, -c, -c]), (rows, columns))).tocsc()[1:, 1:]
    p = np.concatenate([[0.0], splu(matrix).solve(source(size).ravel()[1:])])
    if not np.isfinite(p).all():
        raise RuntimeError("the solver found a pressure that is not finite")
    return (p - p.mean()).reshape(size, size)


def relative_error(log_k: Float[Array, "B S S"], p: Float[Array, "B S S"]) -> Float[Array, " B"]:
    """||p - p*|| / ||p*||, p* solved again from log K; nan where the solver fails."""
    found = np.full(len(p), np.nan)
    for i, (field, given) in enumerate(zip(log_k, p, strict=True)):
        try:
            with np.errstate(all="ignore"):  # what overflows is refused
                exact = solve(field)
        except (ValueError, RuntimeError, OverflowError):
            continue
        found[i] = np.linalg.norm(given - exact) / np.linalg.norm(exact)
    return found


def draw(count: int, size: int, seed: int) -> Float[Tensor, "N 2 S S"]:
    """Samples of the law: log K and p, in fp64."""
    log_k = log_permeability(count, size, np.random.default_rng(seed))
    return torch.from_numpy(np.stack([log_k, np.stack([solve(field) for field in log_k])], 1))
