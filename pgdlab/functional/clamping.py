"""Limits that gradients pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def straight_through(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """x.clamp(low, high) with the gradient of x: an image that has left its range is drawn back by what it shows, where the true
    gradient is 0 (the straight-through estimator: Bengio et al. 2013, arXiv:1308.3432)."""
    out: Tensor = _StraightThrough.apply(x, low, high)
    return out
