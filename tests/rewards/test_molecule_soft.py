"""The soft valence penalty by hand, on one-hot graphs of the domain and on mixtures."""

import pytest
import torch

from pgdlab.domains.qm9 import QM9
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.qm9 import ATOMS, PAIRS
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.dense import EveryStep
from pgdlab.rewards.molecule.soft import SoftValence, mean_excess


def decoded(types, bonds):
    """One-hot state of the domain, decoded: types a list, bonds a dict of pairs."""
    sizes = torch.tensor([len(types)])
    kinds = torch.zeros(1, ATOMS, dtype=torch.long)
    kinds[0, : len(types)] = torch.tensor(types)
    orders = torch.tensor([[bonds.get(pair, 0) for pair in PAIRS]])
    domain = QM9()
    return domain.decoder(domain.space.one_hot(kinds, orders, sizes))


CASES = {
    "ethane": ([0, 0], {(0, 1): 1}, 0.0),
    "F=F: each has one too many": ([3, 3], {(0, 1): 2}, 1.0),
    "CF5 with the carbon in the middle: one of six atoms": (
        [3, 3, 0, 3, 3, 3], {(0, 2): 1, (1, 2): 1, (2, 3): 1, (2, 4): 1, (2, 5): 1}, 1 / 6,
    ),
    "a carbon with a triple and a double bond": ([0, 0, 0], {(0, 1): 3, (0, 2): 2}, 1 / 3),
    "two atoms apart": ([0, 2], {}, 0.0),
}  # fmt: skip


@pytest.mark.parametrize(("types", "bonds", "excess"), CASES.values(), ids=CASES)
def test_one_hot_graphs(types, bonds, excess):
    score = SoftValence().score(decoded(types, bonds), torch.tensor([len(types)]))
    torch.testing.assert_close(score.value, torch.tensor([-excess]))
    torch.testing.assert_close(score.parts["excess"], torch.tensor([excess]))


def mixture():
    """Two atoms: the first is F or O with probability 1/2 (allows 1.5), the second C; the bond is 2 with .5, 3 with .5."""
    soft = torch.zeros(1, 4 * ATOMS + 4 * len(PAIRS))
    soft[0, 2:4] = 0.5
    soft[0, 4] = 1.0
    soft[0, 4 * ATOMS + 2 : 4 * ATOMS + 4] = 0.5
    return soft


def test_expectations_and_their_gradient():
    """2.5 - 1.5 too many at the first atom, none at the second, mean .5. An order k of the bond adds k / 2 there; a
    type of valence v takes away v / 2. (The number of atoms, which divides, moves with the types: -.5 / 2 each.)"""
    soft = mixture().requires_grad_()
    value = mean_excess(soft)
    assert value.item() == 0.5
    (gradient,) = torch.autograd.grad(value.sum(), soft)
    assert gradient[0, 4 * ATOMS : 4 * ATOMS + 4].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert gradient[0, :4].tolist() == [-v / 2 - 0.25 for v in (4, 3, 2, 1)]


def test_the_probabilities_are_cut_with_the_batch():
    molecules = Molecules(decoded([0, 0], {(0, 1): 1}).each * 3, torch.cat([0 * mixture(), mixture(), mixture()]))
    assert SoftValence().score(molecules[1:2], torch.zeros(1)).value.tolist() == [-0.5]
    outcome = Outcome(molecules, torch.zeros(3), 2, lambda h: molecules).rows(1, 3)
    paid = EveryStep(reward=SoftValence(), weight=0.1)(outcome)
    torch.testing.assert_close(paid.values, torch.full((2, 2), -0.05).double(), atol=1e-7, rtol=0)


def test_graphs_without_probabilities_are_refused():
    with pytest.raises(ValueError, match="needs the probabilities"):
        SoftValence().score(Molecules.from_smiles(["C"]), torch.zeros(1))
