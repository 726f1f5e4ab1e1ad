"""QM9 as graphs: up to nine heavy atoms (C, N, O, F) and kekulised bonds; hydrogens are implicit."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.graphs import GraphDenoiser, Graphs
from pgdlab.diffusion.schedules import Cosine
from pgdlab.domains.base import Decoder
from pgdlab.domains.molecule import MoleculeDomain, spaced
from pgdlab.molecules import known, qm9
from pgdlab.molecules.batch import VALENCE, Molecules

# shares of all molecules; tests/domains/test_qm9.py counts them in the test sample
TYPE_SHARES = (0.7239, 0.1144, 0.1590, 0.0027)  # C, N, O, F
BOND_SHARES = (0.7263, 0.2351, 0.0305, 0.0081)  # none, single, double, triple
SPACE = Graphs(qm9.ATOMS, len(TYPE_SHARES), len(BOND_SHARES))
SMALL = 0.05  # five standard deviations of a final sample's noise
SIZES = {9: 83, 8: 14, 7: 2, 6: 1}  # of 100 molecules, how many have that many heavy atoms; fewer than 6: 0.1


def shares(x: Float[Tensor, "B P K"]) -> Float[Tensor, "B P K"]:
    """Probabilities of classes from one-hot numbers minus 1/2."""
    likely = (x + 0.5).masked_fill(x < SMALL - 0.5, 0.0)
    return likely / likely.sum(-1, keepdim=True).clamp_min(SMALL)


class GraphDecoder(Decoder):
    """Graphs -> molecules, on the CPU: the likeliest class of every atom and pair. What is past the last atom is 0 in every
    class. The probabilities are kept: an x0 estimate is them, minus 1/2. Those below SMALL count as 0, so that a final
    sample, which has noise of 0.01 on it, is what it was decoded to."""

    differentiable = False

    def decode(self, sample: Float[Tensor, "B D"]) -> Molecules:
        nodes, pairs = SPACE.unpack(sample.detach().cpu().float())
        sizes = nodes.ne(0).any(-1).sum(1)
        square = torch.zeros(len(sample), qm9.ATOMS, qm9.ATOMS, dtype=torch.long)
        first, second = zip(*qm9.PAIRS, strict=True)
        square[:, first, second] = pairs.argmax(-1)
        soft = SPACE.project(SPACE.pack(shares(nodes), shares(pairs)), sizes)
        return Molecules.from_graphs(nodes.argmax(-1), square, sizes, soft)


@dataclass(frozen=True, kw_only=True, eq=False)
class QM9(MoleculeDomain):
    """The condition of a molecule is its number of heavy atoms. width, pair_width, heads, layers: of a network before
    pretraining; the others as in MoleculeDomain."""

    counted, shipped = "heavy atoms", known.ASSETS

    train_conditions: tuple[int, ...] = spaced(SIZES)
    width: int = 96
    pair_width: int = 48
    heads: int = 6
    layers: int = 6
    name: str = field(default="qm9", init=False)
    # 0 and ATOMS + 1 are no sizes
    conditioning: Conditioning = field(default_factory=lambda: NoLabels(qm9.ATOMS + 1), init=False)
    space: Graphs = field(default=SPACE, init=False)
    decoder: Decoder = field(default_factory=GraphDecoder, init=False)

    def build(self, **sizes: int) -> GraphDenoiser:
        own = {"width": self.width, "pair_width": self.pair_width, "heads": self.heads, "layers": self.layers}
        return GraphDenoiser(
            SPACE, Cosine(), shares=TYPE_SHARES, bond_shares=BOND_SHARES, valence=VALENCE, **own | sizes
        )

    @functools.cached_property
    def _splits(self) -> dict[str, Any]:
        graphs = qm9.load()
        return {name: graphs.rows(rows) for name, rows in qm9.split(graphs.smiles).items()}

    def data(self, split: str) -> tuple[Float[Tensor, "N D"], Int[Tensor, " N"]]:
        if split not in self._splits:
            raise ValueError(f"split is {split!r}; it must be train or test")
        types, bonds, sizes = (torch.from_numpy(x).long() for x in self._splits[split][:3])
        return self.space.one_hot(types, bonds, sizes), sizes

    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        from pgdlab.molecules import metrics

        return metrics.figures(self.decoder(sample), fcd=self.fcd)

    def show(self, rows: dict[str, Tensor], path: Path) -> None:
        from pgdlab.molecules.drawing import picture

        picture({title: self.decoder(sample) for title, sample in rows.items()}, path)
