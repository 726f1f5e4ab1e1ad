"""Properties of a molecule: logP, TPSA, SA, QED, weight, elements, rings, motifs. By SMILES, kept once known."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rdkit import Chem, RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors

from pgdlab.molecules.motifs import RARE, Motif, atoms_of

NAMES = ("logp", "tpsa", "sa", "qed", "weight")  # the first fields of Properties
UNITS = {"logp": "", "tpsa": "square angstrom", "sa": "1 easy to 10 hard", "qed": "0 to 1", "weight": "g/mol"}


class Properties(NamedTuple):
    """logp: Crippen's (Wildman and Crippen 1999). tpsa: square angstrom (Ertl et al. 2000). sa: 1 easy to 10 hard to make
    (Ertl and Schuffenhauer 2009). qed: 0 to 1 (Bickerton et al. 2012). weight: g/mol. elements: symbols of the heavy atoms.
    rings: sizes of the smallest set of smallest rings. motifs: which of motifs.RARE it has.
    """

    logp: float
    tpsa: float
    sa: float
    qed: float
    weight: float
    elements: tuple[str, ...]
    rings: tuple[int, ...]
    motifs: tuple[Motif, ...]


@functools.lru_cache(maxsize=200_000)
def properties(smiles: str) -> Properties:
    """The properties of a SMILES. Raises ValueError for one that RDKit does not read."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError(f"{smiles!r} is no SMILES that RDKit reads")
    return Properties(
        logp=Crippen.MolLogP(mol),  # type: ignore[attr-defined]
        tpsa=rdMolDescriptors.CalcTPSA(mol),
        sa=sa_score().calculateScore(mol),
        qed=QED.qed(mol),
        weight=Descriptors.MolWt(mol),  # type: ignore[attr-defined]
        elements=tuple(atom.GetSymbol() for atom in mol.GetAtoms()),
        rings=tuple(len(ring) for ring in mol.GetRingInfo().AtomRings()),
        motifs=tuple(name for name in RARE if atoms_of(name, mol)),
    )


@functools.cache
def sa_score() -> ModuleType:
    """RDKit's contributed module of the synthetic accessibility score, which is in its wheel but in no package."""
    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("sascorer", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"{path} is missing: the SA score needs RDKit's Contrib folder, as its wheel on PyPI has it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
