"""The conformer of a molecule that stands for its shape: what strain and xTB grade, and what a run writes."""

from __future__ import annotations

from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from pgdlab.molecules.batch import no_messages

SEED, TRIES = 7, 50  # of an embedding
ROUNDS = 10  # of 200 iterations of relaxation


def conformer(smiles: str, seconds: int = 0) -> tuple[Chem.Mol, Any] | None:
    """The molecule with hydrogens and coordinates in angstrom, and its MMFF94s parameters; None where ETKDG finds none.

    Made of the canonical SMILES alone, so that a molecule has one: embedded by ETKDGv3 (Wang et al. 2020, doi
    10.1021/acs.jcim.0c00025) from a fixed seed, relaxed in MMFF94s (Halgren 1999, doi
    10.1002/(SICI)1096-987X(199905)20:7<720::AID-JCC7>3.0.CO;2-X). seconds: that the embedding may take at most, 0 for no
    limit. Raises ValueError where MMFF has no parameters for the molecule, or where it does not come to rest.
    """
    quiet = no_messages()
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    how: Any = rdDistGeom.ETKDGv3()
    how.randomSeed, how.maxIterations, how.timeout = SEED, TRIES, seconds
    placed = rdDistGeom.EmbedMolecule(mol, how)
    parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
    del quiet
    if parameters is None:
        raise ValueError(f"MMFF94s has no parameters for {smiles}")
    if placed < 0:
        return None
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters)
    if all(field.Minimize(maxIts=200) for _ in range(ROUNDS)):
        raise ValueError(f"{smiles} does not come to rest in MMFF94s")
    return mol, parameters
