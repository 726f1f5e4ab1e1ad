"""Fashion-MNIST, 28x28: 70,000 articles of clothing (Xiao et al. 2017, arXiv:1708.07747; MIT licence)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.domains.image import ImageDomain, read_idx

HOW = (
    "name the folder with the four Fashion-MNIST files in domain.folder. Debian and Ubuntu have them as the package "
    "dataset-fashion-mnist (apt install dataset-fashion-mnist; it puts them in /usr/share/datasets/fashion-mnist); "
    "elsewhere: github.com/zalandoresearch/fashion-mnist"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fashion(ImageDomain):
    """The set's own 60,000 training and 10,000 test images. folder: where its files are; sampling does without."""

    folder: str | None = None
    name: str = field(default="fashion", init=False)
    size: int = field(default=28, init=False)
    channels: tuple[int, ...] = field(default=(24, 48, 96), init=False)

    def images(self) -> tuple[Tensor, Int[Tensor, " N"], Int[Tensor, " M"]]:
        if self.folder is None:
            raise ValueError(f"domain fashion needs its data here: {HOW}")
        folder, pixels, labels = Path(self.folder).expanduser(), [], []
        try:
            for part in ("train", "t10k"):
                pixels.append(torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte").copy()))
                labels.append(torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte").copy()).long())
        except ValueError as error:
            raise ValueError(f"domain.folder is {self.folder!r}: {error}; {HOW}") from error
        if pixels[0].shape[1:] != (28, 28) or len(torch.cat(pixels)) != len(torch.cat(labels)):
            raise ValueError(f"domain.folder is {self.folder!r}: not 28x28 images with a class each; {HOW}")
        seen, every = len(pixels[0]), torch.cat(pixels)
        return every.unsqueeze(1).float() / 127.5 - 1, torch.cat(labels), torch.arange(seen, len(every))

    def has_data(self) -> bool:
        return self.folder is not None
