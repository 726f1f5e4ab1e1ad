"""Objects in images, found by an instance-segmentation network of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.rewards.text.networks import DType, Network, model, preprocessing


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object: its class, how sure that is (0..1), its pixels."""

    name: str
    score: float
    mask: Bool[Tensor, "height width"]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, in pixels."""
        rows, columns = self.mask.any(1).nonzero().squeeze(1), self.mask.any(0).nonzero().squeeze(1)
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Detector(Network):
    """A Mask2Former (Cheng et al. 2022, arXiv:2112.01527): a set of queries, each a class or none, and a mask."""

    def __init__(self, weights: str, *, device: str | None, dtype: DType) -> None:
        network = model("Mask2FormerForUniversalSegmentation", weights, "detector")
        super().__init__(network, device=device, dtype=dtype)
        self.preprocess = preprocessing(weights, "detector")
        if self.preprocess.crop is not None:
            raise ValueError(f"detector is {weights!r}, whose processor crops images; it must look at all of them")
        self.names: dict[int, str] = {int(k): str(v) for k, v in network.config.id2label.items()}

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B C height width"], least: float) -> list[list[Found]]:
        """The objects of each image that are at least so sure, the surest first."""
        output: Any = self.networks[0](pixel_values=self.lent(self.preprocess(image.float())))
        size = (image.shape[-2], image.shape[-1])
        rows = zip(output.class_queries_logits.float(), output.masks_queries_logits.float(), strict=True)
        return [objects(classes, masks, size, self.names, least) for classes, masks in rows]


def objects(
    classes: Float[Tensor, "Q K"],
    masks: Float[Tensor, "Q h w"],
    size: tuple[int, int],
    names: dict[int, str],
    least: float,
) -> list[Found]:
    """The objects among the queries of an image, the surest first. The last of K classes is "none". A score is the probability of
    the class times the mean probability of the mask's own pixels."""
    chance, number = classes.softmax(-1)[:, :-1].max(-1)
    inside = F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False).squeeze(1)
    own = inside > 0
    sure = (inside.sigmoid() * own).flatten(1).sum(1) / own.flatten(1).sum(1).clamp(min=1)
    score = chance * sure
    kept = [int(q) for q in score.argsort(descending=True) if score[q] >= least and own[q].any()]
    return [Found(name=names[int(number[q])], score=score[q].item(), mask=own[q]) for q in kept]
