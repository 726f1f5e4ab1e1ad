"""A graph network on atoms in space, equivariant under rotations, reflections, translations and permutations."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.networks.graph_transformer import sinusoids

WAVES = 5  # wavelengths of waves()


def pairs_of(real: Bool[Tensor, "B N"]) -> tuple[Int[Tensor, " E"], Int[Tensor, " E"]]:
    """All ordered pairs of two different atoms of one molecule, as rows of the A real atoms laid end to end."""
    number = real.flatten().cumsum(0).reshape(real.shape) - 1
    both = real[:, :, None] & real[:, None, :]
    both = both & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    row, i, j = both.nonzero(as_tuple=True)
    return number[row, i], number[row, j]


def length(line: Float[Tensor, "E 3"]) -> Float[Tensor, " E"]:
    """Euclidean, differentiable where two atoms meet."""
    return (line.square().sum(1) + 1e-8).sqrt()


def waves(distance: Float[Tensor, " E"]) -> Float[Tensor, "E 10"]:
    """Sines and cosines of distances in angstrom, of wavelengths from 15 down to 0.94. EDM's go down to 0.015; the slope of such
    a wave multiplies the gradient of the coordinates by some hundred at every layer, and training stalled here at 0.06."""
    angle = (
        2 * math.pi / 15 * distance[:, None] * 2.0 ** torch.arange(WAVES, dtype=distance.dtype, device=distance.device)
    )
    return torch.cat([angle.sin(), angle.cos()], 1)


class Layer(nn.Module):
    """Atoms hear all others of their molecule, then move along the lines to them (Satorras et al. 2021, arXiv:2102.09844,
    eq. 3 to 7, as in Hoogeboom et al. 2022, arXiv:2203.17003, appendix B):

        m_ij = phi_e(h_i, h_j, d_ij, d0_ij),    h_i += phi_h(h_i, sum_j sigmoid(phi_a(m_ij)) m_ij),
        x_i += sum_j (x_i - x_j) / (d_ij + 1) reach tanh(phi_x(h_i, h_j, d_ij, d0_ij)).

    d0: distances of the network's input; distances enter as waves(), an option of EDM's code. reach: angstrom, the largest pull
    of one atom on another. The first linear layer of phi_e and of phi_x is split by its inputs, so that the large part is
    computed for each atom and not for each pair.
    """

    def __init__(self, hidden: int, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.ends, self.distances = nn.Linear(hidden, 2 * hidden), nn.Linear(4 * WAVES, hidden, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.attention = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())
        self.node = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.moved_ends, self.moved_distances = nn.Linear(hidden, 2 * hidden), nn.Linear(4 * WAVES, hidden, bias=False)
        self.pull = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))
        nn.init.xavier_uniform_(self.pull[-1].weight, gain=1e-3)  # type: ignore[arg-type]  # no motion at first, nearly

    def forward(
        self, h: Float[Tensor, "A W"], x: Float[Tensor, "A 3"], i: Int[Tensor, " E"], j: Int[Tensor, " E"],
        start: Float[Tensor, "E 10"],
    ) -> tuple[Float[Tensor, "A W"], Float[Tensor, "A 3"]]:  # fmt: skip
        line = x[i] - x[j]
        distance = length(line)
        apart = torch.cat([waves(distance), start], 1)
        left, right = self.ends(h).chunk(2, 1)
        m = self.message(left[i] + right[j] + self.distances(apart))
        heard = torch.zeros_like(h).index_add(0, i, (self.attention(m) * m).to(h.dtype))
        h = h + self.node(torch.cat([h, heard], 1))
        left, right = self.moved_ends(h).chunk(2, 1)
        pull = self.reach * self.pull(left[i] + right[j] + self.moved_distances(apart)).tanh()
        return h, x.index_add(0, i, (line / (distance[:, None] + 1) * pull).to(x.dtype))


class EGNN(nn.Module):
    """Features of atoms, their coordinates and the noise level -> features and displacements.

    Displacements turn and mirror with the coordinates and do not see where they are; the order of the atoms does not matter;
    what is past the last atom is neither read nor written. features, outputs: of an atom; hidden: channels; reach:
    angstrom, of all layers together (15 in EDM).
    """

    def __init__(self, *, features: int, outputs: int, hidden: int, layers: int, reach: float = 15.0) -> None:
        super().__init__()
        self.hidden = hidden
        self.into = nn.Linear(features, hidden)
        self.level = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.layers = nn.ModuleList(Layer(hidden, reach / layers) for _ in range(layers))
        self.out = nn.Linear(hidden, outputs)

    def forward(
        self,
        h: Float[Tensor, "B N F"],
        x: Float[Tensor, "B N 3"],
        log_snr: Float[Tensor, " B"],
        real: Bool[Tensor, "B N"],
    ) -> tuple[Float[Tensor, "B N O"], Float[Tensor, "B N 3"]]:
        i, j = pairs_of(real)
        level = self.level(sinusoids(log_snr.to(h.dtype), self.hidden))
        atoms, place = (self.into(h) + level[:, None])[real], x[real]
        start = waves(length(place[i] - place[j]))
        moved = place
        for layer in self.layers:
            atoms, moved = layer(atoms, moved, i, j, start)
        out, shift = h.new_zeros(*real.shape, self.out.out_features), torch.zeros_like(x)
        out[real], shift[real] = self.out(atoms).to(h.dtype), moved - place
        return out, shift
