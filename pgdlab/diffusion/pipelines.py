"""The network of any diffusers pipeline as a denoiser: called as the pipeline's own __call__ calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.asked import Asked
from pgdlab.diffusion.asking import nested
from pgdlab.diffusion.denoisers import DiffusersDenoiser, NetworkDenoiser
from pgdlab.diffusion.pipeline_files import Origin, save_adapters, save_fused, save_pipeline
from pgdlab.diffusion.predictions import estimate_of
from pgdlab.diffusion.prompts import Prompts
from pgdlab.functional.gaussian import expand

# the attention of transformers; single blocks of FLUX.2 have all in one layer
ATTENTION = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_qkv_mlp_proj",
)  # fmt: skip


class PipelineDenoiser(NetworkDenoiser):
    """A pipeline's network, told what the pipeline tells it, its outputs put together as the pipeline does: guidance is in them.

    cond: the number of a prompt. asked: what asking the pipeline has told. origin: where it is from, for exports.
    """

    supports_unconditional = False  # the null prompt is a part of the call
    told: Tensor
    grid: Tensor

    def __init__(self, network: Any, asked: Asked, prompts: Prompts, origin: Origin) -> None:
        super().__init__()
        self.network, self.asked, self.origin = network, asked, origin
        self.conditioning: Prompts = prompts
        self.schedule = asked.schedule
        self.adapter_targets = targets_in(network)
        self.register_buffer("told", asked.told, persistent=False)
        self.register_buffer("grid", asked.schedule.times(asked.steps)[:-1].double(), persistent=False)

    def clock(self, t: Tensor) -> Tensor:
        """What the network is told at times t (P,): at the sampler's, as the pipeline does; between and beyond them on the
        straight line through the nearest two."""
        if len(self.grid) == 1:
            return self.told.expand(len(t))
        after = torch.searchsorted(-self.grid, -t.double()).clamp(1, len(self.grid) - 1)
        first, last = self.grid[after - 1], self.grid[after]
        told = self.told.double()
        share = (first - t) / (first - last)
        between = told[after - 1] * (1 - share) + told[after] * share
        return between.to(self.told.dtype) if self.told.is_floating_point() else between.round().to(self.told.dtype)

    def output(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        """What the pipeline would hand to its scheduler, in the dtype of x. The branches of a call are one pass."""
        clock, branch = self.clock(t), 0
        outs: list[Tensor] = []
        for call in self.asked.calls:
            told = [self.conditioning.rows(branch + j, cond) for j in range(call.blocks)]
            flat = {path: moved(value, x.device) for path, value in call.fixed.items()}
            flat |= {path: joined([rows[path] for rows in told]) for path in told[0]}
            rows: Any = torch.cat([x] * call.blocks).to(self.dtype)
            if self.asked.extra:  # of networks that take a list of samples
                rows = [row.unsqueeze(1) for row in rows]
            given = {self.asked.noisy: rows, self.asked.time: torch.cat([clock] * call.blocks)}
            out = self.network(**given, **nested(flat), return_dict=False)[0]
            out = torch.stack(out) if isinstance(out, list) else out
            outs += self.asked.trimmed(out).to(x.dtype).chunk(call.blocks)
            branch += call.blocks
        return self.asked.mix.combined(outs)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        alpha, sigma = expand(self.schedule.alpha(t), x), expand(self.schedule.sigma(t), x)
        return estimate_of(self.asked.schedule.prediction_type, x, self.output(x, t, cond), alpha, sigma)

    def save(self, folder: Path) -> str:
        """The whole pipeline, which DiffusionPipeline.from_pretrained reads."""
        return save_pipeline(self.origin, self.network, folder)

    def save_adapters(self, folder: Path) -> str:
        """pytorch_lora_weights.safetensors, which pipe.load_lora_weights reads; lora/ in peft's format where the pipeline's class
        has no such method; the whole pipeline where the origin says so."""
        save = save_fused if self.origin.fused else save_adapters
        return save(self.origin, self.network, folder)

    def save_for_adapters(self, folder: Path) -> str:
        return ""


def moved(value: Any, device: torch.device) -> Any:
    """A tensor on a device; anything else as it is."""
    return value.to(device) if isinstance(value, Tensor) else value


def joined(some: list[Any]) -> Any:
    """The rows of all branches of a call."""
    return torch.cat(some) if isinstance(some[0], Tensor) else [row for rows in some for row in rows]


def targets_in(network: Any) -> tuple[str, ...]:
    """Ends of the names of the layers that get adapters: attention where there is any, of a UNet the convolutions too."""
    unet = "conv_in" in dict(network.named_children())
    wanted = DiffusersDenoiser.adapter_targets if unet else ATTENTION
    names = [f".{name}" for name, _ in network.named_modules()]
    found = tuple(end for end in wanted if any(name.endswith(f".{end}") for name in names))
    return found or ("linear",)
