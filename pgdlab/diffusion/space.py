"""Spaces: what "noise" and "dimension" mean for a kind of data."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

squared_difference = functools.partial(mse_loss, reduction="none")  # (x - y)^2; one kernel forward, one backward


class Space(ABC):
    """Shape of one sample, and how densities count its degrees of freedom. cond: (P, ...) what rows condition on."""

    shape: tuple[int, ...]

    @abstractmethod
    def project(self, noise: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, "P *D"]:
        """White noise -> the noise of this space (mask, mirror, remove the centre of mass)."""

    @abstractmethod
    def squared_distance(self, x: Float[Tensor, "P *D"], y: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        """||x - y||^2 with every degree of freedom counted once, summed in fp64: log-probabilities of large samples are of
        size 1e5, where fp32 has steps of .01 nats, and ratios are differences of two of them."""

    @abstractmethod
    def dof(self, cond: Tensor) -> Int[Tensor, " P"]:
        """Degrees of freedom."""

    @abstractmethod
    def sum_over_dof(self, log_std: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        """Sum of a per-coordinate quantity over the true degrees of freedom, in fp64."""

    @abstractmethod
    def orbits(self) -> Int[Tensor, "*D"]:
        """Coordinates with the same number (0, 1, ...) may change places when the parts of a sample do: what belongs to one
        belongs to all of them."""

    @abstractmethod
    def scales(self, log_scale: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        """log_scale, with the same mean, where projected noise times its exponential would leave the space; else as it is."""


@dataclass(frozen=True)
class Dense(Space):
    """Every coordinate is a degree of freedom: images, paths, fields."""

    shape: tuple[int, ...]

    def project(self, noise: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, "P *D"]:
        return noise

    def squared_distance(self, x: Float[Tensor, "P *D"], y: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return squared_difference(x, y).flatten(1).sum(1, dtype=torch.float64)

    def dof(self, cond: Tensor) -> Int[Tensor, " P"]:
        return torch.full((len(cond),), math.prod(self.shape), device=cond.device)

    def sum_over_dof(self, log_std: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return log_std.flatten(1).sum(1, dtype=torch.float64)

    def orbits(self) -> Int[Tensor, "*D"]:
        return torch.arange(math.prod(self.shape)).reshape(self.shape)

    def scales(self, log_scale: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        return log_scale


@dataclass(frozen=True)
class Pinned(Space):
    """Rows of coordinates of which some are given, such as the first and the last waypoint of a plan: they have no noise, and
    are no degrees of freedom. shape: (rows, width); pinned: the numbers of the rows that are given."""

    shape: tuple[int, int]
    pinned: tuple[int, ...]

    def free(self, like: Tensor) -> Float[Tensor, "N 1"]:
        """1 where a row is free, else 0."""
        mask = torch.ones(self.shape[0], 1, dtype=like.dtype, device=like.device)
        mask[list(self.pinned)] = 0
        return mask

    def pin(self, x: Float[Tensor, "P *D"], given: Float[Tensor, "P K W"]) -> Float[Tensor, "P *D"]:
        """x with the given rows in their places."""
        return x.index_copy(1, torch.tensor(self.pinned, device=x.device), given.to(x.dtype))

    def project(self, noise: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, "P *D"]:
        return noise * self.free(noise)

    def squared_distance(self, x: Float[Tensor, "P *D"], y: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return (squared_difference(x, y) * self.free(x)).flatten(1).sum(1, dtype=torch.float64)

    def dof(self, cond: Tensor) -> Int[Tensor, " P"]:
        return torch.full((len(cond),), (self.shape[0] - len(self.pinned)) * self.shape[1], device=cond.device)

    def sum_over_dof(self, log_std: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return (log_std * self.free(log_std)).flatten(1).sum(1, dtype=torch.float64)

    def orbits(self) -> Int[Tensor, "*D"]:
        return torch.arange(math.prod(self.shape)).reshape(self.shape)

    def scales(self, log_scale: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        return log_scale
