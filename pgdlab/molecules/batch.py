"""Decoded molecules: graphs of heavy atoms and kekulised bonds, and what RDKit makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from rdkit import Chem, rdBase
from torch import Tensor

SYMBOLS = ("C", "N", "O", "F")
NUMBERS = (6, 7, 8, 9)
ATOMS = tuple(Chem.Atom(number) for number in NUMBERS)  # adding one copies it, faster than making it
VALENCE = (4, 3, 2, 1)  # of neutral C, N, O, F
BONDS = (Chem.BondType.ZERO, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)  # class 0 is "no bond"
REASONS = ("valence", "kekulisation", "other", "disconnected")  # why a graph is no valid molecule


def no_messages() -> Any:
    """RDKit's log is off until this is deleted: a bad sample is counted, not printed."""
    return rdBase.BlockLogs()


@dataclass(frozen=True, eq=False, slots=True)
class Molecule:
    """A graph that was decoded. mol: sanitised, its aromatic bonds perceived, all fragments kept, hydrogens implicit;
    or the bare graph where sanitising failed. reason: None for a valid molecule (sanitised and in one piece), else one of
    REASONS. smiles: canonical, without stereo, of all fragments; None where sanitising failed. geometry: with explicit
    hydrogens and a conformer of the coordinates that were generated; None where only a graph was.
    """

    mol: Chem.Mol
    reason: str | None
    smiles: str | None
    geometry: Chem.Mol | None = None

    @property
    def valid(self) -> bool:
        """Sanitised and in one piece."""
        return self.reason is None

    @property
    def sanitised(self) -> bool:
        """RDKit accepts it, in however many pieces."""
        return self.smiles is not None


class Molecules(Sequence[Molecule]):
    """A batch of decoded molecules; a slice of it is one again.

    soft: what was decoded, as probabilities: of the four classes of all nine atoms, then of the four bond classes of all
    36 pairs in the order of qm9.PAIRS; all 0 for atoms that are not there and their pairs. None where only graphs are known.
    """

    def __init__(self, each: Iterable[Molecule], soft: Float[Tensor, "B D"] | None = None) -> None:
        self.each, self.soft = list(each), soft

    @classmethod
    def from_graphs(
        cls,
        types: Int[Tensor, "B N"],
        bonds: Int[Tensor, "B N N"],
        sizes: Int[Tensor, " B"],
        soft: Float[Tensor, "B D"] | None = None,
    ) -> Molecules:
        """types: 0..3 of SYMBOLS. bonds: 0..3, the order, read above the diagonal. sizes: how many atoms count."""
        quiet = no_messages()
        rows = zip(types.tolist(), listed(bonds, sizes), sizes.tolist(), strict=True)
        out = cls((decode(kinds[:size], orders) for kinds, orders, size in rows), soft)
        del quiet
        return out

    @classmethod
    def from_smiles(cls, smiles: Iterable[str]) -> Molecules:
        """The molecules of SMILES. Raises ValueError for one that RDKit does not read."""
        read = []
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            if mol is None:
                raise ValueError(f"{text!r} is no SMILES that RDKit reads")
            read.append(examined(mol))
        return cls(read)

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Molecule]:
        return iter(self.each)

    @overload
    def __getitem__(self, at: int) -> Molecule: ...
    @overload
    def __getitem__(self, at: slice) -> Molecules: ...
    def __getitem__(self, at: int | slice) -> Molecule | Molecules:
        if isinstance(at, slice):
            return Molecules(self.each[at], None if self.soft is None else self.soft[at])
        return self.each[at]

    def __add__(self, other: Molecules) -> Molecules:
        """One batch after the other; soft where both have it."""
        soft = None if self.soft is None or other.soft is None else torch.cat([self.soft, other.soft])
        return Molecules([*self.each, *other.each], soft)

    @property
    def valid(self) -> list[Molecule]:
        """The valid ones, in order."""
        return [m for m in self.each if m.valid]


def listed(bonds: Int[Tensor, "B N N"], sizes: Int[Tensor, " B"]) -> list[list[tuple[int, int, int]]]:
    """(i, j, order) of every bond above the diagonal between atoms that count, row by row."""
    present = torch.arange(bonds.shape[1], device=bonds.device) < sizes[:, None, None]
    at = (bonds * present).triu(1).nonzero()
    rows: list[list[tuple[int, int, int]]] = [[] for _ in range(len(bonds))]
    for (row, i, j), order in zip(at.tolist(), bonds[tuple(at.unbind(1))].tolist(), strict=True):
        rows[row].append((i, j, order))
    return rows


def graph(types: Sequence[int], bonds: Sequence[tuple[int, int, int]]) -> Chem.RWMol:
    """The bare, unsanitised RDKit graph of atom types (0..3) and bonds (i, j, order 1..3)."""
    mol = Chem.RWMol()
    for kind in types:
        mol.AddAtom(ATOMS[kind])
    for i, j, order in bonds:
        mol.AddBond(i, j, BONDS[order])
    return mol


def decode(types: Sequence[int], bonds: Sequence[tuple[int, int, int]]) -> Molecule:
    """The molecule of a graph, see graph()."""
    return examined(graph(types, bonds))


def examined(mol: Chem.Mol) -> Molecule:
    """Sanitises mol in place and says what is wrong with it."""
    failed = Chem.SanitizeMol(mol, catchErrors=True)
    if failed != Chem.SanitizeFlags.SANITIZE_NONE:
        known = {
            Chem.SanitizeFlags.SANITIZE_PROPERTIES: "valence",
            Chem.SanitizeFlags.SANITIZE_KEKULIZE: "kekulisation",
        }
        return Molecule(mol, known.get(failed, "other"), None)
    smiles = Chem.MolToSmiles(mol, isomericSmiles=False)
    return Molecule(mol, "disconnected" if "." in smiles else None, smiles)
