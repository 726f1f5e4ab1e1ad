"""Molecules as classes of atoms and of bonds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from rdkit import Chem


class Encoded(NamedTuple):
    """types: of symbols, 0 past the last atom; bonds: orders 0..3 of the pairs i < j, row by row; size: heavy atoms; smiles:
    canonical, without stereo."""

    types: UInt8[Any, " N"]
    bonds: UInt8[Any, " P"]
    size: Any
    smiles: str


def encoded(mol: Chem.Mol, symbols: Sequence[str], atoms: int) -> Encoded:
    """A molecule of the given elements, of no more than `atoms` heavy atoms, hydrogens implicit. Kekulises mol in place."""
    smiles = Chem.MolToSmiles(mol, isomericSmiles=False)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    size = mol.GetNumAtoms()
    types, order = np.zeros(atoms, np.uint8), np.zeros((atoms, atoms), np.uint8)
    types[:size] = [symbols.index(atom.GetSymbol()) for atom in mol.GetAtoms()]
    for bond in mol.GetBonds():
        i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        order[i, j] = int(bond.GetBondTypeAsDouble())
    return Encoded(types, order[np.triu_indices(atoms, 1)], np.uint8(size), smiles)
