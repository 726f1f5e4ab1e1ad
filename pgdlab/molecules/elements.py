"""Elements that a graph may have, and the bonds that a neutral atom of each allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pgdlab.molecules.index import Known

# the largest valence of a neutral atom, hydrogens included, that RDKit accepts for the common states of oxidation
VALENCES = {"B": 3, "C": 4, "N": 3, "O": 2, "F": 1, "Si": 4, "P": 5, "S": 6, "Cl": 1, "Br": 1, "I": 1}
NUMBER = {"B": 5, "C": 6, "N": 7, "O": 8, "F": 9, "Si": 14, "P": 15, "S": 16, "Cl": 17, "Br": 35, "I": 53}
ORDERS = 4  # classes of bonds: none, single, double, triple


@dataclass(frozen=True, eq=False)
class Source:
    """The data that molecules are generated after, and compared with. symbols: of the elements of the node classes, in order;
    atoms: heavy atoms at most; training: what is not novel; test: canonical SMILES that no base was trained on. Both are
    asked when they are needed, and keep their answer."""

    name: str
    symbols: tuple[str, ...]
    atoms: int
    training: Callable[[], Known]
    test: Callable[[], tuple[str, ...]]

    @property
    def valence(self) -> tuple[int, ...]:
        """Of the node classes."""
        return tuple(VALENCES[symbol] for symbol in self.symbols)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(i, j), i < j, row by row."""
        return tuple((i, j) for i in range(self.atoms) for j in range(i + 1, self.atoms))
