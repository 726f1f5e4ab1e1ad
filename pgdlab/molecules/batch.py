"""Decoded molecules: graphs of heavy atoms and kekulised bonds, and what RDKit makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from rdkit import Chem, rdBase
from torch import Tensor

from pgdlab.molecules.elements import NUMBER, VALENCES, Source

SYMBOLS = ("C", "N", "O", "F")
NUMBERS = tuple(NUMBER[symbol] for symbol in SYMBOLS)
ATOMS = {symbol: Chem.Atom(number) for symbol, number in NUMBER.items()}  # adding one copies it, faster than making it
VALENCE = tuple(VALENCES[symbol] for symbol in SYMBOLS)  # of neutral C, N, O, F
BONDS = (Chem.BondType.ZERO, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)  # class 0 is "no bond"
# RDKit's own clean-up would write a nitrogen of five bonds with charges, and accept it; here nothing has charges
STEPS = Chem.SanitizeFlags.SANITIZE_ALL ^ Chem.SanitizeFlags.SANITIZE_CLEANUP
REASONS = ("valence", "kekulisation", "other", "disconnected")  # why a graph is no valid molecule


def no_messages() -> Any:
    """RDKit's log is off until this is deleted: a bad sample is counted, not printed."""
    return rdBase.BlockLogs()


@dataclass(frozen=True, eq=False, slots=True)
class Molecule:
    """A graph that was decoded. mol: sanitised (STEPS: no charges are put in), its aromatic bonds perceived, all fragments
    kept, hydrogens implicit; or the bare graph where sanitising failed. reason: None for a valid molecule (sanitised and in one
    piece), else one of REASONS. smiles: canonical, without stereo, of all fragments; None where sanitising failed. geometry:
    with explicit hydrogens and a conformer of the coordinates that were generated; None where only a graph was.
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

    soft: what was decoded, as probabilities: of the classes of all atoms (four of nine for QM9), then of the four bond classes
    of all pairs (36) in the order of Source.pairs; all 0 for atoms that are not there and their pairs. None where only graphs
    are known. source: the data that they are generated after; None is QM9.
    """

    def __init__(
        self, each: Iterable[Molecule], soft: Float[Tensor, "B D"] | None = None, source: Source | None = None
    ) -> None:
        self.each, self.soft, self.source = list(each), soft, source

    @classmethod
    def from_graphs(
        cls,
        types: Int[Tensor, "B N"],
        bonds: Int[Tensor, "B N N"],
        sizes: Int[Tensor, " B"],
        soft: Float[Tensor, "B D"] | None = None,
        source: Source | None = None,
    ) -> Molecules:
        """types: 0, 1, ... of the source's elements, SYMBOLS for QM9. bonds: 0..3, the order, read above the diagonal. sizes:
        how many atoms count."""
        quiet = no_messages()
        symbols = SYMBOLS if source is None else source.symbols
        rows = zip(types.tolist(), listed(bonds, sizes), sizes.tolist(), strict=True)
        out = cls((decode(kinds[:size], orders, symbols) for kinds, orders, size in rows), soft, source)
        del quiet
        return out

    @classmethod
    def from_smiles(cls, smiles: Iterable[str]) -> Molecules:
        """The molecules of SMILES; one with charges or unpaired electrons fails by its valence, as a graph of its bonds would.
        Raises ValueError for one that RDKit does not read, or that has other atoms than those of elements.NUMBER and
        hydrogen."""
        return cls(map(read, smiles))

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
            return Molecules(self.each[at], None if self.soft is None else self.soft[at], self.source)
        return self.each[at]

    def __add__(self, other: Molecules) -> Molecules:
        """One batch after the other; soft where both have it."""
        soft = None if self.soft is None or other.soft is None else torch.cat([self.soft, other.soft])
        return Molecules([*self.each, *other.each], soft, self.source)

    def some(self, each: Iterable[Molecule]) -> Molecules:
        """Molecules of this batch, of the same source."""
        return Molecules(each, source=self.source)

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


def graph(types: Sequence[int], bonds: Sequence[tuple[int, int, int]], symbols: Sequence[str] = SYMBOLS) -> Chem.RWMol:
    """The bare, unsanitised RDKit graph of atom types (of symbols) and bonds (i, j, order 1..3)."""
    mol = Chem.RWMol()
    for kind in types:
        mol.AddAtom(ATOMS[symbols[kind]])
    for i, j, order in bonds:
        mol.AddBond(i, j, BONDS[order])
    return mol


def decode(types: Sequence[int], bonds: Sequence[tuple[int, int, int]], symbols: Sequence[str] = SYMBOLS) -> Molecule:
    """The molecule of a graph, see graph()."""
    return examined(graph(types, bonds, symbols))


def read(smiles: str) -> Molecule:
    """The molecule of a SMILES, see Molecules.from_smiles()."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError(f"{smiles!r} is no SMILES that RDKit reads")
    strange = sorted({atom.GetSymbol() for atom in mol.GetAtoms()} - set(NUMBER))
    if strange or not mol.GetNumAtoms():
        what = f"atoms {', '.join(strange)}" if strange else "no atom"
        raise ValueError(f"{smiles!r} has {what}; a molecule here is of {', '.join(NUMBER)} and their hydrogens")
    if any(atom.GetFormalCharge() or atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return Molecule(mol, "valence", None)
    return examined(mol)


def examined(mol: Chem.Mol) -> Molecule:
    """Sanitises mol in place, without charges, and says what is wrong with it."""
    failed = Chem.SanitizeMol(mol, STEPS, catchErrors=True)
    if failed != Chem.SanitizeFlags.SANITIZE_NONE:
        known = {
            Chem.SanitizeFlags.SANITIZE_PROPERTIES: "valence",
            Chem.SanitizeFlags.SANITIZE_KEKULIZE: "kekulisation",
        }
        return Molecule(mol, known.get(failed, "other"), None)
    smiles = Chem.MolToSmiles(mol, isomericSmiles=False)
    return Molecule(mol, "disconnected" if "." in smiles else None, smiles)
