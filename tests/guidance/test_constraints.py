"""Sets: the nearest point by other means, what is refused, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pgdlab.guidance.constraints import Box, Constraint, Known, Linear, Mean

G = torch.Generator().manual_seed(0)


def divergence(size: int) -> list[list[float]]:
    """Central differences of a periodic field (2, size, size): d/dx of the first component plus d/dy of the second."""
    rows = np.zeros((size, size, 2, size, size))
    for i in range(size):
        for j in range(size):
            for step in (1, -1):
                rows[i, j, 0, i, (j + step) % size] += step / 2
                rows[i, j, 1, (i + step) % size, j] += step / 2
    found: list[list[float]] = rows.reshape(size * size, -1).tolist()
    return found


@pytest.mark.parametrize(
    "constraint",
    [
        Box(low=-0.3, high=None), Box(low=-0.2, high=0.4), Mean(value=0.5), Known(values=[[None, 1.0, None], [0.25, None, None]]),
        Linear(matrix=[[1, 1, 0, 0, 0, 0], [0, 0, 1, 2, 0, 3]], value=(1.0, -2.0)),
        Linear(matrix=[[1, 1, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0]], value=(1.0, 2.0)),  # twice the same
    ],
    ids=lambda c: type(c).__name__,
)  # fmt: skip
def test_the_nearest_point(constraint: Constraint) -> None:
    """It is in the set, and no other point of the set (a projected one near it) is nearer."""
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=G)
    constraint.refuse((2, 3))
    found = constraint.project(x)
    assert constraint.violation(found).max() < 1e-12
    torch.testing.assert_close(constraint.project(found), found)
    for scale in (0.01, 0.3):
        other = constraint.project(found + scale * torch.randn(5, 2, 3, dtype=torch.float64, generator=G))
        assert ((other - x).square().sum((1, 2)) >= (found - x).square().sum((1, 2)) - 1e-12).all()
    assert (constraint.violation(x) > 1e-3).all()


def test_linear_by_a_solver() -> None:
    rows, x = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]]), np.array([0.3, -1.0, 2.0])
    solved = minimize(
        lambda y: ((y - x) ** 2).sum(), x, constraints={"type": "eq", "fun": lambda y: rows @ y - [1.0, 0.5]}, tol=1e-12
    )
    found = Linear(matrix=rows.tolist(), value=(1.0, 0.5)).project(torch.from_numpy(x)[None])
    np.testing.assert_allclose(found[0], solved.x, atol=1e-6)


def test_a_field_without_divergence() -> None:
    """What is taken away is a gradient's: orthogonal to every field without divergence. A constant field stays."""
    constraint = Linear(matrix=divergence(4))
    constraint.refuse((2, 4, 4))
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=G)
    found, rows = constraint.project(x), torch.tensor(divergence(4), dtype=torch.float64)
    assert (rows @ found.flatten(1).T).abs().max() < 1e-12
    assert ((x - found) * constraint.project(torch.randn_like(x))).sum((1, 2, 3)).abs().max() < 1e-12
    torch.testing.assert_close(constraint.project(torch.ones_like(x)), torch.ones_like(x))


def test_violations_are_of_the_coordinate_that_is_furthest_off() -> None:
    x = torch.tensor([[1.5, -3.0], [0.5, 0.0]])
    assert Box(low=-1.0, high=1.0).violation(x).tolist() == [2.0, 0.0]


def test_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "known.npy", np.array([[np.nan, 2.0]]))
    known = Known(values=tmp_path / "known.npy")
    assert known.project(torch.zeros(1, 1, 2)).tolist() == [[[0.0, 2.0]]]
    (tmp_path / "odd.npy").write_text("1, 2")
    for path in ("odd.npy", "none.npy"):
        with pytest.raises(ValueError, match="values is no table of numbers"):
            Known(values=tmp_path / path)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="values is no table of numbers"):
        Known(values=tmp_path / "objects.npy")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(low=1.0, high=-1.0), r"low is 1.0 and high -1.0: nothing is between"),
        (lambda: Box(low=None, high=None), "a box has a limit"),
        (lambda: Known(values=[[None], [1.0]]).refuse((1, 2)), r"values are of shape \(2, 1\), and samples of \(1, 2\)"),
        (lambda: Known(values=[[1.0], [1.0, 2.0]]), "no table of numbers"),
        (lambda: Known(values=[float("inf")]), "not finite, and nan alone means free"),
        (lambda: Linear(matrix=[[None, 1.0]]), "not finite"),
        (lambda: Linear(matrix=[1.0, 2.0]), "a row an equation"),
        (lambda: Linear(matrix=[[1, 1], [1, 1]], value=(0.0, 1.0)), "no sample solves all equations.* off by 0.5"),
        (lambda: Linear(matrix=[[1, 1], [1, 2]], value=(0.0, 1.0, 2.0)), "value has 3 numbers"),
        (lambda: Linear(matrix=[[1, 1]]).refuse((3,)), r"matrix has 2 columns, and samples of shape \(3,\) have 3"),
    ],
)  # fmt: skip
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
