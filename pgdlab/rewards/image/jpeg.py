"""JPEG size (after Black et al. 2023, arXiv:2305.13301, sec. 5.1)."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.base import Reward, Score, ShapeError

SMALLEST = 16  # pixels a side; below, the file is all header


def require_jpeg(shape: Sequence[int], scale: int) -> None:
    """Raises ShapeError for images (B, C, height, width) that have no sensible size as a JPEG, whatever is in them."""
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ShapeError(f"JPEG size is of images (B, C, height, width) with 1 or 3 channels; these are {tuple(shape)}")
    height, width = shape[-2:]
    least = -(-SMALLEST // min(height, width))
    if scale < least:
        raise ShapeError(
            f"JPEG size says nothing at {height * scale} x {width * scale} pixels: set scale to {least} or more"
        )


class JpegSize(Reward):
    """Size of the image as a JPEG file, in kB of 1000 bytes: negative to reward compressibility, else positive.

    scale: each side is enlarged so many times first, smoothly (bicubic): below 16 pixels a side the file is all header,
    and such images are refused; so are those that are neither grey nor RGB.
    quality: JPEG's, 1 to 95. Part "kilobytes". A few hundred bytes of every file are its header.
    """

    takes = "images"

    def __init__(self, *, compress: bool = True, scale: int = 1, quality: int = 95) -> None:
        super().__init__()
        if scale < 1 or not 1 <= quality <= 95:
            raise ValueError(f"scale is {scale}, quality {quality}; scale must be at least 1, quality 1 to 95")
        self.compress, self.scale, self.quality = compress, scale, quality

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        require_jpeg(sample.shape, self.scale)
        pixels = (sample.detach().clamp(0, 1) * 255).round().nan_to_num().to(torch.uint8).cpu()
        size = torch.tensor([self._bytes(image) for image in pixels], dtype=torch.float64, device=sample.device) / 1000
        # a NaN has no size: the value says so, and counts as a failure
        size = torch.where(sample.flatten(1).isfinite().all(1), size, torch.nan)
        return Score.of(-size if self.compress else size, kilobytes=size)

    def _bytes(self, image: Tensor) -> int:
        from PIL import Image

        picture = Image.fromarray(image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())
        file = io.BytesIO()
        size = (picture.width * self.scale, picture.height * self.scale)
        picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=self.quality)
        return file.tell()
