"""Reading QM9: from tables, from the prepared file, and what is left of a run where neither can be read."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgdlab.molecules import fingerprints, metrics, qm9, tables
from pgdlab.molecules.batch import Molecules
from tests.molecules.tiny import relaxed


def write_source(folder: Path, smiles: str = "CCO") -> None:
    """Tables as qm9pack has them, each with one molecule."""
    mol = relaxed(smiles)
    xyz = str(mol.GetConformer().GetPositions().tolist())
    row = {"SMILES": smiles, "Elements": str([a.GetSymbol() for a in mol.GetAtoms()]), "XYZ_Ang": xyz}
    for part in (1, 2, 3):
        with (folder / f"qm9_part{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in the place of qm9pack's tables, and a cache of its own; whatever was read is forgotten."""
    monkeypatch.setenv("PGDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(qm9, "source", lambda: tmp_path)
    monkeypatch.setattr(qm9, "has_data", lambda: True)
    monkeypatch.setattr(qm9, "load", functools.cache(qm9.load.__wrapped__))
    kept = (fingerprints.training, fingerprints.readable_once, fingerprints.nearest, fingerprints.nearest_of_data)
    for function in kept:
        function.cache_clear()
    yield tmp_path
    for function in kept:
        function.cache_clear()


def test_what_is_prepared_is_kept(source: Path) -> None:
    write_source(source)
    assert qm9.load().smiles.tolist() == ["CCO"] * 3
    qm9.load.cache_clear()
    (source / "qm9_part2.csv").unlink()
    assert qm9.load().smiles.tolist() == ["CCO"] * 3


def test_a_cache_that_cannot_be_written_is_done_without(source: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_source(source)
    monkeypatch.setenv("PGDLAB_CACHE", str(source / "qm9_part1.csv" / "below_a_file"))
    assert qm9.load().smiles.tolist() == ["CCO"] * 3
    assert "cannot be written" in capsys.readouterr().out


def test_data_that_cannot_be_read_cost_their_figures_and_nothing_else(source: Path) -> None:
    """Tables that are missing: one warning, of figures and of rows together."""
    write_source(source)
    (source / "qm9_part3.csv").unlink()
    molecules = Molecules.from_smiles(["CCO", "CCC"])
    with pytest.warns(UserWarning, match="nearest training molecules are left out.*qm9_part3") as shown:
        found = [metrics.figures(molecules), metrics.figures(molecules), *tables.rows(molecules)]
    assert len(shown) == 1
    assert {"valid", "internal_diversity"} <= found[0].keys()
    assert not [name for one in found for name in one if "nearest" in name]


def test_data_that_can_be_read_have_neighbours(source: Path) -> None:
    """All three molecules are ethanol, whose nearest training molecule is itself."""
    write_source(source)
    rows = tables.rows(Molecules.from_smiles(["OCC", "CCC"]))
    assert (rows[0]["nearest_training"], rows[0]["nearest_training_smiles"]) == (1, "CCO")
    assert 0 < rows[1]["nearest_training"] < 1
