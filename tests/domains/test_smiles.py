"""Molecules of a file: what is read, what is left out, and a run from SMILES to tuned molecules."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab import cli
from pgdlab.domains.smiles import Smiles
from pgdlab.molecules.batch import Molecules

GOOD = [
    "CCO", "CCN", "CCC", "CCS", "CCCl", "c1ccccc1", "Cc1ccccc1", "CC(=O)O", "CC#N", "C1CC1", "OCCO", "NCCO", "CCF", "CC=O",
    "C=CC", "CCCC", "CCCO", "CCCN", "COC", "CNC", "CSC", "C1CCC1", "CC(C)O", "CC(C)N",
]  # fmt: skip
BAD = {"[Na+].[Cl-]": "charged", "C.C": "in pieces", "C[Fe]": "other elements", "OCC": "copies", "C[CH2]": "not what"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_a_graph_cannot_hold_is_left_out_and_counted(tmp_path: Path, capsys: Any) -> None:
    domain = Smiles(path=str(written(tmp_path / "a.smi", [*GOOD, *BAD, "no smiles", ""])))
    found = domain.library
    assert len(found.smiles) == len(GOOD)
    assert found.symbols == ("C", "N", "O", "F", "S", "Cl")
    assert found.atoms == 7  # toluene
    for why in BAD.values():
        assert [n for name, n in found.left_out.items() if name.startswith(why)] == [1], why
    assert [n for name, n in found.left_out.items() if name.startswith("unreadable (lines 30)")] == [1]
    assert "left out" in capsys.readouterr().out


def test_formats_say_the_same(tmp_path: Path) -> None:
    plain = written(tmp_path / "a.smi", [f"{s} name{i}" for i, s in enumerate(GOOD)])
    table = written(tmp_path / "a.csv", ["id,SMILES,x", *(f"{i},{s},1" for i, s in enumerate(GOOD))])
    packed = tmp_path / "a.tsv.gz"
    packed.write_bytes(gzip.compress("\n".join(["smiles\tid", *(f"{s}\t1" for s in GOOD)]).encode()))
    every = [Smiles(path=str(file)).library.smiles.tolist() for file in (plain, table, packed)]
    assert every[0] == every[1] == every[2]


def test_graphs_are_the_molecules(tmp_path: Path) -> None:
    """What the denoiser is trained on decodes to the SMILES of the file, by RDKit's own canonical form."""
    domain = Smiles(path=str(written(tmp_path / "a.smi", GOOD)))
    for split in ("train", "test"):
        sample, sizes = domain.data(split)
        smiles = domain.library.smiles[domain.rows[split]].tolist()
        decoded: Molecules = domain.decoder(sample)
        assert [m.smiles for m in decoded] == smiles
        assert sizes.tolist() == [m.mol.GetNumAtoms() for m in decoded]
    assert {*domain.rows["train"]} & {*domain.rows["test"]} == set()


def test_novelty_is_measured_against_the_own_training_molecules(tmp_path: Path) -> None:
    domain = Smiles(path=str(written(tmp_path / "a.smi", GOOD)))
    seen, _ = domain.data("train")
    unseen, _ = domain.data("test")
    figures = domain.metrics(torch.cat([seen[:6], unseen[:2]]), torch.zeros(8, dtype=torch.long))
    assert figures["valid"] == 1
    assert figures["novel"] == pytest.approx(2 / 8)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    for name, lines, said in (
        ("a.csv", ["id,structure", "1,CCO"], "no column smiles; it has id, structure"),
        ("b.smi", ["hello world"] * 20, "are no SMILES that RDKit reads"),
        ("c.smi", GOOD[:5], "has 5 molecules that can be used, at least 10"),
    ):
        with pytest.raises(ValueError, match=said):
            Smiles(path=str(written(tmp_path / name, lines)))
    with pytest.raises(ValueError, match=r"missing.smi.*cannot be read"):
        Smiles(path=str(tmp_path / "missing.smi"))
    with pytest.raises(ValueError, match=r"atoms is 99; it must be 2 to 40"):
        Smiles(path=str(tmp_path / "b.smi"), atoms=99)


def test_from_smiles_to_tuned_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Pretrain and tune; a base of other elements is refused in a sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    written(tmp_path / "mine.smi", GOOD)
    written(tmp_path / "other.smi", [s for s in GOOD if "Cl" not in s and "S" not in s])
    small = ["policy.steps=3", "plan.eval_samples=8", "plan.iterations=1", "plan.pass_size=64"]
    network = ["domain.width=12", "domain.pair_width=6", "domain.heads=2", "domain.layers=1"]
    pretrain = [
        "experiment=pretrain/smiles",
        *small,
        *network,
        "trainer.updates=2",
        "trainer.batch=8",
        "optimizer.warmup=1",
    ]
    assert cli.main([*pretrain, "domain.path=mine.smi", "name=base"]) == 0, capsys.readouterr().err
    tune = ["experiment=smiles/valid", *small, "plan.samples=8", "plan.group=2", "domain.weights=runs/base/base"]
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    assert cli.main([*tune, "domain.path=mine.smi", "name=tuned"]) in (0, 3), capsys.readouterr().err
    assert (tmp_path / "runs" / "tuned" / "molecules.csv").is_file()
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    assert cli.main([*tune, "domain.path=other.smi", "name=refused"]) == 2
    assert "it is of C, N, O, F, S, Cl" in capsys.readouterr().err
