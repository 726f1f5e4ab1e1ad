"""A small text-to-latent pipeline of diffusers, untrained and built in code, and a domain with the same network."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.items import CHANNELS, SIZE, Latent
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule

PROMPTS = "abcdefghij"
LENGTH, WIDTH = 4, 32  # of a prompt's embedding
SCHEDULER = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "prediction_type": "epsilon", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


class Same(nn.Module):
    """In the place of an autoencoder: what is sampled is what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(scaling_factor=1.0, block_out_channels=(1,), latent_channels=CHANNELS)

    def decode(self, latents: Tensor, **_: Any) -> tuple[Tensor]:
        return (latents,)


def tokenizer() -> Any:
    """A token for every letter of PROMPTS."""
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *PROMPTS, *(f"{letter}</w>" for letter in PROMPTS)]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=LENGTH)


def pipeline(seed: int) -> Any:
    """A StableDiffusionPipeline without autoencoder; its UNet has 1.1 million weights."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=SIZE, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1, norm_num_groups=8,
            block_out_channels=(48, 64), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=WIDTH, attention_head_dim=8,
        )  # fmt: skip
        config = CLIPTextConfig(
            vocab_size=2 + 2 * len(PROMPTS), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=LENGTH, eos_token_id=1, bos_token_id=0,
        )  # fmt: skip
        text = CLIPTextModel(config)
    pipe = StableDiffusionPipeline(
        vae=Same(), text_encoder=text.eval(), tokenizer=tokenizer(), unet=unet.eval(), safety_checker=None,
        scheduler=DDIMScheduler(**SCHEDULER), feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Prompted(nn.Module):
    """A UNet that attends to a prompt, with the prompt's number in the place of its embedding, a row of embeddings."""

    embeddings: Tensor

    def __init__(self, unet: Any, embeddings: Tensor) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings)
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return self.unet(x, t, self.embeddings[class_labels], return_dict=return_dict)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Text(Latent):
    """Latents (B, 4, 8, 8) under ten prompts, as the pipeline makes them."""

    def fresh(self, generator: torch.Generator) -> DiffusersDenoiser:
        pipe = pipeline(generator.initial_seed())
        with torch.no_grad():
            tokens = pipe.tokenizer([*PROMPTS, ""], padding="max_length", return_tensors="pt").input_ids
            network = Prompted(pipe.unet, pipe.text_encoder(tokens)[0])
        schedule = DiffusersSchedule({"_class_name": "DDIMScheduler", **SCHEDULER})
        return DiffusersDenoiser(network.eval(), schedule, self.conditioning)
