"""Molecules per second of the fast molecule rewards beside RDKit's own calls: python benchmarks/rewards.py

Both sides start from the same arrays (atom types and bond orders of the 5,000 QM9 test molecules that ship) and end with the
property. Bare: build the RWMol, sanitise, canonical SMILES (what tells copies apart), the property. Ours: decode to Molecules,
score. Every molecule is new to the reward, so that nothing is remembered. Rounds alternate; the figures are medians over them
of the time for a batch. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rdkit import Chem
from rdkit.Chem import QED as RDKIT_QED
from rdkit.Chem import rdMolDescriptors
from rdkit.DataStructs import TanimotoSimilarity

from pgdlab.molecules import qm9
from pgdlab.molecules.batch import BONDS, NUMBERS, Molecules
from pgdlab.molecules.known import test_sample, training_set
from pgdlab.molecules.properties import sa_score
from pgdlab.rewards.base import Reward
from pgdlab.rewards.molecule import properties, structure, validity

PAINS_BRENK = structure.catalog(("BRENK", "PAINS"))
PHENOL = "Oc1ccccc1"
MORGAN = structure.generator((2, 2048))
LIKE_PHENOL = MORGAN.GetFingerprint(Chem.MolFromSmiles(PHENOL))

Bare = Callable[[Chem.Mol, str], Any]
CASES: dict[str, tuple[Callable[[], Reward], Bare]] = {
    "valid": (validity.Valid, lambda mol, smiles: "." in smiles),
    "novel_valid": (validity.NovelValid, lambda mol, smiles: None),
    "qed": (properties.QED, lambda mol, smiles: RDKIT_QED.qed(mol)),
    "synthesizable": (properties.Synthesizable, lambda mol, smiles: sa_score().calculateScore(mol)),
    "logp_window": (
        lambda: properties.LogP(low=1, high=3, width=1),
        lambda mol, smiles: rdMolDescriptors.CalcCrippenDescriptors(mol)[0],
    ),
    "tpsa_window": (
        lambda: properties.TPSA(low=20, high=90, width=20),
        lambda mol, smiles: rdMolDescriptors.CalcTPSA(mol),
    ),
    "alert_free": (structure.AlertFree, lambda mol, smiles: PAINS_BRENK.GetMatches(mol)),
    "similarity": (
        lambda: structure.Similarity(to=PHENOL),
        lambda mol, smiles: TanimotoSimilarity(MORGAN.GetFingerprint(mol), LIKE_PHENOL),
    ),
}


def bare(rows: Sequence[tuple[list[int], list[tuple[int, int, int]]]], of: Bare) -> list[str]:
    """RDKit's calls and nothing else; known bonds are listed, not looked for."""
    smiles = []
    for numbers, bonds in rows:
        mol = Chem.RWMol()
        for number in numbers:
            mol.AddAtom(Chem.Atom(number))
        for i, j, order in bonds:
            mol.AddBond(i, j, BONDS[order])
        Chem.SanitizeMol(mol, catchErrors=True)
        smiles.append(Chem.MolToSmiles(mol, isomericSmiles=False))
        of(mol, smiles[-1])
    return smiles


def arrays() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Types (N, 9), bond orders (N, 9, 9) and sizes (N,) of the test molecules."""
    smiles = test_sample()
    types = torch.zeros(len(smiles), qm9.ATOMS, dtype=torch.long)
    bonds = torch.zeros(len(smiles), qm9.ATOMS, qm9.ATOMS, dtype=torch.long)
    sizes = torch.zeros(len(smiles), dtype=torch.long)
    for row, text in enumerate(smiles):
        mol = Chem.MolFromSmiles(text)
        Chem.Kekulize(mol, clearAromaticFlags=True)
        sizes[row] = mol.GetNumAtoms()
        for atom in mol.GetAtoms():
            types[row, atom.GetIdx()] = NUMBERS.index(atom.GetAtomicNum())
        for bond in mol.GetBonds():
            i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
            bonds[row, i, j] = int(bond.GetBondTypeAsDouble())
    return types, bonds, sizes


def listed(types: torch.Tensor, bonds: torch.Tensor, sizes: torch.Tensor) -> list[Any]:
    """The same as plain lists of numbers and bonds."""
    return [
        (
            [NUMBERS[k] for k in kinds[:size].tolist()],
            [(*at, int(orders[tuple(at)])) for at in orders.nonzero().tolist()],
        )
        for kinds, orders, size in zip(types, bonds, sizes.tolist(), strict=True)
    ]


def main(rounds: int, batch: int) -> None:
    torch.set_num_threads(1)
    training_set()
    types, bonds, sizes = arrays()
    rows, cond = listed(types, bonds, sizes), torch.zeros(batch, dtype=torch.long)
    print(f"{'reward':14} {'RDKit/s':>9} {'ours/s':>9} {'over':>7}   medians of {rounds} batches of {batch}")
    for name, (make, of) in CASES.items():
        spent: dict[str, list[float]] = {"bare": [], "ours": []}
        bare(rows[:batch], of)
        for k in range(rounds):
            start = k * batch % (len(rows) - batch)
            chosen, reward = slice(start, start + batch), make()
            begun = time.perf_counter()
            bare(rows[chosen], of)
            middle = time.perf_counter()
            reward.score(Molecules.from_graphs(types[chosen], bonds[chosen], sizes[chosen]), cond)
            spent["bare"].append(middle - begun)
            spent["ours"].append(time.perf_counter() - middle)
        theirs, ours = (batch / statistics.median(spent[side]) for side in ("bare", "ours"))
        print(f"{name:14} {theirs:9,.0f} {ours:9,.0f} {theirs / ours - 1:7.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    main(options.rounds, options.batch)
