"""The valence of a graph that is not decided yet."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.molecules.batch import BONDS, Molecules
from pgdlab.molecules.elements import Source
from pgdlab.molecules.known import QM9, source_of
from pgdlab.rewards.base import Reward, Score


class SoftValence(Reward):
    """-mean_i max(0, v_i - a_i) over the atoms of a graph, in bonds: v_i = sum_j sum_k k p_ij(k) the expected valence of atom
    i, a_i = sum_t p_i(t) valence(t) what its type is expected to allow. Hydrogens fill what is missing, so that only too
    many bonds cost. Part "excess": the mean, without its sign.

    It looks at probabilities (Molecules.soft), so that it grades estimates of x0 that decode to nothing yet: put it into
    EveryStep or Shaped. Differentiable in them.
    """

    takes = "molecules"

    def score(self, sample: Molecules, cond: Tensor) -> Score:
        if sample.soft is None:
            raise ValueError("SoftValence needs the probabilities of a graph; these molecules were decoded without")
        excess = mean_excess(sample.soft, source_of(sample)).to(cond.device)
        return Score.of(-excess, excess=excess)


def mean_excess(soft: Float[Tensor, "B D"], source: Source = QM9) -> Float[Tensor, " B"]:
    """Bonds that an atom is expected to have too many, mean over the atoms that are there; packed as Molecules.soft."""
    atoms, kinds = source.atoms, len(source.symbols)
    cut = atoms * kinds
    types = soft[:, :cut].unflatten(1, (atoms, kinds))
    order = soft[:, cut:].unflatten(1, (len(source.pairs), len(BONDS))) @ torch.arange(len(BONDS)).to(soft)
    first, second = torch.triu_indices(atoms, atoms, 1, device=soft.device)
    zero = order.new_zeros(len(soft), atoms)
    valence = zero.index_add(1, first, order).index_add(1, second, order)
    excess = (valence - types @ torch.tensor(source.valence).to(soft)).clamp(min=0)
    return excess.sum(1) / types.sum((1, 2)).clamp(min=1)
