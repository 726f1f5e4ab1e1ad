"""Graphs as one-hot vectors: their space, and a denoiser whose estimate is the expectation of a categorical."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.program import program
from pgdlab.diffusion import files
from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.diffusion.networks.graph_transformer import GraphTransformer
from pgdlab.diffusion.schedules import Schedule
from pgdlab.diffusion.space import Space, squared_difference
from pgdlab.functional.gaussian import expand


@dataclass(frozen=True)
class Graphs(Space):
    """Simple graphs of at most `atoms` nodes, packed: node classes one-hot (atoms x types), then bond classes one-hot of the
    pairs i < j, row by row (pairs x bonds), each minus 1/2. A pair is stored, and counted, once; what is past the last node
    is 0, and no degree of freedom. cond: (P,) the number of nodes.
    """

    atoms: int
    types: int
    bonds: int

    @property
    def pairs(self) -> int:
        """Unordered pairs."""
        return self.atoms * (self.atoms - 1) // 2

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.atoms * self.types + self.pairs * self.bonds,)

    @functools.cached_property
    def masks(self) -> Float[Tensor, "N1 D"]:
        """1 for the degrees of freedom of graphs of 0 .. atoms nodes."""
        n = torch.arange(self.atoms + 1)[:, None]
        last = torch.triu_indices(self.atoms, self.atoms, 1)[1]
        nodes, pairs = torch.arange(self.atoms) < n, last < n
        return torch.cat([nodes.repeat_interleave(self.types, 1), pairs.repeat_interleave(self.bonds, 1)], 1).float()

    def mask(self, cond: Int[Tensor, " P"], like: Tensor) -> Float[Tensor, "P D"]:
        """1 for the degrees of freedom of rows of these sizes, in like's dtype and on its device."""
        key = (like.dtype, like.device)
        if key not in self.copies:  # made once, so that no step waits for a copy
            self.copies[key] = self.masks.to(like)
        return self.copies[key][cond]

    @functools.cached_property
    def copies(self) -> dict[tuple[torch.dtype, torch.device], Tensor]:
        """masks where they have been needed."""
        return {}

    def project(self, noise: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, "P *D"]:
        return noise * self.mask(cond, noise)

    def squared_distance(self, x: Float[Tensor, "P *D"], y: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return (squared_difference(x, y) * self.mask(cond, x)).sum(1, dtype=torch.float64)

    def dof(self, cond: Tensor) -> Int[Tensor, " P"]:
        return cond * self.types + cond * (cond - 1) // 2 * self.bonds

    def sum_over_dof(self, log_std: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return (log_std * self.mask(cond, log_std)).sum(1, dtype=torch.float64)

    def orbits(self) -> Int[Tensor, " D"]:
        nodes = torch.arange(self.types).repeat(self.atoms)
        return torch.cat([nodes, self.types + torch.arange(self.bonds).repeat(self.pairs)])

    def scales(self, log_scale: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        return log_scale

    def unpack(self, x: Float[Tensor, "P D"]) -> tuple[Float[Tensor, "P N K"], Float[Tensor, "P E B"]]:
        """Nodes and pairs."""
        cut = self.atoms * self.types
        return x[:, :cut].unflatten(1, (self.atoms, self.types)), x[:, cut:].unflatten(1, (self.pairs, self.bonds))

    def pack(self, nodes: Float[Tensor, "P N K"], pairs: Float[Tensor, "P E B"]) -> Float[Tensor, "P D"]:
        """The inverse of unpack."""
        return torch.cat([nodes.flatten(1), pairs.flatten(1)], 1)

    def one_hot(
        self, types: Int[Tensor, "P N"], bonds: Int[Tensor, "P E"], sizes: Int[Tensor, " P"]
    ) -> Float[Tensor, "P D"]:
        """Classes -> the packed state: +1/2 at the class, -1/2 elsewhere, 0 past the last node."""
        hot = self.pack(F.one_hot(types, self.types).float(), F.one_hot(bonds, self.bonds).float())
        return self.project(hot - 0.5, sizes)


@dataclass(frozen=True)
class Home:
    """Of which domain a denoiser is: the command line that picks it, its class and module, and what else config.json is to
    tell its build() beside the network's sizes."""

    command: str = "domain=qm9"
    cls: str = "QM9"
    module: str = "pgdlab.domains.qm9"
    facts: Mapping[str, Any] = field(default_factory=dict)


QM9 = Home()


class GraphDenoiser(NetworkDenoiser):
    """x0 is the expected one-hot vector, softmax(b + f) - 1/2. b: the log-posterior of every node and pair by itself, given
    its own noisy coordinates and the class shares of the data,

        b_k = log share_k + alpha / sigma^2 x_k        (x_t = alpha x_0 + sigma noise, |x_0| the same for all classes),

    f: the network's, which so needs to learn only what the rest of the graph says, and nothing where there is little noise.
    The network also reads what b says of the graph: degrees, walks, and how much of its valence every atom uses.
    valence: of the node classes; bond class k counts k. home: what save() says of the domain.
    """

    supports_unconditional = False
    adapter_targets = (
        "qkv", "to_atoms", "out", "mlp.1.0", "mlp.1.2", "sides", "mixed", "to_pairs", "pair_mlp.1.0", "pair_mlp.1.2",
    )  # fmt: skip
    shares: Tensor
    bond_shares: Tensor
    valence: Tensor

    def __init__(
        self, space: Graphs, schedule: Schedule, *, shares: tuple[float, ...], bond_shares: tuple[float, ...],
        valence: tuple[int, ...], width: int = 96, pair_width: int = 48, heads: int = 6, layers: int = 6,
        home: Home = QM9,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % (2 * heads) or min(width, pair_width, heads, layers) < 1:
            raise ValueError(
                f"width is {width}, pair_width {pair_width}, heads {heads}, layers {layers}; all must be at least "
                "1, and width a multiple of twice the heads"
            )
        self.space, self.schedule, self.home = space, schedule, home
        for name, values in (("shares", shares), ("bond_shares", bond_shares), ("valence", valence)):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.sizes = {"width": width, "pair_width": pair_width, "heads": heads, "layers": layers}
        self.network = GraphTransformer(
            atoms=space.atoms, node_features=2 * space.types + NODE_FEATURES, pair_features=2 * space.bonds + PAIR_FEATURES,
            node_outputs=space.types, pair_outputs=space.bonds, **self.sizes,
        )  # fmt: skip

    def posterior(
        self, x: Float[Tensor, "P D"], t: Float[Tensor, " P"]
    ) -> tuple[Float[Tensor, "P N K"], Float[Tensor, "P E B"]]:
        """b, for nodes and pairs: log-probabilities up to a constant."""
        scale = expand(self.schedule.alpha(t) / self.schedule.sigma(t).square(), x)
        nodes, pairs = self.space.unpack(scale * x)
        return nodes + self.shares.log(), pairs + self.bond_shares.log()

    def features(
        self, nodes: Float[Tensor, "P N K"], pairs: Float[Tensor, "P E B"], sizes: Int[Tensor, " P"]
    ) -> tuple[Float[Tensor, "P N F"], Float[Tensor, "P E G"]]:
        """Features of the graph that the single posteriors (probabilities) make: NODE_FEATURES an atom, PAIR_FEATURES a pair."""
        pairing = self.network.pairing
        real = torch.arange(self.space.atoms, device=nodes.device) < sizes[:, None]
        both = pairing.within(real)
        order = (pairs * torch.arange(self.space.bonds, device=pairs.device)).sum(-1, keepdim=True)
        bonded = (1 - pairs[..., :1]) * both
        used = pairing.at(order * both)[..., 0]
        free = (nodes * self.valence.to(nodes)).sum(-1) - used
        link = pairing.full(bonded)[:, 0]
        walks = [link @ link]
        walks += [walks[0] @ link, walks[0] @ walks[0]]
        own = [pairing.at(bonded)[..., 0], used, free, *(w.diagonal(dim1=1, dim2=2) for w in walks)]
        shared = torch.cat([order, pairing.triangle(torch.stack(walks, 1))], -1)
        return signed_log(torch.stack(own, -1)), signed_log(shared)

    def logits(
        self, x: Float[Tensor, "P D"], t: Float[Tensor, " P"], cond: Int[Tensor, " P"]
    ) -> tuple[Float[Tensor, "P N K"], Float[Tensor, "P E B"]]:
        """b + f, in the dtype of x."""
        nodes, pairs = self.posterior(x, t)
        probable, bonds = nodes.softmax(-1), pairs.softmax(-1)
        own, shared = self.features(probable, bonds, cond)
        log_snr = 2 * (self.schedule.alpha(t) / self.schedule.sigma(t)).log()
        noisy = self.space.unpack(x)
        seen = torch.cat([probable, noisy[0], own], -1), torch.cat([bonds, noisy[1], shared], -1), log_snr
        f, g = self.network(*(part.to(self.dtype) for part in seen), cond)
        return nodes + f.to(x.dtype), pairs + g.to(x.dtype)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        nodes, pairs = self.logits(x, t, cond)
        return self.space.project(self.space.pack(nodes.softmax(-1), pairs.softmax(-1)) - 0.5, cond)

    def loss(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, " P"]:
        """-log p(x0 | x_t), all parts as if independent given x_t, divided by the number of nodes: nats a node
        (Vignac et al. 2022, arXiv:2209.14734, eq. 4, with equal weights). The classes of x0 are its largest coordinates."""
        total = x.new_zeros(len(x))
        parts = (self.space.unpack(v) for v in (x0, self.space.mask(cond, x0)))
        for logits, hot, mask in zip(self.logits(x, t, cond), *parts, strict=True):
            chosen = logits.log_softmax(-1).gather(-1, hot.argmax(-1, keepdim=True))
            total = total - (chosen * mask[..., :1]).flatten(1).sum(1)
        return total / cond

    def save(self, folder: Path) -> str:
        files.write(self.network, {**self.sizes, **self.home.facts}, folder)
        return f"```bash\n{program()} {self.home.command} domain.weights={folder}\n```"

    def save_for_adapters(self, folder: Path) -> str:
        return files.adapters(self.home.cls, self.home.module, folder)


NODE_FEATURES, PAIR_FEATURES = 6, 4


def signed_log(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): counts, with small numbers kept apart."""
    return x.sign() * x.abs().log1p()
