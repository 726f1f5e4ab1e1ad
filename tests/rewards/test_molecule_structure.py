"""Alerts, motifs and likeness against molecules that have them and that do not."""

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from pgdlab.rewards.molecule.structure import AlertFree, MotifFree, Similarity
from tests.rewards.test_molecule_memory import batch


def test_alerts():
    """A nitro group (charged) is an alert of BRENK and none of PAINS; a rhodanine is one of PAINS; ethanol has none."""
    rhodanine = "O=C1NC(=S)SC1=Cc1ccccc1"
    molecules, cond = batch("CC[N+](=O)[O-]", rhodanine, "CCO", "bad")
    assert AlertFree().score(molecules, cond).value.tolist() == [0.0, 0.0, 1.0, 0.0]
    pains = AlertFree(catalogs=["PAINS"]).score(molecules, cond)
    assert pains.value.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert pains.parts["alerts"][:3].tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="catalogs is empty"):
        AlertFree(catalogs=[])


MOTIFS = {
    "ring_alkyne": (["C1CCC#CC1", "CC1NC2C1C21C#C1"], ["CC#CC", "C#CC1CCCC1"]),
    # allene and ketenes, which are ordinary compounds, also where only one of the two double bonds is beside a ring
    "ring_cumulene": (
        ["C1CC=C=CC1", "C1CN=C=NC1"],
        ["C=C=C", "C=C=C1CCC1", "C1CC1C=C=C", "O=C=O", "CN=C=O", "C=CC=C", "c1ccccc1"],
    ),
    # norbornene and pinene are as they should be; naphthalene and bicyclooctene share one bond, no bridge
    "anti_bredt": (
        ["C1CC2=CC1CC2", "C1=CC2=CC(=C1)CC2"],
        ["C1CC2CC1C=C2", "c1ccc2ccccc2c1", "C1CC2=C(C1)CCC2", "C=C1CC2CC1C2"],
    ),
    "small_ring": (["C1CC1", "C1COC1", "C1=CC1"], ["C1CCCC1", "CCCC", "c1ccccc1"]),
}


@pytest.mark.parametrize("name", MOTIFS)
def test_motifs(name):
    bad, good = MOTIFS[name]
    score = MotifFree(motifs=[name]).score(*batch(*bad, *good))
    assert score.value.tolist() == [0.0] * len(bad) + [1.0] * len(good)


def test_by_default_small_rings_are_allowed_and_the_others_are_not():
    score = MotifFree().score(*batch("C1CC1", "C=C=C", "C1CCC#CC1", "C1CC=C=CC1", "C1CC2=CC1CC2", "bad"))
    assert score.value.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_partial_credit_counts_heavy_atoms():
    """Methylcyclopropane: 3 of 4. Cyclohexyne: the 2 of the triple bond of 6. Cyclopropyne: all 3, once."""
    reward = MotifFree(motifs=["small_ring", "ring_alkyne"], partial=True)
    score = reward.score(*batch("CC1CC1", "C1CCC#CC1", "C1C#C1"))
    torch.testing.assert_close(score.value, torch.tensor([1 / 4, 4 / 6, 0.0]).double())
    torch.testing.assert_close(score.parts["strained"], torch.tensor([3 / 4, 2 / 6, 1.0]).double())
    with pytest.raises(ValueError, match="motifs is empty"):
        MotifFree(motifs=[])


def test_similarity_is_the_share_of_common_bits():
    """Tanimoto from the sets of bits; the molecule itself, written otherwise, is 1."""
    reward = Similarity(to="Oc1ccccc1", radius=1, bits=1024)
    score = reward.score(*batch("C1=CC=CC=C1O", "Nc1ccccc1", "F", "bad"))
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=1, fpSize=1024)
    a, b = ({*generator.GetFingerprint(Chem.MolFromSmiles(s)).GetOnBits()} for s in ("Oc1ccccc1", "Nc1ccccc1"))
    assert score.value.tolist() == [1.0, len(a & b) / len(a | b), 0.0, 0.0]
    assert 0.3 < score.value[1] < 0.9


@pytest.mark.parametrize("wrong", [{"to": "C1CC"}, {"to": ""}, {"to": "C", "radius": -1}, {"to": "C", "bits": 0}])
def test_similarity_to_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"to is|radius is"):
        Similarity(**wrong)
