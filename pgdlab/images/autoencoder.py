"""The autoencoder of a text-to-image base: pictures <-> latents of an eighth of their size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgdlab.images.captioned import Captioned
from pgdlab.images.parts import Part, pixels_of

WIDTHS = (16, 32, 96, 128)
FACTOR = 2 ** (len(WIDTHS) - 1)  # pixels to a side of a latent
DIVERGENCE, PERCEPTION = 1e-6, 0.02  # weights of the KL to N(0, 1), and of the distance in features of the CLIP


def fresh() -> Any:
    """Untrained."""
    from diffusers import AutoencoderKL

    levels = len(WIDTHS)
    return AutoencoderKL(
        block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
    )  # fmt: skip


def read(folder: Path) -> Any:
    """An AutoencoderKL, in fp32. Raises ValueError where it is missing or broken."""
    from diffusers import AutoencoderKL

    try:
        if not (folder / "config.json").is_file():
            raise ValueError("it has no config.json")
        network: Any = AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return network.float().eval()
    except Exception as error:  # whatever a damaged or foreign folder makes the library raise
        raise ValueError(f"there is no autoencoder in {folder} ({error}): make it with task=autoencoder") from error


class Autoencoder(Part):
    """Mean absolute error of pixels, KL, and squared error of early features of `eye`, the image tower of the base's CLIP.
    frozen: the decoder alone trains, so that latents stay what they are for a network that knows them."""

    def __init__(self, network: Any, seed: int, eye: Any, *, frozen: bool) -> None:
        super().__init__(network, seed)
        self.eye, self.frozen = eye.float().eval().requires_grad_(False), frozen
        for tower in (network.encoder, network.quant_conv):
            tower.requires_grad_(not frozen)

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
        x = pixels_of(batch[0])
        latents = self.network.encode(x).latent_dist
        noise = torch.randn(latents.mean.shape, generator=self.generator).to(x)
        y = self.network.decode(latents.mean + latents.std * noise).sample
        seen = [self.eye(image, output_hidden_states=True).hidden_states[2] for image in (x, y)]
        loss = (y - x).abs().mean() + PERCEPTION * (seen[1] - seen[0]).square().mean()
        loss = loss if self.frozen else loss + DIVERGENCE * latents.kl().mean()
        return loss, {"psnr": -10 * math.log10(float(((y.detach().clamp(-1, 1) - x) / 2).square().mean()))}


@torch.no_grad()
def measured(network: Any, pictures: Captioned) -> tuple[float, float]:
    """The mean squared error of all pictures in units of the grey scale, and the standard deviation of the means of latents."""
    errors, means = [], []
    for part in pictures.pixels.split(64):
        x = pixels_of(part)
        means.append(network.encode(x).latent_dist.mean)
        errors.append(((network.decode(means[-1]).sample.clamp(-1, 1) - x) / 2).square().flatten(1).mean(1))
    return float(torch.cat(errors).mean()), float(torch.cat(means).std())
