"""Molecules from atoms in space: the graph that distances show, and whether the geometry is one that molecules have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds, rdDistGeom
from torch import Tensor

from pgdlab.molecules.batch import BONDS, STEPS, Molecule, Molecules, examined, no_messages
from pgdlab.molecules.metrics import distinctness
from pgdlab.molecules.stability import ELEMENTS, LENGTH, bond_orders

OFF = 0.25  # share by which distances of bonds and angles may leave their bounds
CLASH = 0.30  # share by which other distances may fall below theirs
FLAT = 0.25  # angstrom, from the plane
STRETCH = 10  # pm; of 240 molecules of QM9 with delocalised bonds the largest is 9.6
ITERATIONS = 1000  # of the search for bond orders, which is exponential in the worst case
PLANAR = tuple(
    Chem.MolFromSmarts(pattern)
    for pattern in (
        "[ar5^2]1[ar5^2][ar5^2][ar5^2][ar5^2]1",
        "[ar6^2]1[ar6^2][ar6^2][ar6^2][ar6^2][ar6^2]1",
        "[C;X3;^2](*)(*)=[C;X3;^2](*)(*)",
    )
)
CHECKS = ("bond_lengths", "bond_angles", "no_clash", "flat")


def from_atoms(numbers: Int[Tensor, "B N"], xyz: Float[Tensor, "B N 3"]) -> Molecules:
    """Molecules with the bonds that EDM's tables see, except where these are delocalised, see delocalised(). numbers: atomic,
    0 past the last atom; xyz: angstrom."""
    quiet = no_messages()
    rows = zip(numbers.tolist(), xyz.tolist(), bond_orders(numbers, xyz).tolist(), strict=True)
    out = Molecules(decode([k for k in kinds if k], place, orders) for kinds, place, orders in rows)
    del quiet
    return out


def decode(numbers: list[int], xyz: list[list[float]], orders: list[list[int]]) -> Molecule:
    """One molecule. RDKit may add no hydrogen: an atom with fewer bonds than its valence fails, as one with more does."""
    built = built_from(numbers, xyz, orders)
    reason = why_not(built)
    if reason == "valence":
        other = delocalised(built)
        built, reason = (built, reason) if other is None else (other, None)
    if reason is not None:
        return Molecule(built, reason, None, built)
    graph = examined(Chem.RemoveHs(built))
    return Molecule(graph.mol, graph.reason, graph.smiles, built)


def why_not(mol: Chem.RWMol) -> str | None:
    """Sanitises a graph with all its hydrogens in place; what is wrong with it, one of REASONS, or None."""
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
    failed = Chem.SanitizeMol(mol, STEPS, catchErrors=True)
    if failed == Chem.SanitizeFlags.SANITIZE_NONE:
        return "valence" if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()) else None
    known = {Chem.SanitizeFlags.SANITIZE_PROPERTIES: "valence", Chem.SanitizeFlags.SANITIZE_KEKULIZE: "kekulisation"}
    return known.get(failed, "other")


def delocalised(mol: Chem.RWMol) -> Chem.RWMol | None:
    """The same atoms bonded alike, with orders that satisfy every valence, where this is a matter of delocalised bonds: an
    aromatic bond is too long for EDM's double bond, that between two triple bonds too short for its single one. None
    elsewhere: all bonds that change have to be conjugated, and one that rises at most STRETCH longer than the table says.
    The orders are those of RDKit's DetermineBondOrders (after Kim & Kim 2015, doi 10.1002/bkcs.10334)."""
    other = Chem.RWMol(mol)
    for bond in other.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
    try:
        rdDetermineBonds.DetermineBondOrders(
            other, charge=0, allowChargedFragments=False, embedChiral=False, maxIterations=ITERATIONS
        )
    except (ValueError, RuntimeError):  # of no orders that fit, or not within ITERATIONS
        return None
    orders = [int(bond.GetBondTypeAsDouble()) for bond in other.GetBonds()]  # before aromatic ones are perceived
    if why_not(other) is not None:
        return None
    place = other.GetConformer().GetPositions()
    for bond, before, order in zip(other.GetBonds(), mol.GetBonds(), orders, strict=True):
        was = int(before.GetBondTypeAsDouble())
        if order != was and not bond.GetIsConjugated():
            return None
        first, second = bond.GetBeginAtom(), bond.GetEndAtom()
        rows = ELEMENTS.index(first.GetAtomicNum()), ELEMENTS.index(second.GetAtomicNum())
        distance = 100 * float(np.linalg.norm(place[first.GetIdx()] - place[second.GetIdx()]))
        if order > was and distance > LENGTH[order - 1][rows[0]][rows[1]] + STRETCH:
            return None
    return other


