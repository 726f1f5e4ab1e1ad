"""Methods look different: to everybody, to people who see fewer colours, and in grey print."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pgdlab.comparison.methods import BEST_OF_N
from pgdlab.comparison.styles import COLOURS, MARKERS, Style, styles

# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as it is seen without one kind of cone
SEEN = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]),
}  # fmt: skip
WHITE = np.array([0.95047, 1.0, 1.08883])
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def linear(colour: str) -> np.ndarray:
    """sRGB -> linear RGB (IEC 61966-2-1)."""
    x = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB under D65."""
    x = XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", SEEN)
def test_colours_are_told_apart(kind: str) -> None:
    """CIE 1976: 2.3 is just noticeable; 15 is told apart at a glance. White paper is 30 away, so that lines are seen."""
    seen = [lab(SEEN[kind] @ linear(colour)) for colour in COLOURS]
    for (a, x), (b, y) in itertools.combinations(zip(COLOURS, seen, strict=True), 2):
        assert np.linalg.norm(x - y) > 15, (a, b)
    assert all(np.linalg.norm(x - lab(np.ones(3))) > 30 for x in seen)


def test_in_grey_neighbours_differ_in_marker_and_dashes_too() -> None:
    found = styles([f"{i:02}" for i in range(40)])
    listed = [found[f"{i:02}"] for i in range(40)]
    looks = [(s.colour, s.marker, str(s.dashes)) for s in [*listed, found[BEST_OF_N]]]
    assert len(set(looks)) == 41
    for a, b in itertools.pairwise(listed):
        assert a.colour != b.colour
        assert a.marker != b.marker
        assert a.dashes != b.dashes
    assert len({(s.marker, str(s.dashes)) for s in listed[:8]}) == 8


def test_a_method_looks_the_same_whatever_stands_beside_it_in_the_list() -> None:
    assert styles(["b", "a", BEST_OF_N]) == styles(["a", "b"])
    assert found_glyphs(styles(["a"])) == {MARKERS["o"], MARKERS["*"]}


def found_glyphs(found: dict[str, Style]) -> set[str]:
    return {style.glyph for style in found.values()}
