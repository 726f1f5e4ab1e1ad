"""Molecules as files: a CSV with a row for every sample, an SDF with conformers of the valid ones."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdkit import Chem

from pgdlab.molecules import fingerprints
from pgdlab.molecules.batch import Molecule, Molecules, no_messages
from pgdlab.molecules.conformers import conformer
from pgdlab.molecules.elements import Source
from pgdlab.molecules.known import QM9, source_of
from pgdlab.molecules.properties import NAMES, properties

MOST = 200  # conformers of a file: about 10 ms each
SECONDS = 5  # for an embedding


def row(molecule: Molecule, source: Source = QM9) -> dict[str, Any]:
    """The columns of one sample; those that an invalid one has not are missing."""
    out: dict[str, Any] = {"smiles": molecule.smiles, "valid": int(molecule.valid), "reason": molecule.reason}
    if not molecule.valid or molecule.smiles is None:
        return out
    found, smiles = properties(molecule.smiles), molecule.smiles
    out |= {
        "novel": int(smiles not in source.training()),
        "inchikey": Chem.MolToInchiKey(Chem.MolFromSmiles(smiles)),
    }
    out |= {name: round(getattr(found, name), 4) for name in NAMES}
    out |= {"heavy_atoms": len(found.elements), "rings": len(found.rings)}
    if source is QM9 and fingerprints.readable():
        likeness, other = fingerprints.nearest(smiles)
        out |= {"nearest_training": round(likeness, 4), "nearest_training_smiles": other}
    return out


def rows(molecules: Molecules) -> list[dict[str, Any]]:
    """A row for every sample, in order."""
    quiet = no_messages()
    out = [row(m, source_of(molecules)) for m in molecules]
    del quiet
    return out


def write_csv(found: Sequence[dict[str, Any]], path: Path) -> Path:
    """Columns in the order in which rows first have them; empty where a row has not."""
    columns = list(dict.fromkeys(name for one in found for name in one))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(found)
    return path


def shape(molecule: Molecule) -> Chem.Mol | None:
    """With hydrogens and coordinates in angstrom: those that were generated, else the conformer that rewards look at. None
    where there is none."""
    if molecule.geometry is not None:
        return molecule.geometry
    try:
        found = conformer(str(molecule.smiles), SECONDS)
    except ValueError:  # of the force field
        return None
    return None if found is None else found[0]


def write_sdf(molecules: Molecules, path: Path) -> tuple[int, int]:
    """Writes conformers of the first MOST distinct valid molecules; how many were written, and how many have
    none. A record is named by its SMILES and has the index of its sample."""
    quiet, written, failed = no_messages(), 0, 0
    first = {m.smiles: i for i, m in reversed(list(enumerate(molecules))) if m.valid}
    with Chem.SDWriter(str(path)) as writer:
        for index in sorted(first.values())[:MOST]:
            mol = shape(molecules[index])
            if mol is None:
                failed += 1
                continue
            named = Chem.Mol(mol)
            named.SetProp("_Name", str(molecules[index].smiles))
            named.SetIntProp("sample", index)
            writer.write(named)
            written += 1
    del quiet
    return written, failed
