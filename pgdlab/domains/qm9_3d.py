"""QM9 in space: up to 29 atoms (H, C, N, O, F) with coordinates; bonds are what the distances show."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.atoms import AtomDenoiser, Atoms
from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.schedules import Cosine
from pgdlab.domains.base import Decoder
from pgdlab.domains.molecule import MoleculeDomain, spaced
from pgdlab.molecules import qm9
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.stability import ELEMENTS

SPACE = Atoms(qm9.ALL_ATOMS, len(ELEMENTS))
SCALE = 0.25  # of the one-hot types, as in EDM: they are decided after the coordinates
SIZES = {  # of 100 training molecules, how many have that many atoms; fewer than 11 or more than 25: 0.9 together
    11: 1, 12: 2, 13: 3, 14: 5, 15: 8, 16: 11, 17: 13, 18: 13, 19: 14, 20: 10, 21: 10, 22: 3, 23: 5, 24: 1, 25: 1,
}  # fmt: skip


class AtomDecoder(Decoder):
    """Atoms in space -> molecules, on the CPU: the likeliest element of every atom, and the bonds that EDM's tables see;
    hydrogens are atoms, none is added. What is past the last atom is 0 in every coordinate."""

    differentiable, gives = False, "molecules"

    def atoms(self, sample: Float[Tensor, "B A D"]) -> tuple[Int[Tensor, "B A"], Float[Tensor, "B A 3"]]:
        """Atomic numbers and coordinates in angstrom."""
        sample = sample.detach().cpu().float()
        types, xyz = SPACE.unpack(sample)
        numbers = torch.tensor(ELEMENTS)[types.argmax(-1)]
        return numbers.masked_fill(~sample.ne(0).any(-1), 0), xyz

    def decode(self, sample: Float[Tensor, "B A D"]) -> Molecules:
        from pgdlab.molecules.geometry import from_atoms

        return from_atoms(*self.atoms(sample))


@dataclass(frozen=True, kw_only=True, eq=False)
class QM9InSpace(MoleculeDomain):
    """The condition of a molecule is its number of atoms, hydrogens included. No base ships. hidden, layers: of a network
    before pretraining (EDM's by default); the others as in MoleculeDomain."""

    smallest = 2

    train_conditions: tuple[int, ...] = spaced(SIZES)
    hidden: int = 256
    layers: int = 9
    name: str = field(default="qm9_3d", init=False)
    # 0 and ALL_ATOMS + 1 are no sizes
    conditioning: Conditioning = field(default_factory=lambda: NoLabels(qm9.ALL_ATOMS + 1), init=False)
    space: Atoms = field(default=SPACE, init=False)
    decoder: AtomDecoder = field(default_factory=AtomDecoder, init=False)

    def build(self, **sizes: int) -> AtomDenoiser:
        return AtomDenoiser(SPACE, Cosine(), **{"hidden": self.hidden, "layers": self.layers} | sizes)

    @functools.cached_property
    def _splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        found = qm9.load_3d()
        numbers, xyz = torch.from_numpy(found.numbers).long(), torch.from_numpy(found.xyz)
        sizes = (numbers > 0).sum(1)
        packed = self.pack(numbers, xyz)
        return {name: (packed[rows], sizes[rows]) for name, rows in qm9.split(found.smiles).items()}

    def data(self, split: str) -> tuple[Float[Tensor, "N A D"], Int[Tensor, " N"]]:
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}; it must be train or test")
        return self._splits[split]

    def pack(self, numbers: Int[Tensor, "N A"], xyz: Float[Tensor, "N A 3"]) -> Float[Tensor, "N A D"]:
        """Atomic numbers (0 past the last atom) and coordinates in angstrom -> samples, centred."""
        types = (numbers[..., None] == torch.tensor(ELEMENTS)).to(xyz) * SCALE
        return self.space.project(torch.cat([types, xyz], 2), (numbers > 0).sum(1))

    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        from pgdlab.molecules import geometry, metrics, stability

        decoded = self.decoder(sample)
        found = stability.stability_figures(*self.decoder.atoms(sample))
        return metrics.figures(decoded, fcd=self.fcd) | found | geometry.figures(decoded)

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        from pgdlab.molecules.balls import picture

        picture({title: self.decoder(sample) for title, sample in rows.items()}, path)
