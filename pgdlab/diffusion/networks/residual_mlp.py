"""A residual perceptron over a whole plan, that is told the noise level and facts about the task."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

WAVES = 16
PERIODS = (4.0, 2.0, 1.0)  # of waves over places, in the units of samples


def places(plan: Float[Tensor, "B P 2"]) -> Float[Tensor, "B F"]:
    """Sines and cosines of the coordinates of waypoints: walls are finer than what a perceptron learns from coordinates alone
    (Tancik et al. 2020, arXiv:2006.10739)."""
    angle = 2 * torch.pi * plan.flatten(1)[..., None] / torch.tensor(PERIODS, dtype=plan.dtype, device=plan.device)
    return torch.cat([angle.sin(), angle.cos()], 2).flatten(1)


def noise_level(log_snr: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
    """Sines and cosines of the logarithm of the signal-to-noise ratio, of periods from 60 nats down to half a nat."""
    periods = torch.logspace(0, -2.1, WAVES, dtype=log_snr.dtype, device=log_snr.device) * 60
    angle = 2 * torch.pi * log_snr[:, None] / periods
    return torch.cat([angle.sin(), angle.cos()], 1)


class Block(nn.Module):
    """x + W2 silu(W1 norm(x) + V told)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.told = nn.LayerNorm(width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B W"], told: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        return x + self.second(nn.functional.silu(self.first(self.norm(x)) + self.told(told)))


class ResidualMLP(nn.Module):
    """size: numbers that go in; out: that come out; facts: that are told beside. While the facts are all 0, as they are in
    pretraining, they change nothing and nothing is learned of them: their last layer starts at 0."""

    def __init__(self, *, size: int, out: int, facts: int, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(size, width), nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.facts = nn.Sequential(nn.Linear(facts, width, bias=False), nn.SiLU(), nn.Linear(width, width, bias=False))
        nn.init.zeros_(self.facts[2].weight)  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(
        self, x: Float[Tensor, "B S"], log_snr: Float[Tensor, " B"], facts: Float[Tensor, "B F"]
    ) -> Float[Tensor, "B O"]:
        told, h = self.time(noise_level(log_snr)) + self.facts(facts), self.first(x)
        for block in self.blocks:
            h = block(h, told)
        out: Tensor = self.last(h)
        return out
