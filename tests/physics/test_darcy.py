"""Darcy's solver and residual against a manufactured solution, a dense solve, finite differences and the field's covariance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pgdlab.physics import darcy


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def manufactured_error(size: int) -> float:
    """Mean error of the stencil's -div(K grad p) at log K = x - y / 2, p = cos(pi x) cos(2 pi y), which no flux leaves.

    By hand, with K_x = K and K_y = -K / 2: div(K grad p) = K (p_x - p_y / 2 + p_xx + p_yy).
    """
    at = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(at, at, indexing="ij")
    k, pi = np.exp(x - y / 2), np.pi
    p_x = -pi * np.sin(pi * x) * np.cos(2 * pi * y)
    p_y = -2 * pi * np.cos(pi * x) * np.sin(2 * pi * y)
    p = np.cos(pi * x) * np.cos(2 * pi * y)
    exact = -k * (p_x - p_y / 2 - 5 * pi**2 * p)
    return float(np.abs(darcy.residual(x - y / 2, p) + darcy.source(size) - exact).mean())


def test_the_stencil_is_of_second_order() -> None:
    errors = [manufactured_error(size) for size in (16, 32, 64)]
    assert errors[0] < 1.0  # of values up to 80
    for coarse, fine in itertools.pairwise(errors):
        assert 3.6 < coarse / fine < 4.4  # 4 in the limit


def test_the_solver_is_a_dense_one_of_least_norm() -> None:
    """The matrix of the law, column by column; the solution of least norm is the one of mean zero."""
    size = 8
    log_k = darcy.log_permeability(1, size, rng())[0]
    unit = np.eye(size * size).reshape(-1, size, size)
    matrix = np.stack([darcy.residual(log_k, e) + darcy.source(size) for e in unit], -1).reshape(size * size, -1)
    dense = np.linalg.lstsq(matrix, darcy.source(size).ravel(), rcond=1e-10)[0]
    np.testing.assert_allclose(
        darcy.solve(log_k).ravel(), dense, atol=1e-12
    )  # p is of order .1, the condition number 1e3
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)


@pytest.mark.parametrize("size", [16, 32])
def test_the_data_follow_their_own_stencil(size: int) -> None:
    log_k, p = darcy.draw(4, size, seed=0).numpy().swapaxes(0, 1)
    assert np.abs(darcy.residual(log_k, p)).mean() < 1e-11  # fluxes of order 10 to 100 in fp64
    np.testing.assert_allclose(p.mean((1, 2)), 0, atol=1e-15)
    assert darcy.relative_error(log_k, p).max() < 1e-12
    np.testing.assert_allclose(darcy.relative_error(log_k, 1.25 * p), 0.25, rtol=1e-9)


def test_torch_and_numpy_agree_and_the_gradient_is_that_of_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    log_k, p = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator).unbind()
    by_torch = darcy.residual_with_gradient(log_k, p)
    np.testing.assert_allclose(by_torch, darcy.residual(log_k.numpy(), p.numpy()), rtol=1e-12, atol=1e-10)
    given = [x[:1].requires_grad_() for x in (log_k.clone(), p.clone())]
    torch.autograd.gradcheck(lambda k, p: darcy.residual_with_gradient(k, p)[:, ::3, ::3], given, rtol=1e-4)


def test_flux_is_conserved() -> None:
    """Nothing leaves: the residual of any p sums to minus the source's sum, which is 0."""
    log_k, p = rng().standard_normal((2, 3, 16, 16))
    np.testing.assert_allclose(darcy.residual(log_k, p).sum((1, 2)), 0, atol=1e-9)
    assert (darcy.source(16) != 0).sum() == 8
    assert darcy.source(16)[0, 1] == 10 == -darcy.source(16)[-1, -2]


def test_log_k_has_the_covariance_of_the_64_modes() -> None:
    """By a singular value decomposition of the kernel on 8 x 8 cells, where all 64 modes are there, and on 16 x 16."""
    for size in (8, 16):
        at = (np.arange(size) + 0.5) / size
        points = np.array([(x, y) for x in at for y in at])
        kernel = np.exp(-np.sqrt(((points[:, None] - points) ** 2).sum(-1)) / 0.1)
        u, s, v = np.linalg.svd(kernel)
        wanted = (u[:, :64] * s[:64]) @ v[:64]
        np.testing.assert_allclose(darcy.modes(size).T @ darcy.modes(size), wanted, atol=1e-10)
    np.testing.assert_allclose(
        darcy.modes(8).T @ darcy.modes(8), np.exp(-np.linalg.norm(points8(), axis=-1) / 0.1), atol=1e-10
    )
    drawn = darcy.log_permeability(4000, 8, rng()).reshape(4000, -1)
    assert abs(drawn.var(0).mean() - 1) < 0.03  # 4,000 draws of 64 cells


def points8() -> np.ndarray:
    """Differences of all pairs of 8 x 8 cells' centres."""
    at = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2) / 8
    return at[:, None] - at


def test_the_waves_solve_an_even_permeability_as_the_sparse_solver_does() -> None:
    """Data are off by 0. Where K is even R = L q of an added pressure q, so that all by which p differs is wrong: 1."""
    rows, factor = darcy.waves(16)
    even = darcy.solve(np.zeros((16, 16)))
    np.testing.assert_allclose(rows.T @ (rows @ darcy.source(16) @ rows.T / factor) @ rows, even, atol=1e-13)
    log_k, p = darcy.draw(3, 16, seed=0).numpy().swapaxes(0, 1)
    assert darcy.relative_residual(log_k, p).max() < 1e-11
    added = rng().standard_normal((3, 16, 16))
    added -= added.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(darcy.relative_residual(0 * log_k, even + added, effect=True), 1, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e4])
def test_what_cannot_be_solved_raises_and_is_not_known(bad: float) -> None:
    log_k, p = darcy.draw(2, 8, seed=0).numpy().swapaxes(0, 1)
    log_k[1, 2, 3:5] = bad
    with np.errstate(all="ignore"):
        with pytest.raises(ValueError, match="not finite"):
            darcy.solve(log_k[1])
        error = darcy.relative_error(log_k, p)
    assert error[0] < 1e-12
    assert np.isnan(error[1])


def test_other_grids_are_refused() -> None:
    for size in (0, 4, 12, 20):
        with pytest.raises(ValueError, match=f"size is {size}; it must be a multiple of 8"):
            darcy.require_size(size)
    darcy.require_size(8)
