"""No charges: what only charges could make a molecule is none, as a graph, in space and as a SMILES."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem

from pgdlab.molecules import metrics
from pgdlab.molecules.batch import SYMBOLS, Molecules, decode
from pgdlab.molecules.geometry import edm_smiles, from_atoms
from pgdlab.rewards.molecule.validity import NovelValid, Valid
from tests.molecules.tiny import atoms_of, relaxed

# as a graph of five bonds at a nitrogen, and what RDKit's clean-up makes of it
CHARGED = {
    "nitromethane": ("CN(=O)=O", "C[N+](=O)[O-]"),
    "methyl azide": ("CN=N#N", "CN=[N+]=[N-]"),
    "diazomethane": ("C=N#N", "C=[N+]=[N-]"),
    "a nitrone": ("C=N(=O)C", "C=[N+](C)[O-]"),
    "pyridine N-oxide": ("C1=CC=CC=N1=O", "c1cccc[n+]1[O-]"),
    "acetonitrile oxide": ("CC#N=O", "CC#[N+][O-]"),
    "nitrous oxide": ("N#N=O", "[N-]=[NH+][O-]"),
    "nitryl fluoride": ("O=N(F)=O", "O=[N+]([O-])F"),
}


def graph(smiles: str) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Atom types and bonds of a SMILES that is read as it stands."""
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    types = [SYMBOLS.index(atom.GetSymbol()) for atom in mol.GetAtoms()]
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    return types, [(min(i, j), max(i, j), order) for i, j, order in bonds]


@pytest.mark.parametrize("name", CHARGED)
def test_a_nitrogen_of_five_bonds_is_no_molecule(name: str) -> None:
    """RDKit's clean-up writes each of them with charges and accepts it; in the data nothing has charges, so that all of them
    would be novel."""
    five, written = CHARGED[name]
    found = decode(*graph(five))
    assert (found.reason, found.smiles) == ("valence", None)
    batch = Molecules([found])
    for reward in (Valid(), NovelValid()):
        assert reward.score(batch, torch.zeros(1)).value.tolist() == [0.0]
    out = metrics.figures(batch)
    assert (out["valid"], out["sanitised"], out["vun"], out["invalid_valence"]) == (0, 0, 0, 1)
    assert out["edm_valid"] == 1, "EDM's validity is RDKit's with its clean-up"
    assert metrics.largest_piece(found) == Chem.CanonSmiles(written)
    assert Molecules.from_smiles([written])[0].reason == "valence"


@pytest.mark.parametrize("name", ["nitromethane", "methyl azide", "diazomethane", "a nitrone", "pyridine N-oxide"])
def test_nor_is_it_in_space(name: str) -> None:
    (found,) = from_atoms(*atoms_of(relaxed(CHARGED[name][1])))
    assert (found.reason, found.smiles) == ("valence", None)


def test_charges_in_space_are_edm_s_alone() -> None:
    (found,) = from_atoms(*atoms_of(relaxed("C[N+](=O)[O-]")))
    assert not found.valid
    assert edm_smiles(found) == "C[N+](=O)[O-]"


@pytest.mark.parametrize("smiles", ["C[CH2]", "[OH-]", "[NH4+]", "C[N+](=O)[O-]", "[CH3]", "[C-]#[O+]"])
def test_ions_and_radicals_are_invalid(smiles: str) -> None:
    (found,) = Molecules.from_smiles([smiles])
    assert (found.reason, found.smiles) == ("valence", None)


@pytest.mark.parametrize(
    ("smiles", "what"),
    [
        ("", "no atom"),
        ("[H][H]", "atoms H"),
        ("*", r"atoms \*"),
        ("[Fe]", "atoms Fe"),
        ("C[Na]", "atoms Na"),
        ("C1C", "no SMILES"),
    ],
)
def test_what_no_sample_can_be_is_refused(smiles: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Molecules.from_smiles(["CCO", smiles])


def test_ordinary_smiles_are_as_they_were() -> None:
    for smiles in ("CCl", "CS(C)=O", "CS(=O)(=O)N", "CBC"):
        assert Molecules.from_smiles([smiles])[0].valid, "of drug-like molecules too, which workers are sent as SMILES"
    found = Molecules.from_smiles(["OCC", "C1=CC=CC=C1", "C.C", "[H]OC"])
    assert [m.smiles for m in found] == ["CCO", "c1ccccc1", "C.C", "CO"]
    assert [m.reason for m in found] == [None, None, "disconnected", None]
