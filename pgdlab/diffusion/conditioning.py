"""Conditionings: the number of a condition -> keyword arguments of a network. Everything else sees the number alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Int
from torch import Tensor, nn


class Conditioning(nn.Module, ABC):
    """Conditions are numbered 0 .. size - 1; `unconditional` is the number that means "none". texts: their prompts, that of
    "none" last; None for conditions without words."""

    def __init__(self, size: int, texts: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.size, self.texts = size, texts

    @property
    def unconditional(self) -> int:
        """The number that means "none"."""
        return self.size

    @abstractmethod
    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Tensor]:
        """Keyword arguments of a network for P rows."""


class ClassLabels(Conditioning):
    """Classes; the network embeds their numbers itself (diffusers' class_labels)."""

    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Tensor]:
        return {"class_labels": cond}


class NoLabels(Conditioning):
    """Nothing is told: the network has no input for it, or the denoiser reads the number itself (sizes of molecules)."""

    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Tensor]:
        return {}
