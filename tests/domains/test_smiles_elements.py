"""domain=smiles: elements, sizes, splits and novelty of the file; what a base keeps of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from rdkit import Chem

from pgdlab.domains.smiles import Smiles
from pgdlab.molecules import known
from pgdlab.molecules.projection import projected
from pgdlab.rewards.molecule.soft import SoftValence
from pgdlab.rewards.molecule.validity import NovelValid, Valid

SMALL = {"width": 8, "pair_width": 4, "heads": 2, "layers": 1}
MORE = ["CS(=O)(=O)C", "CCCl", "CP(=O)(O)O", "CCS", "ClCCl", "C1CS1", "CCBr", "BrCCBr", "CSC", "ClC(Cl)Cl"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smiles") / "mine.smi"
    path.write_text("\n".join([*known.test_sample()[::26], *MORE]) + "\n")  # 193 of QM9, and ten with S, P, Cl, Br
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDLAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_the_state_decodes_to_the_molecules_and_splits_share_none(file: Path) -> None:
    domain = Smiles(path=str(file), **SMALL)
    assert domain.source.symbols == ("C", "N", "O", "F", "P", "S", "Cl", "Br")
    assert domain.space.atoms == 9
    both = {}
    for name in ("train", "test"):
        sample, cond = domain.data(name)
        molecules = domain.decoder(sample)
        both[name] = [str(m.smiles) for m in molecules]
        assert all(m.valid for m in molecules)
        assert [m.mol.GetNumAtoms() for m in molecules] == cond.tolist()
    given = {Chem.CanonSmiles(s) for s in file.read_text().split()}
    assert {*both["train"], *both["test"]} == given
    assert not set(both["train"]) & set(both["test"])
    assert len(both["test"]) == len(given) // 10


def test_shares_and_sizes_are_counted(file: Path) -> None:
    domain = Smiles(path=str(file), **SMALL)
    mols = [m.mol for m in domain.decoder(domain.data("train")[0])]
    symbols = [atom.GetSymbol() for mol in mols for atom in mol.GetAtoms()]
    for share, symbol in zip(domain.shares.types, domain.source.symbols, strict=True):
        assert share == pytest.approx(max(1, symbols.count(symbol)) / len(symbols), rel=0.01)
    pairs = sum(math.comb(mol.GetNumAtoms(), 2) for mol in mols)
    assert 1 - domain.shares.bonds[0] == pytest.approx(sum(mol.GetNumBonds() for mol in mols) / pairs, rel=1e-6)
    nines = sum(m == 9 for m in domain.train_conditions) / len(domain.train_conditions)
    assert nines == pytest.approx(
        sum(domain.library.sizes == 9) / len(domain.library.sizes), abs=0.02
    )  # of 100, rounded


def test_novelty_is_judged_by_the_file_s_own_training_set(file: Path) -> None:
    domain = Smiles(path=str(file), **SMALL)
    train, test = (domain.decoder(domain.data(name)[0]) for name in ("train", "test"))
    reward, cond = NovelValid(known=0.25), torch.zeros(len(train) + len(test), dtype=torch.long)
    value = reward.score(train + test, cond).value
    assert value.tolist() == [0.25] * len(train) + [1.0] * len(test)
    assert domain.metrics(*domain.data("test"))["novel"] == 1.0
    figures = domain.metrics(*domain.data("train"))
    assert (figures["novel"], figures["vun"], figures["valid"]) == (0.0, 0.0, 1.0)
    assert figures["element_S"] > 0
    assert figures["logp_w1"] < 2


def test_soft_figures_count_in_the_file_s_elements(file: Path) -> None:
    domain = Smiles(path=str(file), **SMALL)
    sample, cond = domain.data("train")
    molecules = domain.decoder(sample)
    assert SoftValence().score(molecules, cond).value.abs().max() < 1e-6  # real molecules have no bond too many
    assert [m.smiles for m in projected(molecules)] == [m.smiles for m in molecules]
    # Cl with two bonds: one too many on one atom of three
    types, bonds = torch.zeros(1, 9, dtype=torch.long), torch.zeros(1, 36, dtype=torch.long)
    types[0, 1] = domain.source.symbols.index("Cl")
    pairs = domain.source.pairs
    bonds[0, pairs.index((0, 1))] = bonds[0, pairs.index((1, 2))] = 1
    wrong = domain.decoder(domain.space.one_hot(types, bonds, torch.tensor([3])))
    assert SoftValence().score(wrong, torch.tensor([3])).value.item() == pytest.approx(-1 / 3, rel=1e-5)
    assert wrong[0].reason == "valence"
    assert Valid(partial=1.0).score(wrong, torch.tensor([3])).parts["within_valence"].item() == pytest.approx(2 / 3)
    assert projected(wrong)[0].reason == "disconnected"


def test_a_base_keeps_its_shares_and_is_refused_for_other_elements(file: Path, tmp_path: Path) -> None:
    domain = Smiles(path=str(file), **SMALL)
    made = domain.fresh(torch.Generator().manual_seed(0)).eval()
    assert f"domain=smiles domain.path={file} domain.weights=" in made.save(tmp_path / "base")
    card = json.loads((tmp_path / "base" / "config.json").read_text())
    card["type_shares"] = card["type_shares"][::-1]
    base = Smiles(path=str(file), weights=str(tmp_path / "base")).base()
    x, cond = domain.data("test")
    t = torch.full((len(x),), 0.7)
    torch.testing.assert_close(base(x, t, cond), made(x, t, cond))
    (tmp_path / "base" / "config.json").write_text(json.dumps(card))
    other = Smiles(path=str(file), weights=str(tmp_path / "base")).base()
    assert other.shares.tolist() == pytest.approx(domain.shares.types[::-1])
    less = tmp_path / "less.smi"
    less.write_text("\n".join(known.test_sample()[::26]))
    with pytest.raises(
        ValueError, match=r"it is of C, N, O, F, P, S, Cl, Br with up to 9 .* are of C, N, O, F with up to 9"
    ):
        Smiles(path=str(less), weights=str(tmp_path / "base")).base()
    with pytest.raises(ValueError, match=r"no base of smiles ships.*experiment=pretrain/smiles domain.path="):
        domain.base()
    for options, match in (({"path": None}, "domain.path is null"), ({"atoms": 41}, "atoms is 41; it must be 2 to 40")):
        with pytest.raises(ValueError, match=match):
            Smiles(**({"path": str(file)} | options))
