"""A domain: data, conditions, how a sample is decoded, shown and measured, and the pretrained base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.space import Space
from pgdlab.rollout.trajectory import Samples


class Domain(ABC):
    """Everything about a kind of data that the algorithms need not know."""

    name: str
    space: Space
    conditioning: Conditioning
    train_conditions: tuple[int, ...]  # what training and evaluation condition on, drawn uniformly

    @abstractmethod
    def base(self) -> Denoiser:
        """The pretrained denoiser. Raises ValueError where its files are missing or broken, saying what to do."""

    @abstractmethod
    def fresh(self, generator: torch.Generator) -> Denoiser:
        """The same architecture before training, for task=pretrain."""

    @abstractmethod
    def data(self, split: str) -> tuple[Tensor, Int[Tensor, " N"]]:
        """Samples (N, *D) as the denoiser sees them, and their classes, of the split "train" or "test"."""

    @abstractmethod
    def decode(self, sample: Tensor) -> Any:
        """Samples (B, *D) -> what rewards and people look at; a batch that slices."""

    @abstractmethod
    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        """Quality and diversity figures of B samples, each named in docs/metrics.md."""

    @abstractmethod
    def show(self, rows: dict[str, Tensor], path: Path) -> None:
        """Writes one picture: a titled grid for every entry of rows (title -> samples (B, *D))."""

    def report(self, groups: dict[str, Samples], folder: Path) -> list[Path]:
        """Writes what people of the field want beside pictures and figures, of policies on the same noise (name -> samples),
        the one that was asked for last. Returns the files for the loggers: .png, .csv with a header, .sdf. None by default.
        """
        return []
