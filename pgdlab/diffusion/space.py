"""Spaces: what "noise" and "dimension" mean for a kind of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


class Space(ABC):
    """Shape of one sample, and how densities count its degrees of freedom. cond: (P, ...) what rows condition on."""

    shape: tuple[int, ...]

    @abstractmethod
    def project(self, noise: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, "P *D"]:
        """White noise -> the noise of this space (mask, mirror, remove the centre of mass)."""

    @abstractmethod
    def squared_norm(self, x: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        """||x||^2 with every degree of freedom counted once."""

    @abstractmethod
    def log_volume(self, log_std: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        """Sum of a per-coordinate quantity over the true degrees of freedom."""


@dataclass(frozen=True)
class Dense(Space):
    """Every coordinate is a degree of freedom: images, paths, fields."""

    shape: tuple[int, ...]

    def project(self, noise: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, "P *D"]:
        return noise

    def squared_norm(self, x: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return x.flatten(1).square().sum(1)

    def log_volume(self, log_std: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return log_std.flatten(1).sum(1)
