"""Grids of drawn molecules, invalid ones as they are, framed and marked with the reason."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from pgdlab.molecules.batch import Molecule, Molecules, no_messages
from pgdlab.molecules.elements import Source
from pgdlab.molecules.known import QM9, source_of

COLUMNS, MOST = 5, 40  # of a grid
CELL = (150, 120)  # pixels
TITLE = 44  # pixels above a grid
RED = (0.85, 0.16, 0.16)


def legend(molecule: Molecule, source: Source = QM9) -> str:
    """The text under a molecule: the reason of an invalid one, else whether it is novel."""
    if not molecule.valid or molecule.smiles is None:
        return str(molecule.reason)
    return "known" if molecule.smiles in source.training() else "novel"


def drawable(molecule: Molecule) -> tuple[Chem.Mol, list[int]]:
    """A copy with coordinates in the plane, and the atoms whose valence is exceeded."""
    mol = Chem.Mol(molecule.mol)
    wrong = set[int]()
    if molecule.sanitised:
        mol = Chem.RemoveHs(mol)
        Chem.Kekulize(mol, clearAromaticFlags=True)
    else:
        mol.UpdatePropertyCache(strict=False)
        found = Chem.DetectChemistryProblems(mol)
        wrong = {problem.GetAtomIdx() for problem in found if problem.GetType() == "AtomValenceException"}
        Chem.FastFindRings(mol)
    rdDepictor.Compute2DCoords(mol)
    return mol, sorted(wrong)


def grid(molecules: Molecules) -> Any:
    """A PIL image of the first MOST in rows of COLUMNS."""
    from PIL import Image, ImageDraw

    few, quiet = molecules[:MOST], no_messages()
    across = min(COLUMNS, max(1, len(few)))
    size = (CELL[0] * across, CELL[1] * max(1, math.ceil(len(few) / across)))
    canvas = rdMolDraw2D.MolDraw2DCairo(*size, *CELL)
    options: Any = canvas.drawOptions()
    options.prepareMolsBeforeDrawing, options.flagCloseContactsDist = False, -1
    options.legendFontSize, options.bondLineWidth = 14, 1.4
    options.fixedBondLength, options.padding = 22, 0.08
    drawn = [drawable(m) for m in few]
    if drawn:
        canvas.DrawMolecules(
            [m for m, _ in drawn],
            legends=[legend(m, source_of(few)) for m in few],
            highlightAtoms=[a for _, a in drawn],
        )
    canvas.FinishDrawing()
    del quiet
    image = Image.open(io.BytesIO(canvas.GetDrawingText())).convert("RGB")
    pen = ImageDraw.Draw(image)
    for i, molecule in enumerate(few):
        if not molecule.valid:
            left, top = CELL[0] * (i % across), CELL[1] * (i // across)
            colour = tuple(round(255 * c) for c in RED)
            pen.rectangle((left + 3, top + 3, left + CELL[0] - 4, top + CELL[1] - 4), outline=colour, width=2)
    return image


def picture(rows: dict[str, Molecules], path: Path) -> None:
    """Writes a PNG with a titled grid for every entry of rows, side by side: the same place is the same noise."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grids = {title: np.asarray(grid(molecules)) for title, molecules in rows.items()}
    gap, dpi = 30, 100
    width = sum(g.shape[1] for g in grids.values()) + gap * (len(grids) - 1)
    height = max(g.shape[0] for g in grids.values()) + TITLE
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    FigureCanvasAgg(figure)
    left = 0
    for title, pixels in grids.items():
        figure.figimage(pixels, left, height - TITLE - pixels.shape[0])
        middle = (left + pixels.shape[1] / 2) / width
        figure.text(middle, 1 - TITLE / 2 / height, title, ha="center", va="center", fontsize=15)
        left += pixels.shape[1] + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
