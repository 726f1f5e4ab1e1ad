"""A residual perceptron over all coordinates of a sample, that is told the noise level and facts about the task."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

WAVES = 16


def noise_level(log_snr: Float[Tensor, " B"]) -> Float[Tensor, "B 2W"]:
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
    """size: coordinates of a sample; facts: numbers that are told beside it, 0 for nothing to tell. While these are all 0, as
    they are in pretraining, they change nothing and nothing is learned of them: their last layer starts at 0."""

    def __init__(self, *, size: int, facts: int, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(size, width), nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.facts = nn.Sequential(
            nn.Linear(facts, width, bias=False), nn.SiLU(), nn.Linear(width, width, bias=False)
        )
        nn.init.zeros_(self.facts[2].weight)  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(
        self, x: Float[Tensor, "B D"], log_snr: Float[Tensor, " B"], facts: Float[Tensor, "B F"]
    ) -> Float[Tensor, "B D"]:
        told, h = self.time(noise_level(log_snr)) + self.facts(facts), self.first(x)
        for block in self.blocks:
            h = block(h, told)
        out: Tensor = self.last(h)
        return out
