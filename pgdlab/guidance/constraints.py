"""Sets that samples are to be in, and the nearest point of each: in the units and the shape of what the policy makes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Table = Sequence[Any]  # numbers, or lists of them to any depth
ROUNDING = 1e-4  # a sample that is nearer to a set than this, by its largest coordinate, is in it


class Constraint(ABC):
    """A closed convex set of samples. A frozen dataclass."""

    @abstractmethod
    def project(self, x: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        """The nearest points of the set, by Euclidean distance."""

    def refuse(self, shape: tuple[int, ...]) -> None:  # noqa: B027
        """Raises ValueError where samples of this shape cannot be in it. By default they can."""

    def violation(self, x: Float[Tensor, "P *D"]) -> Float[Tensor, " P"]:
        """By how much the coordinate that is furthest off must move; 0 in the set."""
        return (self.project(x) - x).flatten(1).abs().amax(1)


@dataclass(frozen=True, kw_only=True)
class Box(Constraint):
    """low <= every coordinate <= high; None: no limit."""

    low: float | None = -1.0
    high: float | None = 1.0

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise ValueError("low and high are null: a box has a limit")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low is {self.low} and high {self.high}: nothing is between them")

    def project(self, x: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        return x.clamp(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Mean(Constraint):
    """The mean over a sample's coordinates is `value`."""

    value: float = 0.0

    def project(self, x: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        return x + (self.value - x.flatten(1).mean(1)).reshape(-1, *(1,) * (x.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class Known(Constraint):
    """Coordinates that are given: pixels, waypoints. values: in the shape of a sample, null where it is free; or a file of
    numpy's (.npy), nan where it is free."""

    values: Table | Path
    table: Float[Tensor, "*D"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", numbers("values", self.values, free=True))

    def refuse(self, shape: tuple[int, ...]) -> None:
        if self.table.shape != shape:
            raise ValueError(f"values are of shape {tuple(self.table.shape)}, and samples of {shape}: give one each")

    def project(self, x: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        table = self.table.to(x)
        return torch.where(table.isnan(), x, table)


@dataclass(frozen=True, kw_only=True)
class Linear(Constraint):
    """matrix x = value, x a sample's coordinates in a row: sums, moments, the divergence of a field. matrix: a row an equation,
    or a file of numpy's (.npy); value: a number an equation, or one for all."""

    matrix: Table | Path
    value: tuple[float, ...] | float = 0.0
    rows: Float[Tensor, "E D"] = field(init=False, repr=False, compare=False)
    inverse: Float[Tensor, "D E"] = field(init=False, repr=False, compare=False)
    aim: Float[Tensor, " E"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = numbers("matrix", self.matrix)
        if rows.ndim != 2:
            raise ValueError(f"matrix is of shape {tuple(rows.shape)}; it must have a row an equation")
        given = torch.tensor(self.value, dtype=torch.float64).flatten()
        if len(given) not in (1, len(rows)):
            raise ValueError(
                f"value has {len(given)} numbers; it must have one an equation, {len(rows)}, or one for all"
            )
        inverse, aim = torch.linalg.pinv(rows), given.expand(len(rows))
        left = (rows @ (inverse @ aim) - aim).abs().max().item()
        if left > ROUNDING * (1 + aim.abs().max().item()):
            raise ValueError(f"no sample solves all equations of matrix at once: at best one is off by {left:.3g}")
        for name, found in (("rows", rows), ("inverse", inverse), ("aim", aim)):
            object.__setattr__(self, name, found)

    def refuse(self, shape: tuple[int, ...]) -> None:
        if self.rows.shape[1] != math.prod(shape):
            raise ValueError(
                f"matrix has {self.rows.shape[1]} columns, and samples of shape {shape} have {math.prod(shape)} coordinates: "
                "one each, in the order of numpy's ravel"
            )

    def project(self, x: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        rows, inverse, aim = self.rows.to(x), self.inverse.to(x), self.aim.to(x)
        return x - ((x.flatten(1) @ rows.T - aim) @ inverse.T).reshape(x.shape)


def numbers(name: str, given: Table | Path, free: bool = False) -> Float[Tensor, "*D"]:
    """Nested lists or a file as fp64. free: null is nan, else all must be finite."""
    try:
        found = np.load(given, allow_pickle=False) if isinstance(given, Path) else np.array(given, dtype=np.float64)
        table = torch.from_numpy(np.asarray(found, dtype=np.float64))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{name} is no table of numbers: {error}") from error
    if not (table.isfinite() | (table.isnan() & free)).all():
        raise ValueError(f"{name} has numbers that are not finite" + ", and nan alone means free" * free)
    return table
