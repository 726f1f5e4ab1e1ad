"""Files of SMILES: formats, what is left out and why, and that a graph is the molecule that it came from."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pgdlab.molecules import known
from pgdlab.molecules.smiles import library, lines

SOME = ["CCO", "CCN", "CCC", "CC=O", "C#N", "C1CC1", "c1ccccc1", "CF", "CO", "CN", "CCl"]


def test_every_format_gives_the_same_molecules(tmp_path: Path) -> None:
    plain = "\n".join(SOME)
    table = "id,SMILES,x\n" + "".join(f'{i},{s},"a, b"\n' for i, s in enumerate(SOME))
    texts = {
        "a.smi": plain, "b.txt": "smiles name\n# a comment\n\n" + "\n".join(f"{s}\tname" for s in SOME), "c.csv": table,
        "d.tsv": "Canonical_Smiles\tid\n" + "".join(f"{s}\t1\n" for s in SOME),
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        assert [s for _, s in lines(tmp_path / name)] == SOME, name
        assert [s for _, s in lines(tmp_path / f"{name}.gz")] == SOME, name
    (tmp_path / "e.csv").write_text("id,structure\n1,C\n")
    with pytest.raises(ValueError, match="has no column smiles; it has id, structure"):
        list(lines(tmp_path / "e.csv"))
    (tmp_path / "f.smi.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="cannot be read"):
        list(lines(tmp_path / "f.smi.gz"))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGDLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_what_a_graph_cannot_hold_is_left_out_and_counted(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {
        "[Na+].[Cl-]": "charged", "CC.CC": "in pieces", "C[Se]C": "other elements", "C" * 12: "more than 10 heavy atoms",
        "[CH3]": "not what its graph says (radicals, unusual valences)", "OCC": "copies", "C[C@H](F)O": None,
        "CC(F)O": "copies", "[2H]CO": "copies",
    }  # fmt: skip
    path = cached / "x.smi"
    path.write_text("\n".join([*SOME, *odd, "no SMILES"]))
    found = library(path, 10)
    expected = {why: [*odd.values()].count(why) for why in odd.values() if why}
    number = len(SOME) + len(odd) + 1
    assert found.left_out == expected | {f"unreadable (lines {number})": 1}
    assert set(found.smiles) == {*SOME, "CC(O)F"}
    assert found.symbols == ("C", "N", "O", "F", "Cl")  # by atomic number
    assert found.atoms == 6
    said = capsys.readouterr().out
    assert "12 molecules of C, N, O, F, Cl with 2 to 6 heavy atoms; left out: 3 copies" in said
    assert library(path, 10) is found
    assert len(list((cached / "cache").glob("smiles_*"))) == 1


def test_a_file_of_another_kind_or_of_hardly_a_molecule_is_refused(cached: Path) -> None:
    path = cached / "x.smi"
    path.write_text("what is this\nnot a molecule\nat all\nC\n")
    with pytest.raises(ValueError, match=r"3 of 4 lines of .* are no SMILES that RDKit reads; it must be"):
        library(path)
    path.write_text("C\nCC\n[Na+]\n")
    with pytest.raises(
        ValueError, match="has 2 molecules that can be used, at least 10 are needed; left out: 1 charged"
    ):
        library(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        library(cached / "no.smi")


def test_graphs_of_qm9_s_molecules_are_those_molecules(cached: Path) -> None:
    path, some = cached / "qm9.smi", known.test_sample()[:300]
    path.write_text("\n".join(some))
    assert set(library(path).smiles) == set(some)
