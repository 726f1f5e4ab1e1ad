"""Small random-weight diffusers networks and the pieces around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pgdlab.diffusion.conditioning import ClassLabels
from pgdlab.diffusion.denoisers import Denoiser, DiffusersDenoiser
from pgdlab.diffusion.kernels import DDIM, Chain
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Tuning
from pgdlab.rollout.noise import Noise

CLASSES = 3  # 0, 1 and "none"


def unet(size: int = 8, dropout: float = 0.0, classes: int | None = CLASSES, seed: int = 0) -> Any:
    """A diffusers UNet2DModel of a few thousand weights."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=size, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
            block_out_channels=(8, 16), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
            num_class_embeds=classes, attention_head_dim=4, dropout=dropout,
        ).eval()  # fmt: skip


def config(**more: Any) -> dict[str, Any]:
    """A scheduler's config with ten times."""
    base = {
        "num_train_timesteps": 10, "beta_schedule": "linear", "beta_start": 0.02, "beta_end": 0.4,
        "prediction_type": "epsilon", "clip_sample": False, "timestep_spacing": "leading", "set_alpha_to_one": True,
    }  # fmt: skip
    return base | more


def denoiser(size: int = 8, dropout: float = 0.0, double: bool = False, **more: Any) -> DiffusersDenoiser:
    network = unet(size, dropout)
    return DiffusersDenoiser(
        network.double() if double else network, DiffusersSchedule(config(**more)), ClassLabels(CLASSES - 1)
    )


class Listed(Noise):
    """Noise that was drawn elsewhere: (B, steps + 1, *D)."""

    def __new__(cls, drawn: Tensor) -> Listed:
        return super().__new__(cls)

    def __init__(self, drawn: Tensor) -> None:
        object.__setattr__(self, "drawn", drawn)
        super().__init__(0)

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        return iter(self.drawn[index.start : index.stop, :steps].unbind(1))


def tuned(tuning: Tuning, denoiser: Denoiser) -> Denoiser:
    """The denoiser prepared for training in a sampler of four steps over 8x8 images."""
    return tuning.apply(denoiser, Chain.of(denoiser.schedule, DDIM(), 4), Dense((1, 8, 8)), CLASSES)
