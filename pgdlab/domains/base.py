"""Domains: conditions, how a sample is decoded, shown and measured, the pretrained base, and perhaps data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.space import Space
from pgdlab.rollout.trajectory import Samples


class Decoder(nn.Module, ABC):
    """Samples (B, *D) -> what rewards and people look at, a batch that slices. Its weights move with the policy's.

    differentiable: whether the result has gradients where the sample has. chunk: samples at a time, for decoders that need
    much memory and give out tensors; None for all of them. gives: the kind of what it gives out, "images" ((B, C, S, S) in
    [0, 1]), "molecules" (Molecules) or "points" ((B, D)), so that a reward of another kind is refused before it is asked; None
    where none of these is promised.
    """

    differentiable: bool = True
    chunk: int | None = None
    gives: str | None = None

    @abstractmethod
    def decode(self, sample: Tensor) -> Any:
        """The samples of one chunk."""

    def forward(self, sample: Tensor) -> Any:
        if self.chunk is None:
            return self.decode(sample)
        return torch.cat([self.decode(part) for part in sample.split(self.chunk)])


class Identity(Decoder):
    """A sample is what is looked at."""

    def decode(self, sample: Tensor) -> Tensor:
        return sample


class Domain(ABC):
    """Everything about a kind of data that the algorithms need not know."""

    name: str
    space: Space
    conditioning: Conditioning
    decoder: Decoder
    train_conditions: tuple[int, ...]  # what training conditions on, drawn uniformly
    test_conditions: tuple[int, ...] = ()  # what training never sees and a run is measured on at its end

    @property
    def eval_conditions(self) -> tuple[int, ...]:
        """What evaluation conditions on, in turn: those of training, unless a domain holds some out."""
        return self.train_conditions

    @abstractmethod
    def base(self) -> Denoiser:
        """The pretrained denoiser. Raises ValueError where its files are missing or broken, saying what to do."""

    @abstractmethod
    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        """Quality and diversity figures of B samples, each named in docs/metrics.md."""

    @abstractmethod
    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        """Writes one picture: a titled grid for every entry of rows (title -> samples (B, *D)). cond: the conditions (B,) of
        every entry, where they are alike and known, for captions."""

    def report(self, groups: dict[str, Samples], folder: Path) -> list[Path]:
        """Writes what people of the field want beside pictures and figures, of policies on the same noise (name -> samples),
        the one that was asked for last. Returns the files for the loggers: .png, .csv with a header, .sdf. None by default.
        """
        return []


class LabelledDomain(Domain):
    """A domain with data, so that a base can be trained on it."""

    @abstractmethod
    def fresh(self, generator: torch.Generator) -> Denoiser:
        """The architecture of the base before training."""

    @abstractmethod
    def data(self, split: str) -> tuple[Tensor, Int[Tensor, " N"]]:
        """Samples (N, *D) as the denoiser sees them, and their conditions, of the split "train" or "test"."""


def labelled(domain: Domain) -> LabelledDomain:
    """The domain. Raises ValueError where it has no data."""
    if not isinstance(domain, LabelledDomain):
        raise ValueError(f"domain {domain.name} has no data: a base cannot be trained on it")
    return domain
