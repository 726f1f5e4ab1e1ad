"""A transformer over the atoms of a graph, with features for every pair of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Pairing(nn.Module):
    """Unordered pairs i < j of a set of atoms, row by row; every pair is computed once. Moving between pairs, atoms and
    square matrices is a product with a matrix of zeros and ones: on a CPU that is several times faster than indexing.
    """

    first: Tensor
    second: Tensor
    both: Tensor
    above: Tensor

    def __init__(self, atoms: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(atoms, atoms, 1)
        one = torch.eye(atoms)
        above = (one[first, :, None] * one[second, None, :]).flatten(1)
        below = (one[second, :, None] * one[first, None, :]).flatten(1)
        for name, table in (("first", one[first]), ("second", one[second]), ("both", above + below), ("above", above)):
            self.register_buffer(name, table, persistent=False)

    def full(self, pairs: Float[Tensor, "B P C"]) -> Float[Tensor, "B C N N"]:
        """Symmetric matrices with a diagonal of 0."""
        atoms = self.first.shape[1]
        return (pairs.mT @ self.both.to(pairs.dtype)).unflatten(-1, (atoms, atoms))

    def triangle(self, square: Float[Tensor, "B C N N"]) -> Float[Tensor, "B P C"]:
        """The entries above the diagonal."""
        return (square.flatten(2) @ self.above.mT.to(square.dtype)).mT

    def ends(self, nodes: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B P C"], Float[Tensor, "B P C"]]:
        """The features of the two atoms of every pair."""
        return self.first.to(nodes.dtype) @ nodes, self.second.to(nodes.dtype) @ nodes

    def at(self, pairs: Float[Tensor, "B P C"]) -> Float[Tensor, "B N C"]:
        """The sum over an atom's pairs."""
        return (self.first + self.second).mT.to(pairs.dtype) @ pairs

    def within(self, real: Bool[Tensor, "B N"]) -> Float[Tensor, "B P 1"]:
        """1 for pairs of two real atoms."""
        i, j = self.ends(real[..., None].float())
        return i * j


def perceptron(width: int, factor: int) -> nn.Sequential:
    """Two layers, SiLU between."""
    return nn.Sequential(nn.Linear(width, factor * width), nn.SiLU(), nn.Linear(factor * width, width))


