"""A part of a text-to-image base: a network of a library's, and the loss that it is trained by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class Part(nn.Module, ABC):
    """network: has save_pretrained. seed: of what the loss draws."""

    def __init__(self, network: Any, seed: int) -> None:
        super().__init__()
        self.network = network.float().train()
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Of a batch, and figures of it that people look at."""


def pixels_of(picture: Shaped[Tensor, "B C S S"]) -> Float[Tensor, "B C S S"]:
    """Grey levels 0 to 255 -> [-1, 1]."""
    return picture.float() / 127.5 - 1
