"""QM9 as graphs: up to nine heavy atoms (C, N, O, F) and kekulised bonds; hydrogens are implicit."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.graphs import Graphs
from pgdlab.domains.base import Decoder
from pgdlab.domains.graph import GraphDecoder, GraphDomain, Shares
from pgdlab.domains.molecule import spaced
from pgdlab.molecules import known, qm9
from pgdlab.molecules.batch import VALENCE

# shares of all molecules; tests/domains/test_qm9.py counts them in the test sample
TYPE_SHARES = (0.7239, 0.1144, 0.1590, 0.0027)  # C, N, O, F
BOND_SHARES = (0.7263, 0.2351, 0.0305, 0.0081)  # none, single, double, triple
SPACE = Graphs(qm9.ATOMS, len(TYPE_SHARES), len(BOND_SHARES))
SIZES = {9: 83, 8: 14, 7: 2, 6: 1}  # of 100 molecules, how many have that many heavy atoms; fewer than 6: 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class QM9(GraphDomain):
    """QM9. The condition of a molecule is its number of heavy atoms; options as in GraphDomain."""

    shipped = known.ASSETS

    train_conditions: tuple[int, ...] = spaced(SIZES)
    name: str = field(default="qm9", init=False)
    # 0 and ATOMS + 1 are no sizes
    conditioning: Conditioning = field(default_factory=lambda: NoLabels(qm9.ATOMS + 1), init=False)
    space: Graphs = field(default=SPACE, init=False)
    decoder: Decoder = field(default_factory=lambda: GraphDecoder(SPACE), init=False)

    @property
    def shares(self) -> Shares:
        return Shares(TYPE_SHARES, BOND_SHARES)

    @property
    def valence(self) -> tuple[int, ...]:
        return VALENCE

    @functools.cached_property
    def _splits(self) -> dict[str, Any]:
        graphs = qm9.load()
        return {name: graphs.rows(rows) for name, rows in qm9.split(graphs.smiles).items()}

    def graphs(self, split: str) -> tuple[Any, Any, Any]:
        found = self._splits[split]
        return found.types, found.bonds, found.sizes
