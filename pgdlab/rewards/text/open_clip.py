"""Weights of open_clip in the names of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pgdlab.rewards.text.networks import filled, transformers

FLAT = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
IN_A_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of open_clip's CLIP as one of CLIPModel: the same weights, the fused projection of an attention in three parts.
    What has no counterpart keeps its name."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        visual = name.startswith("visual.")
        tower, rest = ("vision_model", name.removeprefix("visual.")) if visual else ("text_model", name)
        if rest in ("proj", "text_projection"):
            out["visual_projection.weight" if visual else "text_projection.weight"] = value.T.contiguous()
        elif rest in FLAT:
            out[f"{tower}.{FLAT[rest]}"] = value
        elif rest.startswith("transformer.resblocks."):
            number, _, part = rest.removeprefix("transformer.resblocks.").partition(".")
            out |= in_a_block(f"{tower}.encoder.layers.{number}.", part, value)
        else:
            out[name] = value
    return out


def in_a_block(at: str, part: str, value: Tensor) -> dict[str, Tensor]:
    """A weight of a block of a transformer: one weight, or those of query, key and value."""
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        return {f"{at}self_attn.{x}_proj.{kind}": w.contiguous() for x, w in zip("qkv", value.chunk(3), strict=True)}
    layer, _, kind = part.rpartition(".")
    return {f"{at}{IN_A_BLOCK.get(layer, layer)}.{kind}": value}


def depth(state: Mapping[str, Tensor], start: str) -> int:
    """Blocks of a transformer whose names begin so."""
    return len({name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)})


def clip_of(state: Mapping[str, Tensor], name: str, heads: int) -> Any:
    """The CLIPModel of a state of open_clip, its sizes read from the weights but for the heads of its attentions. The activation
    is gelu, which OpenAI's own weights have not. Raises ValueError for another layout."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        places = len(state["visual.positional_embedding"]) - 1
        words, size = state["token_embedding.weight"].shape
        longest, space = len(state["positional_embedding"]), state["text_projection"].shape[1]
        inner, text_inner = (len(state[f"{tower}transformer.resblocks.0.mlp.c_fc.weight"]) for tower in ("visual.", ""))
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"weights is {name!r}, which is no CLIP in the layout of open_clip: {error} is missing"
        ) from error
    library = transformers()
    config = library.CLIPConfig(
        projection_dim=space,
        text_config={
            "vocab_size": words, "hidden_size": size, "intermediate_size": text_inner, "num_attention_heads": heads,
            "num_hidden_layers": depth(state, "transformer.resblocks."), "max_position_embeddings": longest,
            "hidden_act": "gelu", "projection_dim": space, "bos_token_id": words - 2, "eos_token_id": words - 1,
        },
        vision_config={
            "hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads, "patch_size": patch,
            "num_hidden_layers": depth(state, "visual.transformer.resblocks."), "image_size": patch * round(places**0.5),
            "hidden_act": "gelu", "projection_dim": space,
        },
    )  # fmt: skip
    return filled(library.CLIPModel(config), renamed(state), name)
