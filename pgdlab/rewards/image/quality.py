"""Image quality with no reference image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.base import Reward, Score


def laplacian_sharpness(image: Float[Tensor, "B C S S"]) -> Float[Tensor, " B"]:
    """Standard deviation of the 4-neighbour Laplacian over inner pixels, /4: in grey levels of [0, 1]
    (variance of Laplacian: Pech-Pacheco et al. 2000, ICPR, "Diatom autofocusing in brightfield microscopy")."""
    inner = image[..., 1:-1, 1:-1]
    around = image[..., :-2, 1:-1] + image[..., 2:, 1:-1] + image[..., 1:-1, :-2] + image[..., 1:-1, 2:]
    return F.relu((around / 4 - inner).flatten(1).var(1, correction=0)).sqrt()


class Quality(Reward):
    """sharpness * s + contrast * c - total_variation * v, each in grey levels of [0, 1]; the arguments are the weights.

    Parts: "sharpness" (standard deviation of the Laplacian), "contrast" (standard deviation of the pixels), and
    "total_variation" (mean over pixels of |down| + |right| differences, Rudin, Osher & Fatemi 1992), raised by noise.
    """

    takes, differentiable = "images", True

    def __init__(self, *, sharpness: float = 1.0, contrast: float = 1.0, total_variation: float = 0.5) -> None:
        super().__init__()
        self.sharpness, self.contrast, self.total_variation = sharpness, contrast, total_variation

    def score(self, sample: Float[Tensor, "B C S S"], cond: Tensor) -> Score:
        from torchmetrics.functional.image import total_variation

        sharpness = laplacian_sharpness(sample)
        contrast = sample.flatten(1).std(1, correction=0)
        variation = total_variation(sample, reduction="none") / sample[0].numel()
        value = self.sharpness * sharpness + self.contrast * contrast - self.total_variation * variation
        return Score.of(value, sharpness=sharpness, contrast=contrast, total_variation=torch.as_tensor(variation))
