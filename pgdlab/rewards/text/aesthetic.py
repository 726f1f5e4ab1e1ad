"""How well people would like an image, 1 to 10, whatever its prompt: LAION's predictors on an image encoder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdlab.rewards.base import Reward, Score
from pgdlab.rewards.text.base import require_images
from pgdlab.rewards.text.networks import DType, Network, found, model, preprocessing, transformers, weights_file


def linear_chain(state: Mapping[str, Tensor], name: str, key: str = "head") -> nn.Sequential:
    """The linear layers of a head, one after the other, nothing between them (there was dropout). They are named by numbers,
    0, 2, 4, 6 and 7 or 8. Raises ValueError where they do not form a chain that ends in one number."""
    weights = {n: w for n, w in state.items() if n.endswith(".weight") and w.dim() == 2}
    numbered = sorted((int(digits[-1]), n) for n in weights if (digits := re.findall(r"\d+", n)))
    layers = []
    for _, n in numbered:
        weight, bias = weights[n], state.get(n.removesuffix("weight") + "bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layers.append(layer)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    fits = all(a[1] == b[0] for a, b in itertools.pairwise(sizes))
    if not sizes or not fits or sizes[-1][1] != 1:
        raise ValueError(f"{key} is {name!r}, whose layers {sizes} are no chain that ends in one number")
    return nn.Sequential(*layers)


class Encoder(Network):
    """The direction of an image under a CLIP (its projection) or a SigLIP (what it pools), and a head on it."""

    def __init__(self, encoder: str, head: str, *, device: str | None, dtype: DType) -> None:
        config: Any = found(transformers().AutoConfig.from_pretrained, encoder, "encoder", trust_remote_code=False)
        kinds = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
        kind = config.model_type.removesuffix("_model").removesuffix("_vision")
        if kind not in kinds:
            raise ValueError(f"encoder is {encoder!r}, a {config.model_type}; it must be a clip or a siglip")
        chain = linear_chain(weights_file(head, "head"), head)
        network = model(kinds[kind], encoder, "encoder")
        gives = network.config.projection_dim if kind == "clip" else network.config.hidden_size
        if chain[0].in_features != gives:
            raise ValueError(f"head is {head!r}, for {chain[0].in_features} features, but the encoder gives {gives}")
        super().__init__(network, chain, device=device, dtype=dtype)
        self.preprocess = preprocessing(encoder, "encoder")
        self.gives = "image_embeds" if kind == "clip" else "pooler_output"

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B C height width"]) -> Float[Tensor, " B"]:
        """The head's number."""
        pixels = self.lent(self.preprocess(image.float()))
        direction = nn.functional.normalize(getattr(self.networks[0](pixel_values=pixels), self.gives))
        value: Tensor = self.networks[1](direction)
        return value.squeeze(-1).float().to(image.device)


class Aesthetic(Reward):
    """What people would say of an image, 1 to 10; part "aesthetic" is the same.

    encoder: folder or hub id, of a CLIP (for LAION's v2) or a SigLIP (for v2.5). head: the file of the predictor, a path or
    owner/name/file on the hub. batch: images at once, 0 for all. device, dtype: its own.
    """

    takes = "images"

    def __init__(
        self,
        *,
        encoder: str,
        head: str | None = None,
        batch: int = 64,
        device: str | None = None,
        dtype: DType = "float32",
    ) -> None:
        super().__init__()
        if head is None:
            raise ValueError(
                "head is missing: the file of the predictor (docs/rewards.md says where it is), or owner/name/file"
            )
        if batch < 0:
            raise ValueError(f"batch is {batch}; it must be a number of images, or 0 for all")
        self.batch, self.encoder = batch, Encoder(encoder, head, device=device, dtype=dtype)

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        require_images(sample.shape, self)
        value = self.encoder(sample)
        return Score.of(value, aesthetic=value)
