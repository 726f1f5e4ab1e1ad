"""Surrogates by hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pgdlab.functional.surrogates import ppo_clip, reinforce

C = 0.2


def clip_of(log_ratio: float, advantage: float, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    """The surrogate and its derivative by the log-ratio."""
    x = torch.tensor([log_ratio], dtype=dtype, requires_grad=True)
    y = ppo_clip(x, torch.tensor([advantage], dtype=dtype), -C, C)
    return y.item(), torch.autograd.grad(y.sum(), x)[0].item()


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "value", "slope"),
    [
        (0.0, 2.0, 2.0, 2.0),  # at ratio 1 it is the policy gradient, for both signs
        (0.0, -2.0, -2.0, -2.0),
        (0.1, 2.0, 2 * math.exp(0.1), 2 * math.exp(0.1)),  # inside the clip
        (-0.1, -2.0, -2 * math.exp(-0.1), -2 * math.exp(-0.1)),
        (0.5, 2.0, 2 * math.exp(0.2), 0.0),  # good and already more likely: no more
        (-0.5, -2.0, -2 * math.exp(-0.2), 0.0),  # bad and already less likely: no more
        (-0.5, 2.0, 2 * math.exp(-0.5), 2 * math.exp(-0.5)),  # good, yet less likely: brought back, unclipped
        (0.5, -2.0, -2 * math.exp(0.5), -2 * math.exp(0.5)),  # bad, yet more likely: brought back, unclipped
        (0.5, 0.0, 0.0, 0.0),
    ],
)
def test_ppo_clip_in_all_cases(log_ratio: float, advantage: float, value: float, slope: float) -> None:
    """Bounds e^+-c on the true ratio, in nats."""
    assert clip_of(log_ratio, advantage) == pytest.approx((value, slope), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("log_ratio", [100.0, 1000.0, -1000.0])
def test_ppo_clip_stays_finite_where_the_ratio_overflows(log_ratio: float, advantage: float) -> None:
    """exp(100) is infinite in fp32: neither the value nor the gradient may become nan, else one sample ends the run."""
    value, slope = clip_of(log_ratio, advantage, torch.float32)
    assert math.isfinite(value)
    assert math.isfinite(slope)
    if log_ratio * advantage > 0:
        assert slope == 0


def test_reinforces_slope_is_the_advantage() -> None:
    x: Tensor = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([2.0, -3.0], dtype=torch.float64)
    assert torch.autograd.grad(reinforce(x, a).sum(), x)[0].tolist() == a.tolist()
