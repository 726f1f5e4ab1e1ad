"""Properties that RDKit computes of a graph: QED, synthetic accessibility, logP and polar surface."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from rdkit.Chem import QED as RDKIT_QED
from rdkit.Chem import rdMolDescriptors
from torch import Tensor

from pgdlab.molecules.batch import Molecule
from pgdlab.molecules.properties import sa_score
from pgdlab.rewards.molecule.base import REMEMBERED, PerMolecule


class QED(PerMolecule):
    """Quantitative estimate of drug-likeness, 0..1 (Bickerton et al. 2012, doi 10.1038/nchem.1243); part "qed".

    Of molecules with nine heavy atoms it is at most about .65.
    """

    part = "qed"

    def of(self, molecule: Molecule) -> float:
        return RDKIT_QED.qed(molecule.mol)

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return quantity


class Synthesizable(PerMolecule):
    """1 - (SA - 1) / 9 of the synthetic accessibility SA, 1 (easy) to 10 (Ertl & Schuffenhauer 2009, doi
    10.1186/1758-2946-1-8); part "sa"."""

    part = "sa"

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        super().__init__(remembered=remembered)
        sa_score()

    def of(self, molecule: Molecule) -> float:
        return sa_score().calculateScore(molecule.mol)

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return 1 - (quantity - 1) / 9


class Windowed(PerMolecule):
    """1 where low <= quantity <= high. Outside, with d the distance to the window over width: max(0, 1 - d) where shape
    is linear, exp(-d^2 / 2) where it is gaussian. low, high and width are in the quantity's unit.
    """

    def __init__(
        self, *, low: float, high: float, width: float, shape: Literal["linear", "gaussian"] = "linear",
        remembered: int = REMEMBERED,
    ) -> None:  # fmt: skip
        super().__init__(remembered=remembered)
        if not (low <= high and width > 0):
            raise ValueError(f"low is {low}, high {high}, width {width}; low is at most high, and width is above 0")
        self.low, self.high, self.width, self.shape = low, high, width, shape

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        outside = torch.maximum(self.low - quantity, quantity - self.high).clamp(min=0) / self.width
        return (1 - outside).clamp(min=0) if self.shape == "linear" else (-outside.square() / 2).exp()


class LogP(Windowed):
    """A window of the octanol-water partition coefficient log10 P (Wildman & Crippen 1999, doi 10.1021/ci990307l);
    part "logp"."""

    part = "logp"

    def of(self, molecule: Molecule) -> float:
        return rdMolDescriptors.CalcCrippenDescriptors(molecule.mol)[0]


class TPSA(Windowed):
    """A window of the topological polar surface, square angstrom (Ertl et al. 2000, doi 10.1021/jm000942e); part "tpsa"."""

    part = "tpsa"

    def of(self, molecule: Molecule) -> float:
        return rdMolDescriptors.CalcTPSA(molecule.mol)
