"""Images as a pretrained network reads them: resized, cropped, normalised. On tensors, where the samples are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.text.base import colour

FILTERS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, which preprocessor_config.json has
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's CLIP


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """size: of the shorter side, or (height, width), which need not keep the proportions. longest: the longer side at most,
    None for any. crop: (height, width) of the middle that is kept, None for all. mean, std: of a channel, in grey levels of
    [0, 1]. mode: of the resizing, antialiased.

    PIL, which the processors of transformers use, rounds to 256 grey levels after each direction of a resizing; this does not. On
    photographs the difference is .004 in the mean, .12 at most, in standard deviations of a channel (a grey level is .015).
    """

    size: int | tuple[int, int] = 224
    longest: int | None = None
    crop: tuple[int, int] | None = (224, 224)
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    mode: str = "bicubic"

    def __post_init__(self) -> None:
        smallest = (self.size, self.size) if isinstance(self.size, int) else self.size
        if self.crop is not None and (self.crop[0] > smallest[0] or self.crop[1] > smallest[1]):
            raise ValueError(f"images of size {self.size} have no middle of {self.crop} pixels")

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Of a preprocessor_config.json. Raises ValueError for what is not done here."""
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if not config.get(step, True):
                raise ValueError(f"{step} is false in the processor's configuration; only true is supported")
        number = int(config.get("resample", 3))
        if number not in FILTERS:
            raise ValueError(
                f"resample is {number} in the processor's configuration; it must be 2 (bilinear) or 3 (bicubic)"
            )
        size = sides(config.get("size", 224))
        crops = config.get("do_center_crop") and config.get("crop_size") is not None
        crop = sides(config["crop_size"]) if crops else None
        mean, std = (
            tuple(map(float, config.get(f"image_{k}") or d)) for k, d in (("mean", CLIP_MEAN), ("std", CLIP_STD))
        )
        crop = (crop, crop) if isinstance(crop, int) else crop
        limit = config["size"].get("longest_edge") if isinstance(config.get("size"), Mapping) else None
        return cls(size=size, longest=limit, crop=crop, mode=FILTERS[number], mean=mean, std=std)

    def __call__(self, image: Float[Tensor, "B C height width"]) -> Float[Tensor, "B 3 h w"]:
        """Of grey or RGB images in [0, 1]."""
        resized = F.interpolate(colour(image), self.resized(*image.shape[-2:]), mode=self.mode, antialias=True).clamp(
            0, 1
        )
        if self.crop is not None:
            top, left = ((have - keep) // 2 for have, keep in zip(resized.shape[-2:], self.crop, strict=True))
            resized = resized[..., top : top + self.crop[0], left : left + self.crop[1]]
        return (resized - resized.new_tensor(self.mean)[:, None, None]) / resized.new_tensor(self.std)[:, None, None]

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the crop. The longer side is rounded down, as transformers does."""
        if not isinstance(self.size, int):
            return self.size
        shorter, longer, size = min(height, width), max(height, width), float(self.size)
        if self.longest is not None and size * longer / shorter > self.longest:
            size = self.longest * shorter / longer
        return int(size * height / shorter), int(size * width / shorter)


def sides(size: Any) -> int | tuple[int, int]:
    """A size as a preprocessor_config.json states it: a number, {"shortest_edge": n} or {"height": h, "width": w}. Raises
    ValueError for others."""
    if isinstance(size, int):
        return size
    if "shortest_edge" in size:
        return int(size["shortest_edge"])
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    raise ValueError(
        f"size is {size} in the processor's configuration; it must name the shortest_edge, or height and width"
    )
