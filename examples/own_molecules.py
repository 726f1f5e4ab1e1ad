"""Molecules with a property of your own: RDKit molecules in, scores out. An invalid molecule is None, and worth nothing here."""

from __future__ import annotations

import sys

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

import pgdlab


def donors(molecules: list[Chem.Mol | None], prompts: list[int]) -> list[float]:
    """Donors of hydrogen bonds, of at most 3. The prompts are the numbers of atoms that were asked for."""
    return [0.0 if mol is None else min(3.0, rdMolDescriptors.CalcNumHBD(mol)) for mol in molecules]


def main(overrides: list[str]) -> pgdlab.Run:
    """Trains on graphs of QM9's atoms, and prints what is drawn from the result."""
    run = pgdlab.train("molecules/ppo", reward=donors, overrides=["name=donors", *overrides])
    drawn = run.sample(20, seed=1)
    print(run)
    print("SMILES of 20 samples:", *(Chem.MolToSmiles(mol) for mol in drawn if mol is not None))
    return run


if __name__ == "__main__":
    main(sys.argv[1:])
