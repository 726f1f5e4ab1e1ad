"""QM9 in space: samples and molecules, sizes, figures, pictures, files."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rdkit import Chem

from pgdlab.domains.molecule import spaced
from pgdlab.domains.qm9_3d import SIZES, QM9InSpace
from pgdlab.molecules import known, qm9
from pgdlab.molecules.geometry import CHECKS
from pgdlab.rollout.trajectory import Samples
from tests.molecules.tiny import atoms_of, base_3d, relaxed, write_3d

SMILES = ("CCO", "CC(C)=O", "C#N", "C1CC1F")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QM9InSpace:
    """A domain whose prepared file has 20 molecules."""
    write_3d(tmp_path)
    monkeypatch.setenv("PGDLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(qm9, "load_3d", functools.cache(qm9.load_3d.__wrapped__))
    return QM9InSpace()


def samples() -> torch.Tensor:
    return QM9InSpace().pack(*atoms_of(*map(relaxed, SMILES)))


def test_samples_and_atoms_are_each_others_inverse() -> None:
    domain, (numbers, xyz) = QM9InSpace(), atoms_of(*map(relaxed, SMILES))
    sample = domain.pack(numbers, xyz)
    sizes = (numbers > 0).sum(1)
    assert sample.shape[1:] == domain.space.shape
    assert sample[..., 5:].sum(1).abs().max() < 1e-5
    assert torch.equal(sample[..., :5].sum(2), 0.25 * (numbers > 0))
    again, place = domain.decoder.atoms(sample)
    assert torch.equal(again, numbers)
    shift = (xyz - place)[numbers > 0].split(sizes.tolist())
    assert all((each - each[0]).abs().max() < 1e-5 for each in shift), "only the centre has moved"


def test_decoded_molecules_are_those_that_were_packed_wherever_they_are_turned() -> None:
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    sample = samples()
    sample = torch.cat([sample[..., :5], sample[..., 5:] @ turn.T], 2)
    decoded = QM9InSpace().decoder(sample)
    assert [m.smiles for m in decoded] == [Chem.CanonSmiles(s) for s in SMILES]
    assert [m.smiles for m in QM9InSpace().decoder(sample.double() * 1.001)[1:3]] == ["CC(C)=O", "C#N"]


def test_data_are_split_by_molecule(small: QM9InSpace) -> None:
    train, sizes = small.data("train")
    test, _ = small.data("test")
    assert (len(train), len(test)) == (18, 2)
    assert torch.equal(sizes, train[..., :5].sum((1, 2)).mul(4).round().long())
    told = [{m.smiles for m in small.decoder(x)} for x in (train, test)]
    assert not (told[0] & told[1]) - {None}
    with pytest.raises(ValueError, match="'valid'; it must be train or test"):
        small.data("valid")


def test_figures_pictures_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qm9, "has_data", lambda: False)  # the nearest neighbours take 10 s
    domain, sample = QM9InSpace(), samples()
    cond = sample[..., :5].ne(0).any(2).sum(1)
    broken = sample.clone()
    broken[0, 3, :5] = sample[0, 3, :5].roll(3)  # a hydrogen of ethanol becomes an oxygen
    out = domain.metrics(broken, cond)
    atoms = cond.sum().item()
    assert out["molecule_stable"] == out["valid"] == out["geometry"] == 0.75
    # 1.09 angstrom is a triple bond of carbon and oxygen: both have the wrong number
    assert out["atom_stable"] == pytest.approx(1 - 2 / atoms, abs=1e-6)
    assert {*CHECKS, "edm_valid", "edm_unique", "edm_vun", "unique", "novel"} <= out.keys()
    domain.show({"before": sample, "after": broken}, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    files = domain.report({"base": Samples(sample, cond), "tuned": Samples(broken, cond)}, tmp_path)
    (sdf,) = [path for path in files if path.suffix == ".sdf"]
    first = next(iter(Chem.SDMolSupplier(str(sdf), removeHs=False)))
    expected = domain.decoder(broken)[1].geometry.GetConformer().GetPositions()
    np.testing.assert_allclose(first.GetConformer().GetPositions(), expected, atol=1e-4)  # four decimals


def test_prompts_are_sizes() -> None:
    assert len(spaced(SIZES)) == 100
    for bad in ((), (1,), (30,)):
        with pytest.raises(ValueError, match="numbers of atoms, 2 to 29"):
            QM9InSpace(train_conditions=bad)


def test_no_base_ships_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no base of qm9_3d ships.*experiment=pretrain/qm9_3d.*domain.weights"):
        QM9InSpace().base()
    with pytest.raises(ValueError, match=r"cannot load the base.*config.json"):
        QM9InSpace(weights=str(tmp_path)).base()
    (tmp_path / "config.json").write_text(json.dumps({"hidden": 8, "layers": 2}))
    (tmp_path / "model.safetensors").write_bytes((base_3d() / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="cannot load the base"):
        QM9InSpace(weights=str(tmp_path)).base()
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot load the base"):
        QM9InSpace(weights=str(tmp_path)).base()


def test_a_saved_base_is_the_same() -> None:
    fresh = QM9InSpace(hidden=8, layers=1).fresh(torch.Generator().manual_seed(0)).eval()
    loaded = QM9InSpace(weights=str(base_3d())).base()
    x, t, cond = samples(), torch.full((4,), 0.5), torch.tensor([9, 10, 3, 9])
    with torch.no_grad():
        assert torch.equal(loaded(x, t, cond), fresh(x, t, cond))


@pytest.mark.skipif(not qm9.has_data(), reason="needs qm9pack")
def test_the_sizes_are_those_of_the_data() -> None:
    _, sizes = QM9InSpace().data("train")
    shares = torch.bincount(sizes, minlength=30).double() / len(sizes) * 100
    listed = torch.zeros(30, dtype=torch.float64)
    for size, share in SIZES.items():
        listed[size] = share
    assert (listed - shares).abs().max() < 0.8  # whole hundredths that add up to 100
    assert len(qm9.load().smiles) == len(qm9.load_3d().smiles)
    assert (qm9.load().smiles == qm9.load_3d().smiles).all()
    heavy = (qm9.load_3d().numbers > 1).sum(1)
    assert (heavy == qm9.load().sizes).all()
    assert all(s in known.training_set() for s in qm9.load_3d().smiles[qm9.split(qm9.load_3d().smiles)["train"][:50]])