def built_from(numbers: list[int], xyz: list[list[float]], orders: list[list[int]]) -> Chem.RWMol:
    """The bare, unsanitised RDKit graph with a conformer; orders are read above the diagonal."""
    mol, conformer = Chem.RWMol(), Chem.Conformer(len(numbers))
    for at, number in enumerate(numbers):
        mol.AddAtom(Chem.Atom(number))
        conformer.SetAtomPosition(at, xyz[at])
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            if orders[i][j]:
                mol.AddBond(i, j, BONDS[orders[i][j]])
    conformer.Set3D(True)
    mol.AddConformer(conformer)
    return mol


def edm_smiles(molecule: Molecule) -> str | None:
    """Canonical SMILES of a molecule that EDM counts as valid, else None: its bonds are those of the tables alone, RDKit may
    add hydrogens and charges, and the largest fragment alone is looked at (qm9/rdkit_functions.py of its code)."""
    assert molecule.geometry is not None
    numbers = [atom.GetAtomicNum() for atom in molecule.geometry.GetAtoms()]
    place = molecule.geometry.GetConformer().GetPositions()
    orders = bond_orders(torch.tensor(numbers), torch.from_numpy(place).float()).tolist()
    mol = built_from(numbers, place.tolist(), orders)
    if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    largest = max(Chem.GetMolFrags(mol, asMols=True), key=lambda part: part.GetNumAtoms())
    return Chem.MolToSmiles(Chem.RemoveHs(largest), isomericSmiles=False)


def checks(molecule: Molecule) -> dict[str, bool]:
    """Checks of a valid molecule's geometry; an invalid one passes none. Hydrogens are not looked at (PoseBusters, Buttenschoen
    et al. 2024, arXiv:2308.05777, table 1; thresholds of its configuration for generated molecules).

    bond_lengths, bond_angles: distances of bonded atoms, and of those with one between, within 25 % of the bounds of RDKit's
    distance geometry. no_clash: other distances not more than 30 % below. flat: aromatic rings and C=C within 0.25 angstrom of
    a plane.
    """
    mol = molecule.geometry
    if mol is None or not molecule.valid:
        return dict.fromkeys(CHECKS, False)
    place = mol.GetConformer().GetPositions()
    flat = all(off_plane(place[list(part)]) <= FLAT for p in PLANAR for part in mol.GetSubstructMatches(p))
    try:
        bounds = rdDistGeom.GetMoleculeBoundsMatrix(mol, set15bounds=True, scaleVDW=True)
    except RuntimeError:  # a graph that no geometry has
        return dict.fromkeys(CHECKS, False) | {"flat": flat}
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    low, high = np.tril(bounds).T, np.triu(bounds)
    heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
    pair = np.triu(heavy[:, None] & heavy[None], 1)
    bonds = Chem.GetDistanceMatrix(mol)
    inside = (distance >= (1 - OFF) * low) & (distance <= (1 + OFF) * high)
    return {
        "bond_lengths": bool(inside[pair & (bonds == 1)].all()),
        "bond_angles": bool(inside[pair & (bonds == 2)].all()),
        "no_clash": bool((distance >= (1 - CLASH) * low)[pair & (bonds > 2)].all()),
        "flat": flat,
    }


def off_plane(place: Float[Any, "N 3"]) -> float:
    """The largest distance of points from the plane that fits them best, in their unit."""
    centred = place - place.mean(0)
    return float(np.abs(centred @ np.linalg.svd(centred)[2][-1]).max())


def figures(molecules: Molecules) -> dict[str, float]:
    """Shares of all molecules: those of CHECKS and `geometry` (all four), which no invalid molecule passes; edm_valid, and
    edm_vun (distinct and novel too). edm_unique: distinct SMILES of the EDM-valid ones, a share of these."""
    quiet = no_messages()
    found = [checks(m) for m in molecules]
    smiles = [s for s in map(edm_smiles, molecules) if s is not None]
    del quiet
    out = {name: float(np.mean([each[name] for each in found])) for name in CHECKS}
    out["geometry"] = float(np.mean([all(each.values()) for each in found]))
    told = distinctness(smiles, len(molecules))
    out |= {f"edm_{name}": told[name] for name in ("unique", "vun") if name in told}
    return out | {"edm_valid": len(smiles) / len(molecules)}
