"""Fashion-MNIST, 28x28: 70,000 articles of clothing (Xiao et al. 2017, arXiv:1708.07747; MIT licence)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.domains.image import ImageDomain

ARTICLES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
HOW = (
    "name the folder with the four Fashion-MNIST files in domain.folder. Debian and Ubuntu have them as the package "
    "dataset-fashion-mnist (apt install dataset-fashion-mnist; it puts them in /usr/share/datasets/fashion-mnist); "
    "elsewhere: github.com/zalandoresearch/fashion-mnist"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fashion(ImageDomain):
    """The set's own 60,000 training and 10,000 test images. folder: where its files are; sampling does without."""

    folder: str | None = None
    classifiers: str | None = "fashion"
    name: str = field(default="fashion", init=False)
    classes: tuple[str, ...] = field(default=ARTICLES, init=False)
    size: int = field(default=28, init=False)
    widths: tuple[int, ...] = field(default=(24, 48, 96), init=False)

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


def read_idx(path: Path) -> Any:
    """The array in a file of LeCun's IDX format, gzipped or not (the format is described at yann.lecun.com/exdb/mnist).

    Raises ValueError where the file is missing, truncated or of another kind.
    """
    import gzip

    import numpy as np

    found = next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)
    if found is None:
        raise ValueError(f"there is no {path.name} or {path.name}.gz in {path.parent}")
    try:
        raw = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
        if raw[:3] != b"\x00\x00\x08":
            raise ValueError("its first bytes are not those of an IDX file of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise ValueError(f"{found} is truncated or not in the IDX format: {error}") from error
