"""Molecules: what graphs and atoms in space share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from pgdlab.config.program import program
from pgdlab.diffusion import files
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.domains.base import LabelledDomain
from pgdlab.rollout.trajectory import Samples


def in_hundred(counts: Mapping[int, int]) -> dict[int, int]:
    """Of 100, how many have each key, rounded; the most frequent has one at least."""
    total, most = sum(counts.values()), max(counts, key=lambda key: counts[key])
    rounded = {key: round(100 * count / total) for key, count in sorted(counts.items())}
    return {key: count for key, count in (rounded | {most: max(1, rounded[most])}).items() if count}


def spaced(shares: dict[int, int]) -> tuple[int, ...]:
    """Every key as often as its share says, spread evenly: any run of them has about these shares."""
    places = [((k + 0.5) / count, key) for key, count in shares.items() for k in range(count)]
    return tuple(key for _, key in sorted(places))


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeDomain(LabelledDomain):
    """The condition of a molecule is its number of atoms. train_conditions: those of training and evaluation, by default as
    they are shared among the data. weights: a folder with config.json and model.safetensors, or null for the base that
    ships. fcd: whether metrics compute the Frechet ChemNet distance (needs the extra molecules).
    """

    smallest: ClassVar[int] = 1
    counted: ClassVar[str] = "atoms"
    shipped: ClassVar[Path | None] = None
    unshipped: ClassVar[str] = "it needs a GPU's compute to be usable"

    train_conditions: tuple[int, ...]
    weights: str | None = None
    fcd: bool = False
    conditioning: Conditioning = field(init=False)

    def __post_init__(self) -> None:
        largest = self.conditioning.size - 1
        if not self.train_conditions or any(not self.smallest <= p <= largest for p in self.train_conditions):
            allowed = f"numbers of {self.counted}, {self.smallest} to {largest}"
            raise ValueError(f"train_conditions is {list(self.train_conditions)}; they must be {allowed}")

    @abstractmethod
    def build(self, **sizes: Any) -> NetworkDenoiser:
        """A denoiser with untrained weights; sizes: in place of the domain's."""

    def fresh(self, generator: torch.Generator) -> NetworkDenoiser:
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            return self.build()

    @property
    def pretraining(self) -> str:
        """The command that makes a base."""
        return f"{program()} experiment=pretrain/{self.name}"

    def base(self) -> NetworkDenoiser:
        again = f"Make one with `{self.pretraining}` and name its folder in domain.weights"
        folder = self.shipped if self.weights is None else Path(self.weights).expanduser()
        if folder is None:
            raise ValueError(f"no base of {self.name} ships: {self.unshipped}. {again}")
        try:
            with torch.random.fork_rng():
                denoiser = self.build(**files.sizes(folder))
            files.read(denoiser.network, folder)
        except (ValueError, TypeError) as error:
            raise ValueError(f"cannot load the base of {self.name} from {folder}: {error}. {again}") from error
        return denoiser.eval()

    def report(self, groups: dict[str, Samples], folder: Path) -> list[Path]:
        from pgdlab.molecules.report import report

        return report(self.decoder, groups, folder)
