"""Conditionings: the number of a condition -> keyword arguments of a network. Everything else sees the number alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.config.schema import nearest

SMALLEST_SPREAD = 1e-6  # of a coordinate of observations: one that never changes is divided by it
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


class Observations(Conditioning):
    """Observations of an environment, a row of a table each; the condition is the number of its row. The first `size` rows are
    given once and for all (demonstrations); what follows them is the current rollout's, written anew by each. Policies, their
    copies and the critic share one table: a copy of it is itself. mean, spread: what rows are normalised with.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, given: Float[Tensor, "M O"]) -> None:
        super().__init__(len(given))
        self.register_buffer("mean", given.mean(0).float())
        self.register_buffer("spread", given.std(0, correction=0).float().clamp(min=SMALLEST_SPREAD))
        self.table = given.float()  # no buffer: each process has rows of its own, and DDP makes buffers equal

    def __deepcopy__(self, memo: dict[int, object]) -> Observations:
        return self

    @property
    def width(self) -> int:
        """O."""
        return self.table.shape[1]

    def reserve(self, rows: int) -> Int[Tensor, " R"]:
        """Room for a rollout's rows in the place of the last one's; their numbers."""
        given = self.table[: self.size].to(self.mean.device)
        self.table = torch.cat([given, given.new_zeros(rows, self.width)])
        return torch.arange(self.size, self.size + rows, device=self.table.device)

    def write(self, cond: Int[Tensor, " R"], observation: Float[Tensor, "R O"]) -> None:
        """Fills in reserved rows."""
        self.table[cond] = observation.to(self.table)

    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Tensor]:
        self.table = self.table.to(cond.device)
        return {"observation": (self.table[cond] - self.mean) / self.spread}
