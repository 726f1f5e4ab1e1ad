"""Grids and panels: the invalid are framed and say why, the panels count what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rdkit import Chem

from pgdlab.molecules import drawing
from pgdlab.molecules.batch import Molecules, examined
from pgdlab.molecules.panels import outcomes, panels

CELLS = [
    "CCO",
    "FC1NC2CC12F",
    "C=C(C)(C)C",
    "c1cccc1",
    "C.CO",
    "c1ccccc1",
]  # two novel or known, three invalid, benzene


def sample(smiles: list[str]) -> Molecules:
    return Molecules(examined(Chem.MolFromSmiles(s, sanitize=False)) for s in smiles)


def framed(pixels: np.ndarray, at: int) -> bool:
    """Whether the top edge of a cell of a grid is red all along."""
    left, top = drawing.CELL[0] * (at % drawing.COLUMNS), drawing.CELL[1] * (at // drawing.COLUMNS)
    edge = pixels[top + 3, left + 5 : left + drawing.CELL[0] - 5].astype(int)
    return bool((edge[:, 0] > 180).all() and (edge[:, 1:] < 80).all())


def test_legends_say_what_a_molecule_is() -> None:
    assert [drawing.legend(m) for m in sample(CELLS)] == [
        "known", "novel", "valence", "kekulisation", "disconnected", "known",
    ]  # fmt: skip


def test_atoms_of_too_high_a_valence_are_marked() -> None:
    assert [drawing.drawable(m)[1] for m in sample(CELLS)] == [[], [], [1], [], [], []]
    benzene = drawing.drawable(sample(["c1ccccc1"])[0])[0]
    assert sorted(bond.GetBondTypeAsDouble() for bond in benzene.GetBonds()) == [1, 1, 1, 2, 2, 2]
    assert benzene.GetNumConformers() == 1


def test_drawing_changes_no_molecule() -> None:
    molecules = sample(CELLS)
    before = [Chem.MolToSmiles(m.mol) for m in molecules]
    drawing.grid(molecules)
    assert [Chem.MolToSmiles(m.mol) for m in molecules] == before


def test_the_invalid_are_framed_and_only_they(tmp_path: Path) -> None:
    drawing.picture({"before": sample(CELLS), "after": sample(["CCO"] * 6)}, tmp_path / "new" / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "new" / "x.png").convert("RGB"))
    wide, high = drawing.CELL[0] * drawing.COLUMNS, drawing.CELL[1] * 2
    assert pixels.shape[0] == high + drawing.TITLE
    left, right = pixels[drawing.TITLE :, :wide], pixels[drawing.TITLE :, -wide:]
    assert [framed(left, i) for i in range(6)] == [False, False, True, True, True, False]
    assert not any(framed(right, i) for i in range(6))
    cells = [right[: drawing.CELL[1], drawing.CELL[0] * i : drawing.CELL[0] * (i + 1)] for i in range(5)]
    assert all((cell < 128).any() for cell in cells)  # something is drawn in each
    assert (pixels[: drawing.TITLE] < 128).any()


def test_a_grid_is_bounded_and_may_be_empty() -> None:
    assert drawing.grid(sample(["C"] * 100)).size == (150 * drawing.COLUMNS, 120 * drawing.MOST // drawing.COLUMNS)
    assert drawing.grid(sample([])).size == drawing.CELL


def test_what_the_samples_are() -> None:
    found = outcomes(sample([*CELLS, "OCC", "CCO"]))
    assert found == {"known": 2, "novel": 1, "repeated": 2, "valence": 1, "kekulisation": 1, "disconnected": 1}
    assert found.total() == 8


@pytest.mark.parametrize("tuned", [["CCO", "C1CC1"] * 10, ["c1cccc1"]], ids=["valid", "none valid"])
def test_panels(tuned: list[str], tmp_path: Path) -> None:
    assert panels({"base": sample(CELLS), "tuned": sample(tuned)}, tmp_path / "x.png") == tmp_path / "x.png"
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    colour = lambda rgb: (np.abs(pixels - np.array(rgb)).max(2) < 12).sum()  # noqa: E731
    assert colour((0x3B, 0x75, 0xAF)) > 1000  # the base's bars
    assert (colour((0xE1, 0x81, 0x2C)) > 3000) == (len(tuned) > 1)  # the tuned one's; a legend's patch is smaller
