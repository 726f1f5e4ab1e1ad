"""Conditionings: the number of a condition -> keyword arguments of a network. Everything else sees the number alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from jaxtyping import Int
from torch import Tensor, nn

from pgdlab.config.schema import nearest

LARGEST = 2**30  # bytes of weights that a table by condition may have


def require_small(what: str, conditions: int, each: int, instead: str) -> None:
    """Raises ValueError for a table of more than LARGEST bytes, `each` for a condition, before it is made."""
    size = conditions * each
    if size > LARGEST:
        raise ValueError(
            f"{what} for each of {conditions:,} conditions are {size / 2**30:,.1f} GiB of weights, and four times as much with "
            f"their gradients and the optimizer's; at most {LARGEST / 2**30:g} GiB are made: {instead}"
        )


class Conditioning(nn.Module, ABC):
    """Conditions are numbered 0 .. size - 1; `unconditional` is the number that means "none". texts: their prompts, that of
    "none" (empty for classes) last; None for conditions without words."""

    def __init__(self, size: int, texts: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.size, self.texts = size, texts

    @property
    def unconditional(self) -> int:
        """The number that means "none"."""
        return self.size

    def numbers(self, conditions: Iterable[int | str]) -> tuple[int, ...]:
        """Conditions given by number or by text, as numbers. Raises ValueError for a text that is none of texts."""
        return tuple(c if isinstance(c, int) else self.number(c) for c in conditions)

    def number(self, text: str) -> int:
        """The number of a text."""
        if self.texts is None:
            raise ValueError(f"{text!r} is no condition here: they are numbers, 0 to {self.size}")
        if text not in self.texts:
            raise ValueError(f"{text!r} is no condition here.{nearest(text, (t for t in self.texts if t))}")
        return self.texts.index(text)

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
