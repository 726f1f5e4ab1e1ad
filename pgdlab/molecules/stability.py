"""Bonds from distances, and stable atoms and molecules, as EDM counts them (Hoogeboom et al. 2022, arXiv:2203.17003, sec. 5).

Bond lengths are those of EDM's tables (appendix C of the paper, qm9/bond_analyze.py of its code); its margins "have been
tuned to maximize the stability of the QM9 true samples". No charges and no aromatic bonds are known to it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ELEMENTS = (1, 6, 7, 8, 9)  # H C N O F: the order of the tables' rows and columns
ALLOWED = (1, 4, 3, 2, 1)  # bonds of a stable atom
MARGIN = (10, 5, 3)  # pm, of single, double and triple bonds
NONE = -100  # pm: no distance is below it, so there is no such bond
LENGTH = (  # pm, of single, double and triple bonds
    ((74, 109, 101, 96, 92), (109, 154, 147, 143, 135), (101, 147, 145, 140, 136), (96, 143, 140, 148, 142),
     (92, 135, 136, 142, 142)),
    ((NONE,) * 5, (NONE, 134, 129, 120, NONE), (NONE, 129, 125, 121, NONE), (NONE, 120, 121, 121, NONE), (NONE,) * 5),
    ((NONE,) * 5, (NONE, 120, 116, 113, NONE), (NONE, 116, 110, NONE, NONE), (NONE, 113, NONE, NONE, NONE), (NONE,) * 5),
)  # fmt: skip


class Stability(NamedTuple):
    """atoms: which are stable; padding is not. molecule: all its atoms are. orders: of the bonds between atoms."""

    atoms: Bool[Tensor, "*B N"]
    molecule: Bool[Tensor, "*B"]
    orders: Int[Tensor, "*B N N"]


def rows(numbers: Int[Tensor, "*B N"]) -> Int[Tensor, "*B N"]:
    """Atomic numbers -> rows of the tables; 0, which is padding, -> 5. Raises ValueError for other elements."""
    match = numbers[..., None] == torch.tensor((*ELEMENTS, 0), device=numbers.device)
    if not match.any(-1).all():
        strange = sorted(set(numbers[~match.any(-1)].tolist()))
        raise ValueError(f"atomic numbers {strange}: the tables have {list(ELEMENTS)}, and 0 is padding")
    return match.long().argmax(-1)


def bond_orders(numbers: Int[Tensor, "*B N"], xyz: Float[Tensor, "*B N 3"]) -> Int[Tensor, "*B N N"]:
    """0 to 3: the largest order k with distance < LENGTH[k] + MARGIN[k]. numbers: atomic, 0 is padding. xyz: angstrom."""
    threshold = torch.tensor(LENGTH, dtype=xyz.dtype, device=xyz.device)
    threshold = threshold + torch.tensor(MARGIN, dtype=xyz.dtype, device=xyz.device)[:, None, None]
    threshold = torch.nn.functional.pad(threshold, (0, 1, 0, 1), value=float(NONE))
    row = rows(numbers)
    distance = 100 * (xyz[..., :, None, :] - xyz[..., None, :, :]).norm(dim=-1)
    orders = (distance < threshold[:, row[..., :, None], row[..., None, :]]).sum(0)  # thresholds fall with the order
    return orders.masked_fill(torch.eye(numbers.shape[-1], dtype=torch.bool, device=xyz.device), 0)


def stable_atoms(numbers: Int[Tensor, "*B N"], orders: Tensor) -> Bool[Tensor, "*B N"]:
    """Atoms whose bond orders add up to exactly what is allowed. orders (*B, N, N): any numbers; 1.5 is not rounded."""
    allowed = torch.tensor((*ALLOWED, -1), device=orders.device)[rows(numbers)]
    return orders.sum(-1) == allowed


def stability(numbers: Int[Tensor, "*B N"], xyz: Float[Tensor, "*B N 3"]) -> Stability:
    """Stable atoms and molecules, among molecules with all their hydrogens. numbers: atomic, 0 is padding. xyz: angstrom."""
    orders = bond_orders(numbers, xyz)
    atoms = stable_atoms(numbers, orders)
    return Stability(atoms, (atoms | (numbers == 0)).all(-1), orders)


def stability_figures(numbers: Int[Tensor, "B N"], xyz: Float[Tensor, "B N 3"]) -> dict[str, float]:
    """Shares of all atoms, and of all molecules, that are stable."""
    found = stability(numbers, xyz)
    share = found.atoms.sum() / (numbers > 0).sum()
    return {"atom_stable": float(share), "molecule_stable": float(found.molecule.double().mean())}
