"""Validity, novelty and copies against numbers worked out by hand."""

import pytest
import torch

from pgdlab.config.compose import compose
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.known import test_sample as held_out
from pgdlab.molecules.known import training_set
from pgdlab.rewards.base import Reward
from pgdlab.rewards.molecule.validity import Distinct, NovelValid, Valid, forms
from tests.rewards.oracles import Plain
from tests.rewards.test_molecule_memory import batch


def around(centre, *neighbours):
    """A graph of types 0..3 (C, N, O, F): one atom with single bonds to others."""
    types = torch.tensor([[centre, *neighbours]])
    bonds = torch.zeros(1, types.shape[1], types.shape[1], dtype=torch.long)
    bonds[0, 0, 1:] = 1
    return Molecules.from_graphs(types, bonds, torch.tensor([types.shape[1]]))


def test_valid_is_sanitised_and_in_one_piece():
    molecules, cond = batch("c1cc[nH]c1", "CC#N", "apart", "bad")
    score = Valid().score(molecules, cond)
    assert score.value.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert score.parts["sanitised"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert score.measured.all()


def test_a_kekulised_aromatic_ring_is_valid():
    """Furan: O1C=CC=C1."""
    types, bonds = torch.tensor([[2, 0, 0, 0, 0]]), torch.zeros(1, 5, 5, dtype=torch.long)
    for i, j, order in ((0, 1, 1), (1, 2, 2), (2, 3, 1), (3, 4, 2), (0, 4, 1)):
        bonds[0, i, j] = order
    furan = Molecules.from_graphs(types, bonds, torch.tensor([5]))
    assert furan[0].smiles == "c1ccoc1"
    assert Valid().score(furan, torch.zeros(1)).value.item() == 1


def test_partial_credit_by_hand():
    """CF5: one of six atoms is beyond its valence. OF3: one of four. Pieces: half."""
    reward = Valid(disconnected=0.5, partial=0.25)
    five = around(0, 3, 3, 3, 3, 3)
    three = around(2, 3, 3, 3)
    molecules = Molecules([*five, *three, *batch("apart", "CC")[0]])
    score = reward.score(molecules, torch.zeros(4))
    torch.testing.assert_close(score.value, torch.tensor([0.25 * 5 / 6, 0.25 * 3 / 4, 0.5, 1.0]).double())
    torch.testing.assert_close(score.parts["within_valence"], torch.tensor([5 / 6, 3 / 4, 1.0, 1.0]).double())
    with pytest.raises(ValueError, match=r"partial 2\.5"):
        Valid(partial=2.5)


def test_novelty_gates_validity():
    """Ethanol is in QM9, and in its training split or not; a molecule with 10 heavy atoms is in neither."""
    names = [s for s in ("CCO", "CC", "C#N", "NC=O", "c1ccoc1") if s in training_set()]
    assert names, "all of the five would have been held out"
    molecules, cond = batch(names[0], "CCCCCCCCCCCC", held_out()[0], "bad")
    score = NovelValid(known=0.4).score(molecules, cond)
    assert score.value.tolist() == [0.4, 1.0, 1.0, 0.0]
    assert score.parts["novel"][:3].tolist() == [0.0, 1.0, 1.0]
    assert score.measured.all()
    with pytest.raises(ValueError, match=r"known is 1\.5"):
        NovelValid(known=1.5)


def test_later_copies_are_worth_what_repeat_says_at_most():
    """Values of a tenth an atom: .2 .3 .2(copy) 0(invalid) .3(copy) 0(invalid), cut to .25 at copies."""
    molecules, cond = batch("CC", "OCC", "CC", "bad", "CCO", "bad")
    score = Distinct(reward=Plain(), repeat=0.25).score(molecules, cond)
    assert score.value.tolist() == [0.2, 0.3, 0.2, 0.0, 0.25, 0.0]
    assert score.parts["first"].nan_to_num(-1).tolist() == [1.0, 1.0, 0.0, -1.0, 0.0, -1.0]
    assert "atoms" in score.parts
    assert Distinct(reward=Plain()).score(molecules, cond).value.tolist() == [0.2, 0.3, 0.0, 0.0, 0.0, 0.0]


def test_a_tautomer_of_a_training_molecule_is_known_where_asked() -> None:
    """CC(O)=N is acetamide with a hydrogen elsewhere; the last has no tautomer that was trained on, and benzene needs none."""
    molecules = Molecules.from_smiles(["CC(N)=O", "CC(O)=N", "FC1NC2CC12F", "c1ccccc1", "CCO"])
    cond = torch.zeros(len(molecules))
    assert "CC(N)=O" in training_set()
    assert "CC(=N)O" not in training_set()
    assert NovelValid().score(molecules, cond).value.tolist() == [0.3, 1.0, 1.0, 0.3, 0.3]
    some = NovelValid(tautomers=True)
    assert some.score(molecules, cond).value.tolist() == [0.3, 0.3, 1.0, 0.3, 0.3]
    assert forms(molecules[1]) == {"CC(=N)O", "CC(N)=O"} | forms(molecules[0])
    assert compose(["domain=qm9", "heldout=null", "reward=novel_tautomer"]).make(Reward, "reward").tautomers
