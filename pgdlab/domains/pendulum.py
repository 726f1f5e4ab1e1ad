"""A pendulum's paths: the small twin of darcy (docs/domains/pendulum.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.space import Dense
from pgdlab.domains.base import Decoder
from pgdlab.domains.field import LawDomain
from pgdlab.functional.divergences import energy_distance
from pgdlab.physics import pendulum
from pgdlab.physics.drawing import paths


class Paths(Decoder):
    """Channels -> theta and omega, in fp64: they are of order 1 as they are."""

    gives = "pendulum paths"

    def decode(self, sample: Float[Tensor, "B 2 T"]) -> Float[Tensor, "B 2 T"]:
        return sample.double()


@dataclass(frozen=True, kw_only=True, eq=False)
class Pendulum(LawDomain):
    """theta and omega at 64 times; the options are those of LawDomain."""

    name: str = field(default="pendulum", init=False)
    decoder: Paths = field(default_factory=Paths, init=False)

    @property
    def space(self) -> Dense:  # type: ignore[override]
        return Dense((2, pendulum.POINTS))

    @property
    def network(self) -> tuple[type[Any], dict[str, Any]]:
        from diffusers import UNet1DModel

        return UNet1DModel, {
            "sample_size": pendulum.POINTS, "in_channels": 2, "out_channels": 2, "layers_per_block": 1,
            "block_out_channels": (16, 32, 64), "down_block_types": ("DownResnetBlock1D",) * 3,
            "up_block_types": ("UpResnetBlock1D",) * 2, "mid_block_type": "MidResTemporalBlock1D",
            "out_block_type": "OutConv1DBlock", "act_fn": "mish", "time_embedding_type": "positional",
            "use_timestep_embedding": True, "flip_sin_to_cos": False, "freq_shift": 1.0,
        }  # fmt: skip

    def draw(self, count: int, seed: int) -> Float[Tensor, "N 2 T"]:
        return pendulum.draw(count, seed)

    @torch.no_grad()
    def metrics(self, sample: Float[Tensor, "B 2 T"], cond: Tensor) -> dict[str, float]:
        """Against the law, and against held-out data; empty for one sample."""
        if len(sample) < 2:
            return {}
        path = self.decoder(sample.detach()).cpu()
        found = {"drift": pendulum.drift(path), "defect": pendulum.defect(path)}
        found |= {"resolved_error": pendulum.relative_error(path), "swing": pendulum.energy(path).mean(1)}
        figures = {name: x.mean().item() for name, x in found.items()}
        return figures | {"energy_distance": energy_distance(sample.cpu(), self.data("test")[0])}

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        paths({title: self.decoder(sample.detach()).cpu() for title, sample in rows.items()}, path)
