"""Structures that are wanted or not: alerts of medicinal chemists, rare motifs, likeness to a molecule."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams
from rdkit.DataStructs import TanimotoSimilarity
from torch import Tensor

from pgdlab.molecules import fingerprints
from pgdlab.molecules.batch import Molecule
from pgdlab.molecules.motifs import PATTERNS, RARE, Motif, atoms_of
from pgdlab.rewards.molecule.base import REMEMBERED, PerMolecule


@functools.cache
def catalog(names: tuple[str, ...]) -> FilterCatalog:
    """The patterns of the named catalogues."""
    params = FilterCatalogParams()
    for name in names:
        params.AddCatalog(FilterCatalogParams.FilterCatalogs.names[name])
    return FilterCatalog(params)


class AlertFree(PerMolecule):
    """1 where no pattern of the catalogues occurs, else 0; part "alerts": how many of their patterns do.

    BRENK: 105 unwanted groups (Brenk et al. 2008, doi 10.1002/cmdc.200700139), found in over half of QM9. PAINS: 480
    frequent hitters in assays (Baell & Holloway 2010, doi 10.1021/jm901137j).
    """

    part = "alerts"

    def __init__(
        self, *, catalogs: Sequence[Literal["BRENK", "PAINS", "NIH", "ZINC"]] = ("BRENK", "PAINS"),
        remembered: int = REMEMBERED,
    ) -> None:  # fmt: skip
        super().__init__(remembered=remembered)
        if not catalogs:
            raise ValueError("catalogs is empty; it must name one or more of BRENK, PAINS, NIH, ZINC")
        self.catalogs = tuple(catalogs)

    def of(self, molecule: Molecule) -> float:
        return float(len(catalog(self.catalogs).GetMatches(molecule.mol)))

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (quantity == 0).to(quantity.dtype)


class MotifFree(PerMolecule):
    """1 where none of the motifs occurs, else 0; with partial credit, 1 - the share of heavy atoms in one.

    small_ring: rings of three or four atoms (62 % of QM9 have one). ring_alkyne: a triple bond in a ring of any size.
    ring_cumulene: two double bonds in a row within a ring. anti_bredt: a double bond at a bridgehead. The last three are
    rare or strained: 2 of 5,000 molecules of QM9 have one. Part "strained": the share of heavy atoms in a motif.
    """

    part = "strained"

    def __init__(self, *, motifs: Sequence[Motif] = RARE, partial: bool = False, remembered: int = REMEMBERED) -> None:
        super().__init__(remembered=remembered)
        if not motifs:
            raise ValueError(f"motifs is empty; it must name one or more of {', '.join(PATTERNS)}, anti_bredt")
        self.motifs, self.partial = tuple(motifs), partial

    def of(self, molecule: Molecule) -> float:
        found = set[int]().union(*(atoms_of(name, molecule.mol) for name in self.motifs))
        return len(found) / molecule.mol.GetNumAtoms()

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return 1 - quantity if self.partial else (quantity == 0).to(quantity.dtype)


class Similarity(PerMolecule):
    """Tanimoto similarity, 0..1, of Morgan fingerprints with that of the molecule `to`, a SMILES (Rogers & Hahn 2010, doi
    10.1021/ci100050t); part "similarity". radius: in bonds. bits: of the folded fingerprint.
    """

    part = "similarity"

    def __init__(self, *, to: str, radius: int = 2, bits: int = 2048, remembered: int = REMEMBERED) -> None:
        super().__init__(remembered=remembered)
        mol = Chem.MolFromSmiles(to)
        if mol is None or not mol.GetNumAtoms():
            raise ValueError(f"to is {to!r}; it must be the SMILES of a molecule, as in CC(=O)Nc1ccc(O)cc1")
        if radius < 0 or bits < 1:
            raise ValueError(f"radius is {radius}, bits {bits}; radius must be at least 0, bits at least 1")
        self.size = (radius, bits)
        self.wanted = fingerprints.generator(*self.size).GetFingerprint(mol)

    def of(self, molecule: Molecule) -> float:
        return TanimotoSimilarity(fingerprints.generator(*self.size).GetFingerprint(molecule.mol), self.wanted)

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return quantity
