"""Properties against published increments added by hand, windows against their formula."""

import sys
from pathlib import Path

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import QED as RDKIT_QED
from rdkit.Chem import RDConfig

from pgdlab.rewards.molecule.properties import QED, TPSA, LogP, Synthesizable
from tests.rewards.test_molecule_memory import batch


def test_tpsa_is_the_sum_of_ertls_increments():
    """OH 20.23; C=O 17.07 and NH2 26.02; aromatic n 12.89; [N+] 3.01, =O 17.07, O- 23.06 (Ertl et al. 2000, table 1).
    Increments have two decimals, and N+ of nitro is 11.68 - 8.67 in RDKit's reading: one cent of tolerance."""
    part = TPSA(low=0.0, high=0.0, width=1.0).score(*batch("CCO", "CC(N)=O", "c1ccncc1", "C[N+](=O)[O-]")).parts["tpsa"]
    expected = torch.tensor([20.23, 17.07 + 26.02, 12.89, 3.01 + 17.07 + 23.06]).double()
    torch.testing.assert_close(part, expected, atol=0.011, rtol=0)


def test_logp_is_the_sum_of_crippens_increments():
    """Methane: C1 .1441 + 4 H1 .1230. Ethanol: C1 .1441, C3 -.2035, O2 -.2893, 5 H1, H2 -.2677 (Wildman & Crippen 1999,
    table 1). Increments have four decimals, and up to nine are added."""
    part = LogP(low=0.0, high=0.0, width=1.0).score(*batch("C", "CCO")).parts["logp"]
    expected = torch.tensor([0.1441 + 4 * 0.1230, 0.1441 - 0.2035 - 0.2893 + 5 * 0.1230 - 0.2677]).double()
    torch.testing.assert_close(part, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.0]),
        ("gaussian", [0.1353353, 0.8824969, 1, 1, 1, 0.9692332, 0.0111090]),
    ],
)
def test_windows_by_hand(shape, expected):
    """1 to 3, width 2: distances 2, .5, 0, 0, 0, .25, 3 widths; e^-2, e^-1/8, e^-1/32, e^-9/2."""
    window = LogP(low=1.0, high=3.0, width=2.0, shape=shape)
    quantity = torch.tensor([-3.0, 0.0, 1.0, 2.0, 3.0, 3.5, 9.0])
    torch.testing.assert_close(window.worth(quantity), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrong", [{"low": 2.0, "high": 1.0, "width": 1.0}, {"low": 0.0, "high": 1.0, "width": 0.0}])
def test_a_window_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="low is at most high"):
        LogP(**wrong)


def test_qed_is_rdkits_of_aromatic_and_charged_molecules_too():
    smiles = ["CC(=O)Nc1ccc(O)cc1", "C[N+](=O)[O-]", "CC"]
    score = QED().score(*batch(*smiles, "bad"))
    expected = [RDKIT_QED.qed(Chem.MolFromSmiles(s)) for s in smiles]
    assert score.value.tolist() == [*expected, 0.0]
    assert 0.5 < expected[0] < 0.7  # paracetamol, .595 in RDKit's documentation of weights_mean


def test_synthesizable_is_the_rescaled_sa_score(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(RDConfig.RDContribDir) / "SA_Score"))
    import sascorer

    smiles = ["c1ccccc1", "CCO", "C12C3C4C1C5C2C3C45"]
    score = Synthesizable().score(*batch(*smiles, "bad"))
    sa = torch.tensor([sascorer.calculateScore(Chem.MolFromSmiles(s)) for s in smiles]).double()
    torch.testing.assert_close(score.parts["sa"][:3], sa)
    torch.testing.assert_close(score.value, torch.cat([(10 - sa) / 9, torch.zeros(1).double()]))
    assert score.value[0] > score.value[2] > 0  # benzene is easier to make than cubane
    assert Synthesizable().worth(torch.tensor([1.0, 10.0])).tolist() == [1.0, 0.0]
    sys.modules.pop("sascorer")
