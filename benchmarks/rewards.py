"""Molecules per second of the fast molecule rewards beside RDKit's own calls: python benchmarks/rewards.py

Both sides start from the same arrays (atom types and bond orders of the 5,000 QM9 test molecules that ship) and end with the
property. RDKit's: build the RWMol of prepared atoms, sanitise, canonical SMILES (what tells copies apart), the property; for
"valid, no SMILES" it goes without the SMILES and counts pieces. Ours: decode to Molecules, score. Every molecule is new to the
reward, so that nothing is remembered. Rounds alternate; rates are medians of batches, "over" is the median of the ratios of
each pair. One thread, processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rdkit import Chem
from rdkit.Chem import QED as RDKIT_QED
from rdkit.Chem import rdMolDescriptors
from rdkit.DataStructs import TanimotoSimilarity

from pgdlab.molecules import fingerprints, qm9
from pgdlab.molecules.batch import ATOMS, BONDS, NUMBERS, SYMBOLS, Molecules
from pgdlab.molecules.known import test_sample, training_set
from pgdlab.molecules.properties import sa_score
from pgdlab.rewards.base import Reward
from pgdlab.rewards.molecule import properties, structure, validity

PAINS_BRENK = structure.catalog(("BRENK", "PAINS"))
PHENOL = "Oc1ccccc1"
MORGAN = fingerprints.generator()
LIKE_PHENOL = MORGAN.GetFingerprint(Chem.MolFromSmiles(PHENOL))

Bare = Callable[[Chem.Mol], Any]  # of a sanitised molecule


def named(of: Bare) -> Bare:
    """The property and the canonical SMILES."""
    return lambda mol: (Chem.MolToSmiles(mol, isomericSmiles=False), of(mol))


CASES: dict[str, tuple[Callable[[], Reward], Bare]] = {
    "valid": (validity.Valid, lambda mol: "." in Chem.MolToSmiles(mol, isomericSmiles=False)),
    "novel_valid": (validity.NovelValid, named(lambda mol: None)),
    "qed": (properties.QED, named(RDKIT_QED.qed)),
    "synthesizable": (properties.Synthesizable, named(sa_score().calculateScore)),
    "logp_window": (
        lambda: properties.LogP(low=1.0, high=3.0, width=1.0),
        named(rdMolDescriptors.CalcCrippenDescriptors),
    ),
    "tpsa_window": (lambda: properties.TPSA(low=20.0, high=90.0, width=20.0), named(rdMolDescriptors.CalcTPSA)),
    "alert_free": (structure.AlertFree, named(PAINS_BRENK.GetMatches)),
    "similarity": (
        lambda: structure.Similarity(to=PHENOL),
        named(lambda mol: TanimotoSimilarity(MORGAN.GetFingerprint(mol), LIKE_PHENOL)),
    ),
    "valid, no SMILES": (validity.Valid, lambda mol: len(Chem.GetMolFrags(mol)) == 1),
}


def bare(types: torch.Tensor, bonds: torch.Tensor, sizes: torch.Tensor, of: Bare) -> list[tuple[Chem.Mol, Any]]:
    """RDKit's calls, and what turns the arrays into their arguments; bonds are listed for the whole batch at once. Molecules
    and results are kept until the batch is done, as a reward needs them."""
    at = bonds.nonzero()
    listed: list[list[tuple[int, int, int]]] = [[] for _ in sizes]
    for (row, i, j), order in zip(at.tolist(), bonds[tuple(at.unbind(1))].tolist(), strict=True):
        listed[row].append((i, j, order))
    kept = []
    for kinds, size, each in zip(types.tolist(), sizes.tolist(), listed, strict=True):
        mol = Chem.RWMol()
        for kind in kinds[:size]:
            mol.AddAtom(ATOMS[SYMBOLS[kind]])
        for i, j, order in each:
            mol.AddBond(i, j, BONDS[order])
        Chem.SanitizeMol(mol, catchErrors=True)
        kept.append((mol, of(mol)))
    return kept


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


def ours(types: torch.Tensor, bonds: torch.Tensor, sizes: torch.Tensor, reward: Reward) -> Any:
    """The reward."""
    return reward.score(Molecules.from_graphs(types, bonds, sizes), torch.zeros(len(sizes), dtype=torch.long))


def timed(call: Callable[..., Any], *given: Any) -> float:
    """Processor seconds of a call, and of freeing what it made: of both sides alike, 5 microseconds a molecule."""
    begun = time.process_time()
    call(*given)
    return time.process_time() - begun


def main(rounds: int, batch: int) -> None:
    torch.set_num_threads(1)
    training_set()
    graphs, count = arrays(), len(test_sample())
    print(f"{'reward':17} {'RDKit/s':>9} {'ours/s':>9} {'over':>7}   medians of {rounds} batches of {batch}")
    for name, (make, of) in CASES.items():
        spent: dict[str, list[float]] = {"bare": [], "ours": []}
        for k in range(rounds):
            start = k * batch % (count - batch)
            some, reward = [x[start : start + batch] for x in graphs], make()
            sides = {"bare": (bare, *some, of), "ours": (ours, *some, reward)}
            for side in sorted(sides, reverse=bool(k % 2)):  # each comes first as often
                spent[side].append(timed(*sides[side]))
        rate = {side: batch / statistics.median(times) for side, times in spent.items()}
        over = statistics.median(b / a for a, b in zip(spent["bare"], spent["ours"], strict=True)) - 1
        print(f"{name:17} {rate['bare']:9,.0f} {rate['ours']:9,.0f} {over:7.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    main(options.rounds, options.batch)
