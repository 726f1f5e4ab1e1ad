"""Darcy flow: fields of log K and p, in which p is what K lets flow (docs/domains/darcy.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.space import Dense
from pgdlab.domains.base import Decoder
from pgdlab.domains.field import LawDomain
from pgdlab.functional.divergences import energy_distance
from pgdlab.physics import darcy
from pgdlab.physics.drawing import fields

SCALE = (0.8, 0.03)  # of log K, and of p's difference to that of an even K


class Fields(Decoder):
    """Channels -> log K and p, in fp64: each times its SCALE, p on top of that of K = 1, and p's mean taken off."""

    gives = "Darcy flow"
    even: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        even = torch.from_numpy(darcy.solve(np.zeros((size, size))))
        self.register_buffer("even", torch.stack([torch.zeros_like(even), even]), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE, dtype=torch.float64)[:, None, None], persistent=False)

    def decode(self, sample: Float[Tensor, "B 2 S S"]) -> Float[Tensor, "B 2 S S"]:
        found = sample.double() * self.scale + self.even
        log_k, p = found.unbind(1)
        return torch.stack([log_k, p - p.mean((1, 2), keepdim=True)], 1)

    def encode(self, fields: Float[Tensor, "B 2 S S"]) -> Float[Tensor, "B 2 S S"]:
        """The sample of fields whose p has mean zero."""
        return (fields - self.even) / self.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Darcy(LawDomain):
    """size: cells a side, a multiple of 8; a base ships for 16. weights: as in LawDomain."""

    size: int = 16
    name: str = field(default="darcy", init=False)
    decoder: Fields = field(init=False)

    def __post_init__(self) -> None:
        darcy.require_size(self.size)
        object.__setattr__(self, "decoder", Fields(self.size))

    @property
    def space(self) -> Dense:  # type: ignore[override]
        return Dense((2, self.size, self.size))

    @property
    def network(self) -> tuple[type[Any], dict[str, Any]]:
        from diffusers import UNet2DModel

        depth = 3
        return UNet2DModel, {
            "sample_size": self.size, "in_channels": 2, "out_channels": 2, "layers_per_block": 1,
            "block_out_channels": (16, 32, 64), "down_block_types": ("DownBlock2D",) * depth,
            "up_block_types": ("UpBlock2D",) * depth, "attention_head_dim": 8, "norm_num_groups": 8,
        }  # fmt: skip

    def draw(self, count: int, seed: int) -> Float[Tensor, "N 2 S S"]:
        return self.decoder.encode(darcy.draw(count, self.size, seed))

    @torch.no_grad()
    def metrics(self, sample: Float[Tensor, "B 2 S S"], cond: Tensor) -> dict[str, float]:
        """Against the law, and against held-out data. Means over samples that the solver can solve; empty for one sample."""
        if len(sample) < 2:
            return {}
        log_k, p = self.decoder(sample.detach()).cpu().numpy().swapaxes(0, 1)
        with np.errstate(all="ignore"):
            residual = np.abs(darcy.residual(log_k, p)).mean((1, 2))
        error = darcy.relative_error(log_k, p)
        found = {"unsolved": float(np.isnan(error).mean()), "log_k_std": float(log_k.std((1, 2)).mean())}
        if not np.isnan(error).all():
            found |= {"residual": float(np.nanmean(residual)), "resolved_error": float(np.nanmean(error))}
        real = self.data("test")[0]
        names = ("energy_distance_log_k", "energy_distance_p")
        return found | {n: energy_distance(sample[:, i].cpu(), real[:, i]) for i, n in enumerate(names)}

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        fields({title: self.decoder(sample.detach()).cpu() for title, sample in rows.items()}, path)
