"""Strain by its terms, xTB by its own derivatives, and molecules that have no shape."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from rdkit.Chem import rdForceFieldHelpers

from pgdlab.molecules.conformers import conformer
from pgdlab.rewards.molecule import energy
from pgdlab.rewards.molecule.energy import Strain, XTBEnergy, XTBForce, gfn2
from tests.rewards.test_molecule_memory import batch

tblite = pytest.mark.skipif(importlib.util.find_spec("tblite") is None, reason="needs the extra molecules")


def test_strain_is_what_is_left_of_the_total_without_van_der_waals_and_charges():
    """In kcal/mol per heavy atom, cubane and acetamide (its charges are -33): energies are sums of their terms to 1e-6."""
    score = Strain(scale=3.0).score(*batch("C12C3C4C1C5C2C3C45", "CC(N)=O", "bad"))
    for row, smiles in enumerate(("C12C3C4C1C5C2C3C45", "CC(N)=O")):
        mol, parameters = conformer(smiles)
        total = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters).CalcEnergy()
        others = 0.0
        for term in ("VdW", "Ele"):
            parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
            for other in ("Bond", "Angle", "StretchBend", "Oop", "Torsion", "VdW", "Ele"):
                getattr(parameters, f"SetMMFF{other}Term")(other == term)
            others += rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters).CalcEnergy()
        strain = (total - others) / mol.GetNumHeavyAtoms()
        assert score.parts["strain"][row].item() == pytest.approx(strain, abs=1e-5)
        assert score.value[row].item() == pytest.approx(math.exp(-strain / 3.0), abs=1e-5)
    assert score.value[2] == 0


def test_cages_are_strained_and_chairs_are_not():
    """Cyclohexane's torsions make its sum negative: no strain."""
    strain = Strain().score(*batch("C1CCCCC1", "C1CC2CCC1C2", "C12C3C4C1C5C2C3C45")).parts["strain"]
    assert strain[0] == 0
    assert strain[1] == pytest.approx(1.7, abs=0.2)
    assert strain[2] == pytest.approx(6.9, abs=0.2)


def test_the_order_of_the_atoms_does_not_matter():
    ways = [Strain().score(*batch(smiles)).value.item() for smiles in ("CC1COC1=O", "O=C1OCC1C")]
    assert ways[0] == ways[1] > 0


def test_what_cannot_be_embedded_is_worth_nothing_and_measured():
    """Cyclopropyne."""
    score = Strain().score(*batch("C1C#C1"))
    assert score.value.tolist() == [0.0]
    assert score.measured.tolist() == [True]
    assert score.parts["strain"].item() == math.inf


def test_what_mmff_does_not_know_is_not_measured():
    """A boron has no parameters in MMFF94s."""
    with pytest.warns(RuntimeWarning, match="no parameters for CB"):
        score = Strain().score(*batch("CBC"))
    assert not score.measured.any()


@tblite
def test_forces_are_the_derivative_of_the_energy():
    """Central differences of 1e-3 angstrom, whose error is of order 1e-6 times the third derivative (some 100)."""
    mol, _ = conformer("NC=O")
    numbers, xyz = [a.GetAtomicNum() for a in mol.GetAtoms()], mol.GetConformer().GetPositions()
    force = gfn2(numbers, xyz)[1]
    for atom, axis in ((0, 0), (1, 2), (4, 1)):
        step = np.zeros_like(xyz)
        step[atom, axis] = 1e-3
        slope = (gfn2(numbers, xyz + step)[0] - gfn2(numbers, xyz - step)[0]) / 2e-3
        assert force[atom, axis] == pytest.approx(-slope, abs=1e-3)
    rms = math.sqrt((force**2).sum() / len(force))
    score = XTBForce(scale=2.0).score(*batch("NC=O", "bad", "C1C#C1"))
    assert score.parts["force"][0].item() == pytest.approx(rms, rel=1e-6)
    torch.testing.assert_close(score.value, torch.tensor([math.exp(-rms / 2), 0.0, 0.0], dtype=torch.float64))
    assert score.measured.all()


@tblite
def test_binding_energies():
    """Methane: (E_C + 4 E_H - E) / 5 with the atoms' energies in hartree as GFN2 prints them (C -1.79330 with two unpaired
    electrons, H -.39348), to five decimals of 27 eV; cyclopropyne has no shape, and so no binding."""
    score = XTBEnergy().score(*batch("C", "bad", "C1C#C1"))
    mol, _ = conformer("C")
    total = gfn2([6, 1, 1, 1, 1], mol.GetConformer().GetPositions())[0]
    expected = ((-1.79330 - 4 * 0.39348) * 27.2114 - total) / 5
    assert score.value[0].item() == pytest.approx(expected, abs=3e-4)
    assert 3 < expected < 6  # 3.5 eV by experiment; GFN2 binds too much
    assert score.value[1:].tolist() == [0.0, 0.0]
    assert score.measured.all()


@pytest.mark.parametrize("reward", [XTBForce, XTBEnergy])
def test_without_tblite_it_is_said_what_to_install(reward, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"\[molecules\]"):
        reward()


@pytest.mark.parametrize("reward", [Strain, XTBForce])
def test_a_scale_that_is_none_is_refused(reward, monkeypatch):
    monkeypatch.setattr(energy, "require_tblite", lambda: None)
    with pytest.raises(ValueError, match=r"scale is 0\.0"):
        reward(scale=0.0)
