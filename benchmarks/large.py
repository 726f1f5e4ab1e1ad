"""Networks of the shapes of well-known models, untrained, each told random embeddings in the place of prompts.

sd: the UNet of Stable Diffusion 1.5 at 512 pixels; sdxl: of SDXL at 1024; sd3: the transformer of Stable Diffusion 3 medium at
1024; flux: of FLUX.1 dev at 512. Shapes are those of their published configurations: diffusers' defaults, and what is stated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.items import CLASSES, Latent
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense, Space
from pgdlab.domains.base import Decoder
from pgdlab.domains.image import SCHEDULER

BLOCK = 2**20 - 3  # numbers: no multiple of a layer's width, so that rows differ
Size = Literal["sd", "sdxl", "sd3", "flux"]


@dataclass(frozen=True)
class Shape:
    """Of a model. sample: of a state; told: what a prompt's row of each argument has; flat: names whose rows go into
    added_cond_kwargs; fixed: arguments that all rows share, by their shapes."""

    sample: tuple[int, ...]
    make: Callable[[], nn.Module]
    told: dict[str, tuple[int, ...]]
    added: tuple[str, ...] = ()
    fixed: dict[str, tuple[int, ...]] = field(default_factory=dict)


def sd() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sdxl() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def sd3() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, num_attention_heads=24,
        attention_head_dim=64, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )  # fmt: skip


def flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=True)


MODELS: dict[Size, Shape] = {
    "sd": Shape((4, 64, 64), sd, {"encoder_hidden_states": (77, 768)}),
    "sdxl": Shape(
        (4, 128, 128), sdxl, {"encoder_hidden_states": (77, 2048), "text_embeds": (1280,), "time_ids": (6,)},
        added=("text_embeds", "time_ids"),
    ),
    "sd3": Shape((16, 128, 128), sd3, {"encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)}),
    "flux": Shape(
        (1024, 64), flux, {"encoder_hidden_states": (512, 4096), "pooled_projections": (768,), "guidance": ()},
        fixed={"img_ids": (1024, 3), "txt_ids": (512, 3)},
    ),
}  # fmt: skip


@contextmanager
def not_drawn() -> Iterator[None]:
    """Layers that are made have no weights yet: to draw billions of them takes minutes."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    before = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, own in zip(kinds, before, strict=True):
            kind.reset_parameters = own  # type: ignore[method-assign]


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Weights of linear layers and convolutions repeat one block of random numbers, of variance 1 / (numbers of an input's row);
    their shifts are 0."""
    block = torch.randn(BLOCK)
    for part in network.modules():
        if isinstance(part, (nn.Linear, nn.modules.conv._ConvNd)):
            flat, some = part.weight.view(-1), (block / part.weight[0].numel() ** 0.5).to(part.weight.dtype)
            for piece in flat.split(BLOCK):
                piece.copy_(some[: len(piece)])
            if part.bias is not None:
                part.bias.zero_()


def autoencoder(channels: int) -> Any:
    """Of Stable Diffusion's layers; of 16 channels, as that of Stable Diffusion 3 and FLUX.1 has, without two convolutions."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=channels, use_quant_conv=channels == 4,
        use_post_quant_conv=channels == 4,
    )  # fmt: skip


def unpacked(sample: Tensor) -> Tensor:
    """Latents (B, C, S, S) of FLUX.1's states (B, S S / 4, 4 C), squares of two by two. Others as they are."""
    if sample.ndim == 4:
        return sample
    side = math.isqrt(sample.shape[1])
    squares = sample.reshape(len(sample), side, side, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(len(sample), -1, 2 * side, 2 * side)


class Pictures(Decoder):
    """Latents -> images eight times as wide, by an untrained autoencoder in bf16."""

    gives = "images"
    chunk = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            with not_drawn():
                self.network = autoencoder(channels)
            self.network.encoder = None
            fill(self.network)
        self.network.to(torch.bfloat16).eval().requires_grad_(False)

    def decode(self, sample: Tensor) -> Tensor:
        found: Tensor = self.network.decode(unpacked(sample).to(torch.bfloat16), return_dict=False)[0]
        return (found.float() / 2 + 0.5).clamp(0, 1)


class Told(nn.Module):
    """A network with a table of what each prompt tells it, in its own dtype."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # made in it: casting takes both at once, and fake weights cannot be cast
        try:
            self.shape, self.network = shape, shape.make()
        finally:
            torch.set_default_dtype(before)
        for name, size in shape.told.items():
            self.register_buffer(name, torch.randn(CLASSES + 1, *size, dtype=dtype), persistent=False)
        for name, size in shape.fixed.items():
            self.register_buffer(name, torch.zeros(size, dtype=dtype), persistent=False)

    @property
    def _supports_gradient_checkpointing(self) -> bool:
        return True

    def enable_gradient_checkpointing(self) -> None:
        self.network.enable_gradient_checkpointing()

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        told = {name: getattr(self, name)[class_labels] for name in self.shape.told}
        added = {name: told.pop(name) for name in self.shape.added}
        given: dict[str, Any] = told | {name: getattr(self, name) for name in self.shape.fixed}
        if added:
            given["added_cond_kwargs"] = added
        dtype = next(iter(told.values())).dtype
        out: Tensor = self.network(x.to(dtype), timestep=t, **given, return_dict=False)[0]
        return (out,)


@dataclass(frozen=True, kw_only=True)
class Large(Latent):
    """States of a large model under ten prompts, and images of them. weights: their dtype; adapters on them are fp32."""

    size: Size = "sd"
    weights: Literal["float32", "bfloat16"] = "bfloat16"
    space: Space = field(default=Dense((0,)), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", Dense(MODELS[self.size].sample))
        object.__setattr__(self, "decoder", Pictures(4 if self.space.shape[0] == 4 else 16))

    def fresh(self, generator: torch.Generator) -> DiffusersDenoiser:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            with not_drawn():
                network = Told(MODELS[self.size], getattr(torch, self.weights))
            fill(network)
        return DiffusersDenoiser(network.eval(), DiffusersSchedule(SCHEDULER), self.conditioning)
