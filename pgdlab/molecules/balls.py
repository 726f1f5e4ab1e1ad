"""Pictures of molecules in space: balls and sticks, nearer ones in front."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdlab.molecules.batch import Molecule, Molecules

MOST, ACROSS = 24, 6  # molecules a grid, and a row
CELL = 9.0  # angstrom
COLOUR = {1: "#e8e8e8", 6: "#4a4a4a", 7: "#3b6fd4", 8: "#d6403a", 9: "#4fae4a"}
RADIUS = {1: 0.28, 6: 0.42, 7: 0.40, 8: 0.38, 9: 0.36}  # angstrom, as drawn


def turned(place: Float[Any, "N 3"]) -> Float[Any, "N 3"]:
    """Centred, the longest axis to the right, the shortest towards the reader; shrunk where it would leave its cell."""
    centred = place - place.mean(0)
    flat = centred @ np.linalg.svd(centred, full_matrices=True)[2].T
    return flat * min(1.0, 0.46 * CELL / max(1e-9, np.abs(flat[:, :2]).max()))


def shapes(molecule: Molecule, corner: Float[Any, " 2"]) -> Iterator[tuple[float, Any, str]]:
    """(depth, patch, colour) of every half bond and every atom of a molecule in the cell around corner."""
    from matplotlib.patches import Circle, Polygon

    mol = molecule.geometry
    assert mol is not None, "a molecule without coordinates"
    place = turned(mol.GetConformer().GetPositions())
    flat, depth = place[:, :2] + corner, place[:, 2]
    number = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    for bond in mol.GetBonds():
        ends = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        along = flat[ends[1]] - flat[ends[0]]
        across = np.array([-along[1], along[0]]) / max(1e-9, float(np.linalg.norm(along)))
        order = max(1, int(bond.GetBondTypeAsDouble()))
        for k in range(order):
            side = across * 0.22 * (k - (order - 1) / 2)
            for at, sign in zip(ends, (1, -1), strict=True):
                a, b = flat[at] + side, flat[at] + side + sign * along / 2
                edge = across * 0.07
                yield (
                    depth[list(ends)].mean() - 0.3,
                    Polygon([a - edge, b - edge, b + edge, a + edge]),
                    COLOUR[number[at]],
                )
    for at, n in enumerate(number):
        yield depth[at], Circle(tuple(flat[at]), RADIUS[n]), COLOUR[n]


def draw(axis: Any, molecules: list[Molecule]) -> None:
    """A grid of molecules: SMILES below the valid ones, the reason below the others."""
    from matplotlib.collections import PatchCollection

    for number, molecule in enumerate(molecules):
        corner = np.array([number % ACROSS, -(number // ACROSS)]) * CELL
        drawn = sorted(shapes(molecule, corner), key=lambda each: each[0])
        patches, colours = [patch for _, patch, _ in drawn], [colour for *_, colour in drawn]
        axis.add_collection(PatchCollection(patches, facecolor=colours, edgecolor="#00000060", linewidth=0.3))
        text, colour = (molecule.smiles, "#555555") if molecule.valid else (molecule.reason, "#c03030")
        axis.text(*(corner - [0, CELL * 0.43]), str(text)[:24], ha="center", va="top", fontsize=6, color=colour)
    rows = -(-len(molecules) // ACROSS)
    axis.set(xlim=(-CELL / 2, (min(ACROSS, len(molecules)) - 0.5) * CELL), ylim=(-(rows - 0.4) * CELL, CELL / 2))
    axis.set_aspect("equal")
    axis.axis("off")


def picture(rows: dict[str, Molecules], path: Path) -> None:
    """Writes a PNG with a titled grid for every entry, side by side. The molecules have a geometry."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tallest = max(-(-min(MOST, len(some)) // ACROSS) for some in rows.values())
    figure = Figure(figsize=(7.2 * len(rows), 1.2 * tallest + 0.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, some) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows.items(), strict=True):
        draw(axis, some.each[:MOST])
        axis.set_anchor("N")
        axis.set_title(title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
