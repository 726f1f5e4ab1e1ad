"""The valence projection: by hand, and what it owes on any graph."""

from __future__ import annotations

import pytest
import torch

from pgdlab.molecules import metrics, qm9
from pgdlab.molecules.batch import VALENCE, Molecules
from pgdlab.molecules.projection import project, projected

C, OXYGEN, F = 0, 2, 3


def certain(kinds: list[int]) -> torch.Tensor:
    """Atoms without doubt."""
    return torch.nn.functional.one_hot(torch.tensor([kinds]), 4).double()


def bonds(count: int, given: dict[tuple[int, int], tuple[float, float, float, float]]) -> torch.Tensor:
    """Probabilities of the orders; no bond where none is given."""
    out = torch.zeros(1, count, count, 4).double()
    out[..., 0] = 1
    for (i, j), p in given.items():
        out[0, i, j] = torch.tensor(p)
    return out


def random_graphs(count: int, sharp: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Atoms, bonds and sizes of random graphs; sharp: how sure they are."""
    g = torch.Generator().manual_seed(0)
    types = (sharp * torch.randn(count, 9, 4, generator=g)).softmax(-1)
    pairs = (sharp * torch.randn(count, 9, 9, 4, generator=g) + torch.tensor([1.5, 0, 0, 0])).softmax(-1)
    return types, pairs, torch.randint(1, 10, (count,), generator=g)


def test_the_least_certain_bond_of_an_overfull_atom_goes() -> None:
    """Oxygen with three carbons: the bond of .6 against .4 is the one to lose, log .6/.4 against log .9/.1 and log .8/.2."""
    given = {(0, 1): (0.1, 0.9, 0, 0), (0, 2): (0.4, 0.6, 0, 0), (0, 3): (0.2, 0.8, 0, 0)}
    _, orders = project(certain([OXYGEN, C, C, C]), bonds(4, given), torch.tensor([4]))
    assert orders[0, 0].tolist() == [0, 1, 0, 1]
    assert torch.equal(orders, orders.mT)


def test_a_bond_is_lowered_by_one_order_at_a_time() -> None:
    """Oxygen with a double and a single bond: the double one is nearly single, and no bond is deleted."""
    given = {(0, 1): (0, 0.45, 0.55, 0), (0, 2): (0.1, 0.9, 0, 0)}
    _, orders = project(certain([OXYGEN, C, C]), bonds(3, given), torch.tensor([3]))
    assert orders[0, 0].tolist() == [0, 1, 1]


def test_a_bond_that_relieves_both_of_its_ends_costs_half() -> None:
    """Two fluorines bonded to each other and to a carbon each: one lowering mends both."""
    given = {(0, 1): (0.2, 0.8, 0, 0), (0, 2): (0.25, 0.75, 0, 0), (1, 3): (0.25, 0.75, 0, 0)}
    _, orders = project(certain([F, F, C, C]), bonds(4, given), torch.tensor([4]))
    assert orders[0].triu().nonzero().tolist() == [[0, 2], [1, 3]]  # log 4 / 2 is below log 3


def test_of_equally_sure_bonds_the_highest_order_goes() -> None:
    """Carbon with a single, a triple and a double bond, all certain."""
    given = {(0, 1): (0.0, 1.0, 0, 0), (0, 2): (0, 0, 0, 1.0), (0, 3): (0, 0, 1.0, 0)}
    _, orders = project(certain([C, C, C, C]), bonds(4, given), torch.tensor([4]))
    assert orders[0, 0].tolist() == [0, 1, 1, 2]  # 6 to 4: the triple bond; once lowered it is the least sure


def test_hard_graphs_can_be_given() -> None:
    given = {(0, j): (0, 1, 0, 0) for j in range(1, 6)}
    kinds, orders = project(certain([C] * 6), bonds(6, given), torch.tensor([6]))
    assert orders[0, 0].sum() == 4
    assert kinds.tolist() == [[C] * 6]


@pytest.mark.parametrize("sharp", [0.5, 3.0])
def test_any_graph_is_sanitised_afterwards_and_no_bond_rises(sharp: float) -> None:
    types, pairs, sizes = random_graphs(400, sharp)
    kinds, orders = project(types, pairs, sizes)
    before = Molecules.from_graphs(types.argmax(-1), pairs.argmax(-1), sizes)
    after = Molecules.from_graphs(kinds, orders, sizes)
    assert sum(m.reason == "valence" for m in before) > 50
    assert {m.reason for m in after} <= {None, "disconnected"}
    assert torch.equal(kinds, types.argmax(-1))
    above = torch.ones(9, 9).triu(1).bool()
    assert (orders <= pairs.argmax(-1))[:, above].all()
    assert (orders.sum(-1) <= torch.tensor(VALENCE)[kinds]).all()
    for x, y in zip(before, after, strict=True):
        if x.sanitised:
            assert x.smiles == y.smiles  # nothing to mend
    one = [project(types[i : i + 1], pairs[i : i + 1], sizes[i : i + 1])[1] for i in range(20)]
    assert torch.equal(torch.cat(one), orders[:20])


def test_molecules_are_projected_from_their_probabilities() -> None:
    """As packed by Molecules.soft; a row of it is the same as from project(), and its figures stand beside the others."""
    types, pairs, sizes = random_graphs(200, 2.0)
    inside = torch.arange(9) < sizes[:, None]
    first, second = zip(*qm9.PAIRS, strict=True)
    here = (inside[:, :, None] & inside[:, None])[:, first, second]
    soft = torch.cat(
        [(types * inside[..., None]).flatten(1), (pairs[:, first, second] * here[..., None]).flatten(1)], 1
    )
    molecules = Molecules.from_graphs(types.argmax(-1), pairs.argmax(-1), sizes, soft)
    direct = Molecules.from_graphs(*project(types, pairs, sizes), sizes)
    assert [m.smiles for m in projected(molecules)] == [m.smiles for m in direct]
    found = metrics.figures(molecules)
    assert found["projected_valid"] == len(direct.valid) / 200 > found["valid"]
    assert found["projected_vun"] >= found["vun"]
    with pytest.raises(ValueError, match=r"Molecules\.soft"):
        projected(Molecules.from_smiles(["CCO"]))
