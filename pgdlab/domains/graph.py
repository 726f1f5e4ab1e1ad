"""Molecules as graphs: what qm9 and your own molecules share. Heavy atoms and kekulised bonds; hydrogens are implicit."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.graphs import GraphDenoiser, Graphs, Home
from pgdlab.diffusion.schedules import Cosine
from pgdlab.domains.base import Decoder
from pgdlab.domains.molecule import MoleculeDomain
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.elements import Source

SMALL = 0.05  # five standard deviations of a final sample's noise


def shares(x: Float[Tensor, "B P K"]) -> Float[Tensor, "B P K"]:
    """Probabilities of classes from one-hot numbers minus 1/2."""
    likely = (x + 0.5).masked_fill(x < SMALL - 0.5, 0.0)
    return likely / likely.sum(-1, keepdim=True).clamp_min(SMALL)


class GraphDecoder(Decoder):
    """Graphs -> molecules, on the CPU: the likeliest class of every atom and pair. What is past the last atom is 0 in every
    class. The probabilities are kept: an x0 estimate is them, minus 1/2. Those below SMALL count as 0, so that a final
    sample, which has noise of 0.01 on it, is what it was decoded to."""

    differentiable, gives = False, "molecules"

    def __init__(self, space: Graphs, source: Source | None = None) -> None:
        super().__init__()
        self.space, self.source = space, source

    def decode(self, sample: Float[Tensor, "B D"]) -> Molecules:
        space = self.space
        nodes, pairs = space.unpack(sample.detach().cpu().float())
        sizes = nodes.ne(0).any(-1).sum(1)
        square = torch.zeros(len(sample), space.atoms, space.atoms, dtype=torch.long)
        first, second = torch.triu_indices(space.atoms, space.atoms, 1)
        square[:, first, second] = pairs.argmax(-1)
        soft = space.project(space.pack(shares(nodes), shares(pairs)), sizes)
        return Molecules.from_graphs(nodes.argmax(-1), square, sizes, soft, self.source)


class Shares(NamedTuple):
    """Of all training molecules: the elements, and the classes of bonds (none, single, double, triple)."""

    types: tuple[float, ...]
    bonds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphDomain(MoleculeDomain):
    """The condition of a molecule is its number of heavy atoms. width, pair_width, heads, layers: of a network before
    pretraining; the others as in MoleculeDomain."""

    counted = "heavy atoms"

    width: int = 96
    pair_width: int = 48
    heads: int = 6
    layers: int = 6
    space: Graphs = field(init=False)
    decoder: Decoder = field(init=False)

    @property
    @abstractmethod
    def shares(self) -> Shares:
        """Of the data."""

    @property
    @abstractmethod
    def valence(self) -> tuple[int, ...]:
        """Of the elements."""

    @property
    def home(self) -> Home:
        """What a saved denoiser says of the domain."""
        return Home()

    @abstractmethod
    def graphs(self, split: str) -> tuple[Any, Any, Any]:
        """Types, bonds and sizes of the split "train" or "test", as in molecules.encoding."""

    def build(self, **sizes: Any) -> GraphDenoiser:
        own = {"width": self.width, "pair_width": self.pair_width, "heads": self.heads, "layers": self.layers}
        shares = sizes.pop("shares", None) or self.shares
        return GraphDenoiser(
            self.space, Cosine(), shares=shares.types, bond_shares=shares.bonds, valence=self.valence, home=self.home,
            **own | sizes,
        )  # fmt: skip

    def data(self, split: str) -> tuple[Float[Tensor, "N D"], Int[Tensor, " N"]]:
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}; it must be train or test")
        types, bonds, sizes = (torch.from_numpy(x).long() for x in self.graphs(split))
        return self.space.one_hot(types, bonds, sizes), sizes

    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        from pgdlab.molecules import metrics

        return metrics.figures(self.decoder(sample), fcd=self.fcd)

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        from pgdlab.molecules.drawing import picture

        picture({title: self.decoder(sample) for title, sample in rows.items()}, path)
