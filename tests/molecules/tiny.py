"""A small stand-in for the prepared file of QM9 in space, and a base with random weights."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from pgdlab.domains.qm9_3d import QM9InSpace
from pgdlab.molecules import known, qm9

_FOLDERS = tempfile.TemporaryDirectory(prefix="pgdlab-molecules-")


def relaxed(smiles: str, seed: int = 1) -> Chem.Mol:
    """With hydrogens and a relaxed conformer of RDKit's."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return mol


def atoms_of(*mols: Chem.Mol) -> tuple[torch.Tensor, torch.Tensor]:
    """Atomic numbers (B, 29) and coordinates (B, 29, 3)."""
    numbers, xyz = torch.zeros(len(mols), qm9.ALL_ATOMS, dtype=torch.long), torch.zeros(len(mols), qm9.ALL_ATOMS, 3)
    for row, mol in enumerate(mols):
        n = mol.GetNumAtoms()
        numbers[row, :n] = torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        xyz[row, :n] = torch.from_numpy(mol.GetConformer().GetPositions()).float()
    return numbers, xyz


def write_3d(folder: Path, count: int = 20) -> None:
    """The prepared file, of the first molecules of the sample that ships with conformers of RDKit's. Its reader looks into
    $PGDLAB_CACHE once in a process: a test replaces qm9.load_3d."""
    smiles = known.test_sample()[:count]
    numbers, xyz = atoms_of(*map(relaxed, smiles))
    path = folder / f"qm9_3d_v{qm9.VERSION}.npz"
    np.savez(path, numbers=numbers.numpy().astype(np.uint8), xyz=xyz.numpy(), smiles=np.array(smiles))


def write_graphs(folder: Path, smiles: Sequence[str] = known.test_sample()[:60]) -> None:
    """The prepared file of graphs, of some molecules of the sample that ships; no coordinates."""
    nowhere = np.zeros((qm9.ATOMS, 3))
    kept = [qm9.arrays(Chem.MolFromSmiles(text), qm9.Record(text, [], nowhere)) for text in smiles]
    columns = dict(zip(qm9.Graphs._fields, map(np.array, zip(*kept, strict=True)), strict=True))
    np.savez(folder / f"qm9_v{qm9.VERSION}.npz", **columns)


def instead_of_qm9(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few molecules in the place of QM9, for this test alone."""
    write_graphs(folder)
    write_3d(folder)
    monkeypatch.setenv("PGDLAB_CACHE", str(folder))
    for name in ("load", "load_3d"):
        monkeypatch.setattr(qm9, name, functools.cache(getattr(qm9, name).__wrapped__))


@functools.cache
def base_3d() -> Path:
    """A folder with a random base of qm9_3d."""
    folder = Path(_FOLDERS.name) / "base_3d"
    QM9InSpace(hidden=8, layers=1).fresh(torch.Generator().manual_seed(0)).save(folder)
    return folder
