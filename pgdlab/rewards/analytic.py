"""Rewards of points whose optimum can be computed: quadratic ones, and the indicator of a half-space."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.base import Reward, Score


class Quadratic(Reward):
    """r(x) = slope . x - sum_d curvature_d x_d^2, of points (B, D). Linear where the curvature is 0 (the default)."""

    takes, differentiable = "points", True
    slope: Tensor
    curvature: Tensor

    def __init__(self, *, slope: tuple[float, ...] = (1.0,), curvature: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))
        bent = [0.0] * len(slope) if curvature is None else curvature
        self.register_buffer("curvature", torch.tensor(bent, dtype=torch.float64))
        if len(self.slope) != len(self.curvature):
            raise ValueError(f"slope has {len(slope)} coordinates, curvature {len(bent)}; they must agree")

    def score(self, sample: Float[Tensor, "B D"], cond: Tensor) -> Score:
        if sample.shape[1] != len(self.slope):
            raise ValueError(f"reward.slope has {len(self.slope)} coordinates, the samples have {sample.shape[1]}")
        return Score.of(sample.double() @ self.slope - sample.double().square() @ self.curvature)


class Above(Reward):
    """r(x) = 1 where the first coordinate of points (B, D) is above the threshold, else 0: no gradient anywhere."""

    takes = "points"

    def __init__(self, *, threshold: float = 1.0) -> None:
        super().__init__()
        self.threshold = threshold

    def score(self, sample: Float[Tensor, "B D"], cond: Tensor) -> Score:
        return Score.of((sample[:, 0] > self.threshold).double())