class Layer(nn.Module):
    """Atoms attend to atoms, biased and gated by their pairs, and hear their pairs; pairs hear their two atoms and the
    triangles they are part of (gated attention and triangle products after Jumper et al. 2021, doi
    10.1038/s41586-021-03819-2, algorithms 7 and 11). width: of atoms; pair_width: of pairs.
    """

    def __init__(self, pairing: Pairing, width: int, pair_width: int, heads: int, triangles: int) -> None:
        super().__init__()
        self.pairing, self.heads = pairing, heads
        self.condition, self.pair_condition = nn.Linear(width, width), nn.Linear(width, pair_width)
        self.norm, self.pair_norm = (
            nn.RMSNorm(width, elementwise_affine=False),
            nn.RMSNorm(pair_width, elementwise_affine=False),
        )
        self.qkv = nn.Linear(width, 3 * width)
        self.to_atoms = nn.Linear(pair_width, 2 * heads + pair_width)
        self.out = nn.Linear(width + pair_width, width)
        self.mlp = nn.Sequential(nn.RMSNorm(width, elementwise_affine=False), perceptron(width, 2))
        self.sides, self.mixed = nn.Linear(pair_width, 2 * triangles), nn.Linear(width, 2 * pair_width)
        self.to_pairs = nn.Linear(2 * pair_width + triangles, pair_width)
        self.pair_mlp = nn.Sequential(nn.RMSNorm(pair_width, elementwise_affine=False), perceptron(pair_width, 2))

    def forward(
        self,
        nodes: Float[Tensor, "B N W"],
        pairs: Float[Tensor, "B P E"],
        c: Float[Tensor, "B W"],
        real: Bool[Tensor, "B N"],
    ) -> tuple[Float[Tensor, "B N W"], Float[Tensor, "B P E"]]:
        seen = self.pair_norm(pairs + self.pair_condition(c)[:, None])
        nodes = nodes + self.attention(self.norm(nodes + self.condition(c)[:, None]), seen, real)
        nodes = (nodes + self.mlp(nodes)) * real[..., None]
        pairs = pairs + self.update(nodes, seen, real)
        return nodes, pairs + self.pair_mlp(pairs)

    def attention(
        self, y: Float[Tensor, "B N W"], seen: Float[Tensor, "B P E"], real: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B N W"]:
        """The atoms' update, from each other and from their pairs."""
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heard = self.to_atoms(seen)
        bias, gate = self.pairing.full(heard[..., : 2 * self.heads]).chunk(2, 1)
        scores = (q @ k.mT) * q.shape[-1] ** -0.5 + bias
        weights = scores.masked_fill(~real[:, None, None], -1e4).softmax(-1) * gate.sigmoid()
        told = self.pairing.at(heard[..., 2 * self.heads :] * self.pairing.within(real)) / y.shape[1] ** 0.5
        return self.out(torch.cat([(weights @ v).transpose(1, 2).flatten(2), told], -1))

    def update(
        self, nodes: Float[Tensor, "B N W"], seen: Float[Tensor, "B P E"], real: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B P E"]:
        """The pairs' update."""
        pairing = self.pairing
        a, b = pairing.full(self.sides(seen) * pairing.within(real)).chunk(2, 1)
        product = a @ b
        around = pairing.triangle(product + product.mT) / nodes.shape[1] ** 0.5
        i, j = pairing.ends(self.mixed(nodes))
        cut = i.shape[-1] // 2
        return self.to_pairs(torch.cat([i[..., :cut] + j[..., :cut], i[..., cut:] * j[..., cut:], around], -1))


def sinusoids(x: Float[Tensor, " B"], width: int) -> Float[Tensor, "B W"]:
    """Sines and cosines of x at frequencies from 1/32 to 8, spaced evenly on a logarithmic scale."""
    frequency = torch.exp2(torch.linspace(-5, 3, width // 2, device=x.device, dtype=x.dtype))
    angle = x[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


class GraphTransformer(nn.Module):
    """Features of atoms and of pairs, the noise level and the number of atoms -> an output for every atom and pair.

    Equivariant under permutations of the atoms; what is past the last atom is neither read nor written. The outputs are 0
    before training. atoms: the most there are; width, pair_width: channels; node_features, node_outputs, ...: sizes.
    """

    def __init__(
        self, *, atoms: int, node_features: int, pair_features: int, node_outputs: int, pair_outputs: int,
        width: int, pair_width: int, heads: int, layers: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pairing, self.width = Pairing(atoms), width
        self.node_in, self.pair_in = nn.Linear(node_features, width), nn.Linear(pair_features, pair_width)
        self.condition = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.size = nn.Embedding(atoms + 1, width)
        each = [Layer(self.pairing, width, pair_width, heads, pair_width // 2) for _ in range(layers)]
        self.layers = nn.ModuleList(each)
        self.node_out = nn.Sequential(nn.RMSNorm(width, elementwise_affine=False), nn.Linear(width, node_outputs))
        self.pair_out = nn.Sequential(
            nn.RMSNorm(pair_width, elementwise_affine=False), nn.Linear(pair_width, pair_outputs)
        )
        for head in (self.node_out[1], self.pair_out[1]):
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(
        self,
        nodes: Float[Tensor, "B N F"],
        pairs: Float[Tensor, "B P G"],
        log_snr: Float[Tensor, " B"],
        sizes: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B N O"], Float[Tensor, "B P Q"]]:
        real = torch.arange(nodes.shape[1], device=nodes.device) < sizes[:, None]
        c = self.condition(sinusoids(log_snr.to(nodes.dtype), self.width) + self.size(sizes))
        x, e = self.node_in(nodes) * real[..., None], self.pair_in(pairs)
        for layer in self.layers:
            x, e = layer(x, e, c, real)
        return self.node_out(x), self.pair_out(e)
