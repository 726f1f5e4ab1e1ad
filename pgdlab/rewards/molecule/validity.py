"""Validity and novelty of molecules."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize
from torch import Tensor

from pgdlab.molecules.batch import Molecule, Molecules, no_messages
from pgdlab.molecules.elements import NUMBER, VALENCES
from pgdlab.molecules.known import source_of
from pgdlab.rewards.base import Reward, Score
from pgdlab.rewards.molecule.base import REMEMBERED, CachedReward

TAUTOMERS = 200  # looked at of one molecule
ALLOWED = {
    1: 1,
    **{NUMBER[symbol]: valence for symbol, valence in VALENCES.items()},
}  # graphs from coordinates have hydrogens


def within_valence(mol: Chem.Mol) -> float:
    """Share of the atoms whose bond orders add up to no more than a neutral atom has, 0..1."""
    total = [0.0] * mol.GetNumAtoms()
    for bond in mol.GetBonds():
        order = bond.GetBondTypeAsDouble()
        total[bond.GetBeginAtomIdx()] += order
        total[bond.GetEndAtomIdx()] += order
    fits = [have <= ALLOWED[atom.GetAtomicNum()] for have, atom in zip(total, mol.GetAtoms(), strict=True)]
    return sum(fits) / max(1, len(fits))


def forms(molecule: Molecule) -> set[str]:
    """Canonical SMILES, without stereo, of a valid molecule's tautomers, itself among them."""
    enumerator = rdMolStandardize.TautomerEnumerator()
    enumerator.SetMaxTautomers(TAUTOMERS)
    quiet = no_messages()
    found = {Chem.MolToSmiles(mol, isomericSmiles=False) for mol in enumerator.Enumerate(molecule.mol)}
    del quiet
    return found | {str(molecule.smiles)}


class Valid(Reward):
    """1 for a molecule that RDKit sanitises and that is in one piece.

    Partial credit: `disconnected` for one that is sanitised and in pieces; `partial` times the share of atoms within their
    valence for one that is not sanitised. Parts: "valid" and "sanitised" (0 or 1), "within_valence" (the share; 1 where
    sanitised).
    """

    takes = "molecules"

    def __init__(self, *, disconnected: float = 0.0, partial: float = 0.0) -> None:
        super().__init__()
        if not (0 <= disconnected <= 1 and 0 <= partial <= 1):
            raise ValueError(f"disconnected is {disconnected}, partial {partial}; both must be 0 to 1")
        self.disconnected, self.partial = disconnected, partial

    def score(self, sample: Molecules, cond: Tensor) -> Score:
        table = [self.row(m) for m in sample]
        columns = torch.tensor(table, dtype=torch.float64, device=cond.device).reshape(len(table), 4)
        value, valid, sanitised, share = columns.unbind(1)
        return Score.of(value, valid=valid, sanitised=sanitised, within_valence=share)

    def row(self, molecule: Molecule) -> tuple[float, float, float, float]:
        """Worth, valid, sanitised, share of atoms within their valence."""
        if molecule.reason is None:
            return 1.0, 1.0, 1.0, 1.0
        if molecule.sanitised:
            return self.disconnected, 0.0, 1.0, 1.0
        share = within_valence(molecule.mol)
        return self.partial * share, 0.0, 0.0, share


class NovelValid(CachedReward):
    """1 for a valid molecule that is not in the training set, `known` for one that is, 0 for an invalid one.

    tautomers: whether a tautomer of a training molecule is known too, as CC(O)=N is of acetamide: those of RDKit's enumerator,
    TAUTOMERS at most. The figures `novel` and `vun` are by the molecule's own SMILES all the same. Part "novel": 1 or 0 of valid
    ones.
    """

    part = "novel"

    def __init__(self, *, known: float = 0.3, tautomers: bool = False, remembered: int = REMEMBERED) -> None:
        super().__init__(remembered=remembered)
        if not 0 <= known <= 1:
            raise ValueError(f"known is {known}; it must be 0 to 1, of which 1 is what a novel molecule is worth")
        self.known, self.tautomers = known, tautomers

    def score(self, sample: Molecules, cond: Tensor) -> Score:
        source_of(sample).training()  # where it is missing, that is an error here and not a failure on every molecule
        return super().score(sample, cond)

    def ask(self, molecules: Molecules) -> list[float]:
        training = source_of(molecules).training()
        novel = ~training.contains([str(m.smiles) for m in molecules])
        if self.tautomers:
            novel &= [not (new and training.contains(forms(m)).any()) for m, new in zip(molecules, novel, strict=True)]
        return novel.astype(float).tolist()

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.where(quantity == 1, quantity, self.known)


class Distinct(Reward):
    """reward, of which the second and later copies of a molecule in a batch get `repeat` at most.

    The batch is what a process scores at once, so that here a row depends on its company: the copies of other processes
    and of other iterations are not seen. Parts: the reward's, and "first" (1 of a valid molecule that is no copy of an
    earlier one, 0 of a copy, NaN of an invalid one).
    """

    takes = "molecules"

    def __init__(self, *, reward: Reward, repeat: float = 0.0) -> None:
        super().__init__()
        self.reward, self.repeat = reward, repeat

    def compares(self) -> bool:
        return True

    def score(self, sample: Molecules, cond: Tensor) -> Score:
        inner, seen = self.reward.scored(sample, cond), set[str]()
        first = []
        for m in sample:
            first.append(float(m.smiles not in seen) if m.valid else math.nan)
            seen.add(str(m.smiles))
        copies = torch.tensor(first, dtype=torch.float64, device=cond.device)
        value = torch.where(copies == 0, inner.value.clamp(max=self.repeat), inner.value)
        return Score(value, inner.measured, {**inner.parts, "first": copies})
