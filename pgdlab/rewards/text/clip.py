"""How well an image fits its prompt: cosines in the space of a CLIP (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.config.program import located
from pgdlab.images.contrastive import words_of
from pgdlab.rewards.base import Score
from pgdlab.rewards.text.base import Prompted, require_images
from pgdlab.rewards.text.networks import DType, Network, model, preprocessing, tokenizer
from pgdlab.rewards.text.preprocessing import Preprocessing

REMEMBERED = 10_000  # prompts whose features are kept


def features(output: Any) -> Tensor:
    """What get_image_features and get_text_features give: a tensor before transformers 5, an output around it since."""
    return output if isinstance(output, Tensor) else output.pooler_output


class Clip(Network):
    """Images and texts in one space, as vectors of length 1."""

    def __init__(self, clip: Any, words: Any, preprocess: Preprocessing, *, device: str | None, dtype: DType) -> None:
        scale = clip.logit_scale.exp().item()  # before it is rounded
        super().__init__(clip, device=device, dtype=dtype)
        self.scale, self.words, self.preprocess = scale, words, preprocess
        self.longest = clip.config.text_config.max_position_embeddings
        self.known: dict[str, Tensor] = {}

    @property
    def clip(self) -> Any:
        """The CLIPModel."""
        return self.networks[0]

    def images(self, image: Float[Tensor, "B C height width"]) -> Float[Tensor, "B F"]:
        """Directions of grey or RGB images in [0, 1]."""
        pixels = self.lent(self.preprocess(image.float()))
        return torch.nn.functional.normalize(features(self.clip.get_image_features(pixel_values=pixels)).float())

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> Float[Tensor, "B F"]:
        """Directions of prompts, cut after `longest` tokens. Each prompt is encoded once."""
        new = [p for p in dict.fromkeys(prompts) if p not in self.known]
        if len(self.known) + len(new) > REMEMBERED:
            self.known, new = {}, list(dict.fromkeys(prompts))
        for start in range(0, len(new), 256):
            some = new[start : start + 256]
            tokens = self.words(some, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
            ids, mask = self.lent(tokens["input_ids"]), self.lent(tokens["attention_mask"])
            told = features(self.clip.get_text_features(input_ids=ids, attention_mask=mask)).float()
            self.known |= zip(some, torch.nn.functional.normalize(told).cpu(), strict=True)
        return torch.stack([self.known[p] for p in prompts])

    def cosines(self, image: Float[Tensor, "B C height width"], prompts: list[str]) -> Float[Tensor, " B"]:
        """Between each image and its prompt, where the image is."""
        return (self.images(image) * self.lent(self.texts(prompts)).float()).sum(-1).to(image.device)

    @classmethod
    def read(cls, weights: str, processor: str | None, *, device: str | None, dtype: DType) -> Clip:
        """A CLIPModel, and the tokenizer and preprocessing of `processor`, or of the same place."""
        network, place = model("CLIPModel", weights), processor or weights
        words = tokenizer("CLIPTokenizer", str(words_of(located(place))) if located(place).is_dir() else place)
        return cls(network, words, preprocessing(place), device=device, dtype=dtype)


class InClip(Prompted):
    """A reward that is a function of the cosine between image and prompt; part "cosine"."""

    differentiable = True
    clip: Clip

    @abstractmethod
    def worth(self, cosine: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Rewards of cosines."""

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        require_images(sample.shape, self)
        cosine = self.clip.cosines(sample, self.prompts(cond))
        return Score.of(self.worth(cosine), cosine=cosine)


class ClipScore(InClip):
    """Cosine between image and prompt, -1 to 1 (about .2 to .35 for what fits); Hessel et al. 2021, arXiv:2104.08718, multiply by
    2.5, torchmetrics by 100.

    weights: a folder or hub id of a CLIPModel. processor: of its tokenizer and preprocessing, null for the same. device, dtype:
    its own. prompt, batch: see Prompted.
    """

    def __init__(
        self, *, weights: str, processor: str | None = None, prompt: str | None = None, batch: int = 64,
        device: str | None = None, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(prompt=prompt, batch=batch)
        self.clip = Clip.read(weights, processor, device=device, dtype=dtype)

    def worth(self, cosine: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return cosine


class PickScore(InClip):
    """exp(logit scale) times the cosine, in nats: the difference of two images under a prompt is the log odds that a person picks
    the first (Kirstain et al. 2023, arXiv:2305.01569, eq. 1). About 18 to 24 with the public weights.

    weights, processor, prompt, batch, device, dtype: as in ClipScore.
    """

    def __init__(
        self, *, weights: str, processor: str | None = None, prompt: str | None = None, batch: int = 64,
        device: str | None = None, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(prompt=prompt, batch=batch)
        self.clip = Clip.read(weights, processor, device=device, dtype=dtype)

    def worth(self, cosine: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.clip.scale * cosine
