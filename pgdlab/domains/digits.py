"""Handwritten digits, 8x8: the 1,797 images that scikit-learn ships (from the UCI set of Alpaydin & Kaynak, 1998)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.domains.image import ImageDomain, stratified


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits(ImageDomain):
    """1,437 training and 360 test images; pixels count 0 to 16. Dropout keeps the base from learning them by heart."""

    classifiers: str | None = "digits"
    name: str = field(default="digits", init=False)
    classes: tuple[str, ...] = field(default=tuple("0123456789"), init=False)
    size: int = field(default=8, init=False)
    widths: tuple[int, ...] = field(default=(48, 64), init=False)
    dropout: float = field(default=0.1, init=False)

    def images(self) -> tuple[Tensor, Int[Tensor, " N"], Int[Tensor, " M"]]:
        from sklearn.datasets import load_digits

        loaded = load_digits()
        labels = torch.from_numpy(loaded.target).long()
        pixels = torch.from_numpy(loaded.images).float().unsqueeze(1)
        return pixels / 8 - 1, labels, stratified(labels, 5, seed=0)[0]

    def has_data(self) -> bool:
        return True
