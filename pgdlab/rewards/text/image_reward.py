"""ImageReward (Xu et al. 2023, arXiv:2304.05977): a BLIP that reads the prompt while it looks at the image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.base import Score
from pgdlab.rewards.text.aesthetic import linear_chain
from pgdlab.rewards.text.base import Prompted, require_images
from pgdlab.rewards.text.networks import DType, Network, filled, tokenizer, transformers, weights_file
from pgdlab.rewards.text.open_clip import depth
from pgdlab.rewards.text.preprocessing import Preprocessing

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's output, as published with the weights
LONGEST = 35  # tokens of a prompt that are read
IMAGE, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
FLAT = {
    "cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding", "norm.": "post_layernorm.",
    "patch_embed.proj.": "embeddings.patch_embedding.",
}  # fmt: skip
IN_A_BLOCK = {
    "norm1.": "layer_norm1.", "norm2.": "layer_norm2.", "attn.qkv.": "self_attn.qkv.", "attn.proj.": "self_attn.projection.",
}  # fmt: skip


def part_of(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """The weights whose names begin so, without the beginning."""
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def in_transformers(name: str) -> str:
    """A name of BLIP's vision transformer as BlipVisionModel has it."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
    for old, new in (IN_A_BLOCK if block else FLAT).items():
        name = name.replace(old, new)
    return re.sub(r"^blocks\.", "encoder.layers.", name)


def image_encoder(state: Mapping[str, Tensor], name: str, heads: int) -> Any:
    """BLIP's vision transformer, its sizes read from the weights but for the heads."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    config = transformers().BlipVisionConfig(
        hidden_size=width, intermediate_size=len(state["blocks.0.mlp.fc1.weight"]), num_hidden_layers=depth(state, "blocks."),
        num_attention_heads=heads, image_size=patch * round((state["pos_embed"].shape[1] - 1) ** 0.5), patch_size=patch,
        hidden_act="gelu", layer_norm_eps=1e-6,
    )  # fmt: skip
    renamed = {in_transformers(key): value for key, value in state.items()}
    return filled(transformers().BlipVisionModel(config), renamed, name)


def text_encoder(state: Mapping[str, Tensor], name: str, heads: int) -> Any:
    """BLIP's BERT, with a cross attention to the image in every layer; transformers has its names."""
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    words, width = state["embeddings.word_embeddings.weight"].shape
    config = transformers().BlipTextConfig(
        vocab_size=words, hidden_size=width, num_attention_heads=heads, num_hidden_layers=depth(state, "encoder.layer."),
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
    )  # fmt: skip
    return filled(BlipTextModel(config, add_pooling_layer=False), state, name)


class Blip(Network):
    """The three parts of a checkpoint: an image, a prompt that is read with it, a number."""

    def __init__(
        self, weights: str, processor: str, heads: tuple[int, int], *, device: str | None, dtype: DType
    ) -> None:
        state = weights_file(weights)
        image, text, head = (part_of(state, start) for start in (IMAGE, TEXT, HEAD))
        try:
            parts = image_encoder(image, weights, heads[0]), text_encoder(text, weights, heads[1])
        except KeyError as error:
            raise ValueError(f"weights is {weights!r}, which is of another layout: it has no {error}") from error
        super().__init__(*parts, linear_chain(head, weights, "weights"), device=device, dtype=dtype)
        side = parts[0].config.image_size
        self.preprocess = Preprocessing(size=side, crop=(side, side))
        self.words = tokenizer("BertTokenizer", processor)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B C height width"], prompts: list[str]) -> Float[Tensor, " B"]:
        """The head's number of the first token, [CLS]."""
        seen = self.networks[0](pixel_values=self.lent(self.preprocess(image.float()))).last_hidden_state
        tokens = self.words(prompts, padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt")
        read = self.networks[1](
            input_ids=self.lent(tokens["input_ids"]), attention_mask=self.lent(tokens["attention_mask"]),
            encoder_hidden_states=seen, encoder_attention_mask=torch.ones_like(seen[..., 0]),
        )  # fmt: skip
        number: Tensor = self.networks[2](read.last_hidden_state[:, 0])
        return number.squeeze(-1).float().to(image.device)


class ImageReward(Prompted):
    """The head's number, less its mean over its standard deviation: about -2 to 2 (0 is an average image).

    weights: the file ImageReward.pt, a path or owner/name/file on the hub. processor: folder or hub id of BERT's tokenizer.
    heads: of the attentions, of the image's and of the text's encoder. prompt, batch: see Prompted. device, dtype: its own.
    """

    def __init__(
        self, *, weights: str, processor: str, heads: tuple[int, int] = (16, 12), prompt: str | None = None, batch: int = 64,
        device: str | None = None, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(prompt=prompt, batch=batch)
        self.blip = Blip(weights, processor, heads, device=device, dtype=dtype)

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        require_images(sample.shape, self)
        return Score.of((self.blip(sample, self.prompts(cond)) - MEAN) / STD)
