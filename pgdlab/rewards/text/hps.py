"""Human Preference Score v2 (Wu et al. 2023, arXiv:2306.09341)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.text.clip import Clip, InClip
from pgdlab.rewards.text.networks import DType, preprocessing, tokenizer, weights_file
from pgdlab.rewards.text.open_clip import clip_of


class HPSv2(InClip):
    """Cosine between image and prompt under a CLIP that was tuned on people's choices, -1 to 1 (about .2 to .35; tables of HPS
    multiply by 100).

    weights: the file, in open_clip's layout: a path, or owner/name/file on the hub. heads: of the attentions, in both towers
    (ViT-H-14 has 16). processor: folder or hub id of the tokenizer and preprocessing. prompt, batch, device, dtype: as in
    ClipScore.
    """

    def __init__(
        self, *, weights: str, processor: str, heads: int = 16, prompt: str | None = None, batch: int = 64,
        device: str | None = None, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(prompt=prompt, batch=batch)
        network = clip_of(weights_file(weights), weights, heads)
        words, preprocess = tokenizer("CLIPTokenizer", processor), preprocessing(processor)
        self.clip = Clip(network, words, preprocess, device=device, dtype=dtype)

    def worth(self, cosine: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return cosine
