"""The valence projection: from probabilities of atoms and bonds to a graph that no atom's valence forbids."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.molecules.batch import BONDS, VALENCE, Molecules
from pgdlab.molecules.known import source_of

TIE = 1e-4  # of log-probability, an order
SMALLEST = 1e-12  # probability, so that hard graphs can be given too


def project(
    types: Float[Tensor, "B N K"],
    bonds: Float[Tensor, "B N N 4"],
    sizes: Int[Tensor, " B"],
    valence: tuple[int, ...] = VALENCE,
) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N N"]]:
    """The most probable atoms and bonds, then bonds lowered by one order at a time until every atom fits its valence.

    types: probabilities of the elements, whose valences are given. bonds: of the orders 0 to 3, read above the diagonal.
    sizes: how many atoms count.
    Lowered is the bond of an overfull atom that loses the least log-probability, log p_k - log p_(k-1), halved where both
    of its ends are overfull; of equals (in a final sample all probabilities are 0 or 1) the highest order, then the first
    pair. All atoms are kept, so the graph may fall into pieces. After the correction of GDSS (Jo et
    al. 2022, arXiv:2202.02514; correct_mol of its code), which lowers the highest bond of the first such atom and keeps
    the largest piece.
    """
    count = types.shape[1]
    kinds = types.argmax(-1)
    allowed = torch.tensor(valence, device=types.device)[kinds]
    above = torch.ones(count, count, dtype=torch.bool, device=types.device).triu(1)
    inside = torch.arange(count, device=types.device) < sizes[:, None]
    pair = above & inside[:, :, None] & inside[:, None, :]
    score = bonds.clamp_min(SMALLEST).log()
    loss = torch.cat([torch.full_like(score[..., :1], torch.inf), score[..., 1:] - score[..., :-1]], -1)
    orders = bonds.argmax(-1) * pair
    while True:
        over = (orders.sum(1) + orders.sum(2) > allowed).long()
        if not over.any():
            return kinds, orders + orders.mT
        ends = over[:, :, None] + over[:, None, :]
        cost = loss.gather(-1, orders[..., None]).squeeze(-1) / ends.clamp_min(1) - TIE * orders
        cheapest = cost.masked_fill((ends == 0) | ~pair, torch.inf).flatten(1).argmin(1)
        rows = over.any(1).nonzero().squeeze(1)
        orders.view(len(orders), -1)[rows, cheapest[rows]] -= 1


def projected(molecules: Molecules) -> Molecules:
    """The same samples after project(). Raises ValueError where the probabilities that they were decoded from are unknown."""
    if molecules.soft is None:
        raise ValueError("these molecules were decoded without probabilities: a projection needs Molecules.soft")
    source, soft = source_of(molecules), molecules.soft
    cut = source.atoms * len(source.symbols)
    nodes = soft[:, :cut].unflatten(1, (source.atoms, len(source.symbols)))
    pairs = soft[:, cut:].unflatten(1, (len(source.pairs), len(BONDS)))
    first, second = torch.triu_indices(source.atoms, source.atoms, 1)
    square = pairs.new_zeros(len(pairs), source.atoms, source.atoms, len(BONDS))
    square[:, first, second] = pairs
    sizes = nodes.ne(0).any(-1).sum(1)
    kinds, orders = project(nodes, square, sizes, source.valence)
    return Molecules.from_graphs(kinds, orders, sizes, source=molecules.source)
