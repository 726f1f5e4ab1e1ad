"""CSV and SDF: what is written is what RDKit reads again."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from pgdlab.molecules import qm9, tables
from pgdlab.molecules.batch import Molecule, Molecules, examined
from pgdlab.molecules.conformers import conformer


def sample(smiles: list[str]) -> Molecules:
    return Molecules(examined(Chem.MolFromSmiles(s, sanitize=False)) for s in smiles)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_every_sample(tmp_path: Path) -> None:
    found = read(tables.write_csv(tables.rows(sample(["c1cccc1", "OCC", "C.C", "FC1NC2CC12F"])), tmp_path / "x.csv"))
    assert [row["smiles"] for row in found] == ["", "CCO", "C.C", "FC1NC2CC12F"]
    assert [(row["valid"], row["reason"], row["novel"]) for row in found] == [
        ("0", "kekulisation", ""), ("1", "", "0"), ("0", "disconnected", ""), ("1", "", "1"),
    ]  # fmt: skip
    ethanol = found[1]
    assert ethanol["inchikey"] == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"  # of ethanol, in every catalogue
    assert float(ethanol["weight"]) == pytest.approx(46.069, abs=2e-3)
    assert float(ethanol["tpsa"]) == 20.23
    assert (ethanol["heavy_atoms"], ethanol["rings"], found[3]["rings"]) == ("3", "0", "2")
    assert found[0]["logp"] == found[2]["qed"] == ""
    assert ("nearest_training" in ethanol) == qm9.has_data()
    if qm9.has_data():
        assert float(ethanol["nearest_training"]) == 1
        assert 0 < float(found[3]["nearest_training"]) < 1
        assert found[3]["nearest_training_smiles"]


def test_conformers_are_relaxed_and_the_same_each_time(tmp_path: Path) -> None:
    molecules = sample(["C.C", "CCO", "c1ccccc1", "OCC"])
    for name in ("a", "b"):
        assert tables.write_sdf(molecules, tmp_path / f"{name}.sdf") == (2, 0)
    assert (tmp_path / "a.sdf").read_text() == (tmp_path / "b.sdf").read_text()
    ethanol, benzene = Chem.SDMolSupplier(str(tmp_path / "a.sdf"), removeHs=False)
    assert [m.GetProp("_Name") for m in (ethanol, benzene)] == ["CCO", "c1ccccc1"]
    assert [m.GetIntProp("sample") for m in (ethanol, benzene)] == [1, 2]  # the first of equal ones
    assert (ethanol.GetNumAtoms(), benzene.GetNumAtoms()) == (9, 12)
    place = benzene.GetConformer().GetPositions()
    bonds = [np.linalg.norm(place[b.GetBeginAtomIdx()] - place[b.GetEndAtomIdx()]) for b in benzene.GetBonds()]
    assert bonds == pytest.approx([1.395] * 6 + [1.086] * 6, abs=0.02)  # angstrom; MMFF94 is meant to be within 0.02
    assert np.ptp(place @ np.linalg.svd(place - place.mean(0))[2][2]) < 0.01  # flat


def test_what_is_written_is_what_strain_grades(tmp_path: Path) -> None:
    """Positions to the four decimals of the format; a boron, which MMFF94s does not know, is counted as failed."""
    assert tables.write_sdf(sample(["NC(C)=O", "CBC"]), tmp_path / "x.sdf") == (1, 1)
    graded = conformer("CC(N)=O")
    assert graded is not None
    written = next(Chem.SDMolSupplier(str(tmp_path / "x.sdf"), removeHs=False)).GetConformer().GetPositions()
    assert written == pytest.approx(graded[0].GetConformer().GetPositions(), abs=6e-5)


def test_what_cannot_be_embedded_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rdDistGeom.EmbedMolecule
    monkeypatch.setattr(rdDistGeom, "EmbedMolecule", lambda mol, o: -1 if mol.GetNumAtoms() == 9 else real(mol, o))
    assert tables.write_sdf(sample(["CCO", "C", "CC"]), tmp_path / "x.sdf") == (2, 1)
    assert [m.GetProp("_Name") for m in Chem.SDMolSupplier(str(tmp_path / "x.sdf"))] == ["C", "CC"]


def test_generated_coordinates_are_kept(tmp_path: Path) -> None:
    water = Chem.AddHs(Chem.MolFromSmiles("O"))
    shape = Chem.Conformer(3)
    for i, at in enumerate(([0.0, 0, 0], [1.5, 0, 0], [0, 1.5, 0])):  # as no force field would have it
        shape.SetAtomPosition(i, at)
    water.AddConformer(shape)
    assert tables.write_sdf(Molecules([Molecule(Chem.MolFromSmiles("O"), None, "O", water)]), tmp_path / "x.sdf") == (
        1,
        0,
    )
    found = next(Chem.SDMolSupplier(str(tmp_path / "x.sdf"), removeHs=False))
    assert found.GetConformer().GetPositions().tolist() == [[0, 0, 0], [1.5, 0, 0], [0, 1.5, 0]]


def test_no_more_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST", 2)
    assert tables.write_sdf(sample(["C", "CC", "CCC"]), tmp_path / "x.sdf") == (2, 0)
