"""Molecules of your own: a file of SMILES, as graphs of heavy atoms."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pgdlab.config.program import program
from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.graphs import GraphDenoiser, Graphs, Home
from pgdlab.domains.graph import GraphDecoder, GraphDomain, Shares
from pgdlab.domains.molecule import in_hundred, spaced
from pgdlab.molecules.elements import ORDERS, Source
from pgdlab.molecules.index import Known
from pgdlab.molecules.qm9 import split
from pgdlab.molecules.smiles import MOST, Library, library


@dataclass(frozen=True, kw_only=True, eq=False)
class Smiles(GraphDomain):
    """Molecules of a file of SMILES. path: .smi or .txt (a SMILES first in each line), .csv or .tsv (a column smiles), and .gz of
    these. atoms: heavy atoms at most, larger molecules are left out; null: 40. train_conditions: numbers of heavy atoms;
    null: as they are shared among the data. weights: a base that pretraining wrote; none ships.

    The elements are those of the data; a tenth of the molecules, 10,000 at most, is held out, as for qm9.
    """

    unshipped = "it is for your molecules"

    path: str | None = None
    atoms: int | None = None
    train_conditions: tuple[int, ...] | None = None  # type: ignore[assignment]  # numbers once it is made
    name: str = field(default="smiles", init=False)
    conditioning: Conditioning = field(init=False)
    library: Library = field(init=False)
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        if self.path is None:
            raise ValueError("domain.path is null; it must be your file of SMILES")
        if self.atoms is not None and not 2 <= self.atoms <= MOST:
            raise ValueError(f"atoms is {self.atoms}; it must be 2 to {MOST} heavy atoms")
        found = library(Path(self.path).expanduser().resolve(), self.atoms or MOST)
        space = Graphs(found.atoms, len(found.symbols), ORDERS)
        source = Source("smiles", found.symbols, found.atoms, lambda: self._training, lambda: self._test)
        sizes = dict(Counter(found.sizes.tolist()))
        made = {
            "library": found, "space": space, "source": source, "decoder": GraphDecoder(space, source),
            "conditioning": NoLabels(found.atoms + 1),
            "train_conditions": self.train_conditions or spaced(in_hundred(sizes)),
        }  # fmt: skip
        for key, value in made.items():
            object.__setattr__(self, key, value)
        super().__post_init__()

    @functools.cached_property
    def rows(self) -> dict[str, Any]:
        """Row numbers of both splits."""
        return split(self.library.smiles)

    @functools.cached_property
    def _training(self) -> Known:
        return Known.of(self.library.smiles[self.rows["train"]].tolist())

    @functools.cached_property
    def _test(self) -> tuple[str, ...]:
        return tuple(self.library.smiles[self.rows["test"]].tolist())

    @functools.cached_property
    def shares(self) -> Shares:
        types, bonds, sizes = self.graphs("train")
        real = np.arange(self.space.atoms) < sizes[:, None]
        both = real[:, self._pairs[0]] & real[:, self._pairs[1]]
        return Shares(counted(types[real], self.space.types), counted(bonds[both], ORDERS))

    @property
    def _pairs(self) -> Any:
        return np.triu_indices(self.space.atoms, 1)

    @property
    def valence(self) -> tuple[int, ...]:
        return self.source.valence

    @property
    def pretraining(self) -> str:
        return f"{program()} experiment=pretrain/smiles domain.path={self.path}"

    @property
    def home(self) -> Home:
        facts = {
            "elements": list(self.source.symbols), "atoms": self.space.atoms, "type_shares": list(self.shares.types),
            "bond_shares": list(self.shares.bonds),
        }  # fmt: skip
        return Home(f"domain=smiles domain.path={self.path}", "Smiles", "pgdlab.domains.smiles", facts)

    def graphs(self, split: str) -> tuple[Any, Any, Any]:
        rows, found = self.rows[split], self.library
        return found.types[rows], found.bonds[rows], found.sizes[rows]

    def build(self, **sizes: Any) -> GraphDenoiser:
        """As in GraphDomain. Raises ValueError for a base of other elements or sizes: its numbers would mean other atoms."""
        of: dict[str, Any] = {
            key: sizes.pop(key) for key in ("elements", "atoms", "type_shares", "bond_shares") if key in sizes
        }
        own = {"elements": list(self.source.symbols), "atoms": self.space.atoms}
        if of and {key: of.get(key) for key in own} != own:
            raise ValueError(
                f"it is of {', '.join(map(str, of.get('elements', [])))} with up to {of.get('atoms')} heavy atoms, and the "
                f"molecules of domain.path are of {', '.join(self.source.symbols)} with up to {self.space.atoms}"
            )
        if of:  # those that it was trained with, whatever the file has now
            sizes["shares"] = Shares(tuple(of["type_shares"]), tuple(of["bond_shares"]))
        return super().build(**sizes)


def counted(classes: Any, count: int) -> tuple[float, ...]:
    """Shares of classes 0..count-1; one that does not occur counts once, so that its logarithm is finite."""
    found = np.bincount(classes, minlength=count).clip(min=1)
    return tuple((found / found.sum()).tolist())
