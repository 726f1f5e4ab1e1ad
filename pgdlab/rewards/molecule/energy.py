"""Energies of a molecule's shape: strain in a force field, forces and energies of semi-empirical quantum chemistry.

All look at one conformer, made of the canonical SMILES alone (pgdlab.molecules.conformers), so that a molecule has one value.
Where ETKDG finds none, the quantity is infinite, and the molecule is worth 0 and measured. This wrongs some: 92 of 5,000
molecules of QM9, most of three rings or more, are among them. They are not masked, because that would be a way out: the cages
that a policy is drawn to would cost nothing. These take milliseconds or may hang: put them into Workers.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any

import numpy as np
from jaxtyping import Float
from rdkit.Chem import rdForceFieldHelpers
from torch import Tensor

from pgdlab.config.program import extra
from pgdlab.molecules.batch import Molecule
from pgdlab.molecules.conformers import conformer
from pgdlab.rewards.molecule.base import REMEMBERED, PerMolecule

BOHR, HARTREE = 0.529177210903, 27.211386245988  # angstrom, eV (CODATA 2018)
UNPAIRED = {1: 1, 6: 2, 7: 3, 8: 2, 9: 1}  # electrons of an atom in its ground state
DEFORMATIONS = ("Bond", "Angle", "StretchBend", "Oop", "Torsion")
OTHERS = ("VdW", "Ele")


class Strain(PerMolecule):
    """exp(-strain / scale), the strain and scale in kcal/mol per heavy atom; part "strain".

    The strain is what is left of MMFF94s's bond, angle, stretch-bend, out-of-plane and torsion terms in the relaxed
    conformer, at least 0, over the number of heavy atoms: -1.6 (0) in cyclohexane, 1.7 in norbornane, 6.9 in cubane, 1.3
    in the median of QM9. (What relaxing wins, the usual figure of 3-D models, says how well ETKDG embeds: 2.7 for propane, 2.8
    for cubane.)
    """

    part = "strain"

    def __init__(self, *, scale: float = 2.0, remembered: int = REMEMBERED) -> None:
        super().__init__(remembered=remembered)
        self.scale = positive(scale, "kcal/mol per heavy atom")

    def of(self, molecule: Molecule) -> float:
        shape = conformer(str(molecule.smiles))
        if shape is None:
            return math.inf
        mol, parameters = shape
        for term in DEFORMATIONS + OTHERS:
            getattr(parameters, f"SetMMFF{term}Term")(term in DEFORMATIONS)
        energy = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters).CalcEnergy()
        return max(0.0, energy) / mol.GetNumHeavyAtoms()

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (-quantity / self.scale).exp()


def positive(scale: float, unit: str) -> float:
    """The scale. Raises ValueError where it is not positive."""
    if scale <= 0:
        raise ValueError(f"scale is {scale}; it must be a positive number of {unit}")
    return scale


def require_tblite() -> None:
    """Raises ValueError where the package is missing."""
    if importlib.util.find_spec("tblite") is None:
        raise ValueError(f"GFN2-xTB is in the package tblite: {extra('molecules')}")


def gfn2(numbers: Any, xyz: Float[Any, "N 3"], unpaired: int = 0) -> tuple[float, Float[Any, "N 3"]]:
    """Energy (eV) and forces (eV/angstrom) of GFN2-xTB (Bannwarth et al. 2019, doi 10.1021/acs.jctc.8b01176) at positions
    in angstrom. Raises tblite's error where the self-consistent field does not converge."""
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", np.asarray(numbers), np.asarray(xyz) / BOHR, uhf=unpaired)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    return float(result.get("energy")) * HARTREE, -np.asarray(result.get("gradient")) * HARTREE / BOHR


def gfn2_of(smiles: str) -> tuple[Any, float, Float[Any, "N 3"]] | None:
    """Atomic numbers, energy and forces of the relaxed conformer, or None where ETKDG finds none."""
    shape = conformer(smiles)
    if shape is None:
        return None
    numbers = [atom.GetAtomicNum() for atom in shape[0].GetAtoms()]
    return numbers, *gfn2(numbers, shape[0].GetConformer().GetPositions())


class XTBForce(PerMolecule):
    """exp(-force / scale) of the RMS force of GFN2-xTB on the atoms of the MMFF conformer, sqrt(mean_atoms |F|^2); force and
    scale in eV/angstrom (after RLPF, arXiv:2508.16521, whose conformers a 3-D model makes). Part "force"."""

    part = "force"

    def __init__(self, *, scale: float = 1.0, remembered: int = REMEMBERED) -> None:
        super().__init__(remembered=remembered)
        self.scale = positive(scale, "eV/angstrom")
        require_tblite()

    def of(self, molecule: Molecule) -> float:
        found = gfn2_of(str(molecule.smiles))
        return math.inf if found is None else float(np.sqrt((found[2] ** 2).sum(1).mean()))

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (-quantity / self.scale).exp()


@functools.cache
def atom_energy(number: int) -> float:
    """GFN2-xTB's energy of an atom in its ground state, eV."""
    return gfn2([number], np.zeros((1, 3)), UNPAIRED[number])[0]


class XTBEnergy(PerMolecule):
    """Binding energy per atom, hydrogens too, in eV: GFN2-xTB's energy of the free atoms less that of the MMFF conformer,
    over the number of atoms. Part "binding". It depends on the elements more than on the strain: compare molecules of one
    formula, or hold the formula."""

    part = "binding"

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        super().__init__(remembered=remembered)
        require_tblite()

    def of(self, molecule: Molecule) -> float:
        found = gfn2_of(str(molecule.smiles))
        if found is None:
            return -math.inf
        numbers, energy, _ = found
        return (sum(atom_energy(n) for n in numbers) - energy) / len(numbers)

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return quantity.clamp(min=0)
