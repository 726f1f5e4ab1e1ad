"""The reward that was learned from pairs: its value by hand, what it refuses, and nothing that is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.fingerprints import BITS, bits
from pgdlab.preferences.ensemble import CARD, WEIGHTS, Ensemble
from pgdlab.preferences.gallery import encoded
from pgdlab.rewards.base import ShapeError
from pgdlab.rewards.preference import Preference


def made(
    folder: Path, shape: tuple[int, ...] = (1, 8, 8), members: int = 3, conditions: int = 1, kind: str = "images"
) -> Ensemble:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ensemble = Ensemble(shape=shape, members=members, conditions=conditions).eval()
        ensemble.centre_on(torch.rand(16, *shape), torch.arange(16) % conditions)
    folder.mkdir(exist_ok=True)
    ensemble.save(folder, {"kind": kind, "domain": "a.Domain"})
    return ensemble


def test_it_is_the_mean_minus_disagreement(tmp_path: Path) -> None:
    ensemble = made(tmp_path / "p")
    x, cond = torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long)
    each = torch.stack([m(x)[:, 0] - c for m, c in zip(ensemble.members, ensemble.centre[:, 0], strict=True)])
    mean = sum(each) / 3
    std = (sum((e - mean) ** 2 for e in each) / 2) ** 0.5
    for k in (0.0, 1.5):
        score = Preference(folder=str(tmp_path / "p"), domain="a.Domain", pessimism=k).score(x, cond)
        torch.testing.assert_close(score.value, mean - k * std)
        torch.testing.assert_close(score.parts["disagreement"], std)
    assert std.min() > 0


def test_every_condition_has_a_score_of_its_own_where_it_was_fitted_so(tmp_path: Path) -> None:
    ensemble = made(tmp_path / "p", conditions=3, members=1)
    reward, x = Preference(folder=str(tmp_path / "p")), torch.rand(3, 1, 8, 8)
    score = reward.score(x, torch.tensor([2, 0, 1]))
    expected = ensemble.members[0](x)[[0, 1, 2], [2, 0, 1]] - ensemble.centre[0, [2, 0, 1]]
    torch.testing.assert_close(score.value, expected)
    assert score.parts["disagreement"].tolist() == [0.0] * 3
    with pytest.raises(ShapeError, match="fitted under conditions 0 to 2, and one here is 3"):
        reward.score(x, torch.tensor([0, 1, 3]))


def test_its_gradient_is_that_of_finite_differences(tmp_path: Path) -> None:
    made(tmp_path / "p")
    reward = Preference(folder=str(tmp_path / "p"), pessimism=1.0).double()
    reward.ensemble.members.double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    cond = torch.zeros(2, dtype=torch.long)

    def value(images: torch.Tensor) -> torch.Tensor:
        score = reward.ensemble(images, cond)
        return score.mean(0) - score.std(0)

    x.requires_grad_(True)
    assert reward.differentiable
    assert torch.autograd.gradcheck(value, (x,), eps=1e-6, atol=1e-5)
    (slope,) = torch.autograd.grad(reward.score(x, cond).value.sum(), x)
    (exact,) = torch.autograd.grad(value(x).sum(), x)
    torch.testing.assert_close(slope, exact, rtol=1e-3, atol=1e-6)  # encoded() is fp32
    assert slope.abs().max() > 1e-4


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    place = str(tmp_path / "p")
    made(tmp_path / "p", members=1)
    with pytest.raises(ValueError, match=r"was fitted on samples of a.Domain, and this run's domain is b.Domain"):
        Preference(folder=place, domain="b.Domain")
    with pytest.raises(ShapeError, match=r"fitted on samples of \(1, 8, 8\), and these are \(1, 9, 9\)"):
        Preference(folder=place).score(torch.rand(2, 1, 9, 9), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="one member, that cannot disagree"):
        Preference(folder=place, pessimism=1.0)
    with pytest.raises(ValueError, match=r"pessimism is -1.0; it must be at least 0"):
        Preference(folder=place, pessimism=-1.0)
    with pytest.raises(ValueError, match="cannot load a reward that was learned from pairs"):
        Preference(folder=str(tmp_path))
    assert Preference(folder=place).takes == "images"


@pytest.mark.parametrize("fault", ["card", "weights", "shape", "missing"])
def test_a_broken_folder_is_refused(fault: str, tmp_path: Path) -> None:
    made(tmp_path / "p")
    card, weights = tmp_path / "p" / CARD, tmp_path / "p" / WEIGHTS
    if fault == "card":
        card.write_text("{")
    elif fault == "weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif fault == "shape":
        card.write_text(json.dumps(json.loads(card.read_text()) | {"shape": [1, 9, 9]}))
    else:
        weights.unlink()
    with pytest.raises(ValueError, match=r"cannot load .*task=preferences makes one"):
        Preference(folder=str(tmp_path / "p"))


def test_molecules_are_read_by_their_fingerprints(tmp_path: Path) -> None:
    """Bits of ethanol, and the last one for being valid; of two pieces nothing is set."""
    x = encoded(Molecules.from_smiles(["CCO", "C.C"]))
    assert x[0].nonzero()[:, 0].tolist() == [*sorted(bits("CCO")), BITS]
    assert x[1].abs().sum() == 0
    made(tmp_path / "p", shape=(BITS + 1,), kind="molecules")
    reward: Any = Preference(folder=str(tmp_path / "p"))
    assert not reward.differentiable
    assert reward.takes == "molecules"
    assert len(reward.score(Molecules.from_smiles(["CCO", "C.C"]), torch.zeros(2, dtype=torch.long)).value) == 2
