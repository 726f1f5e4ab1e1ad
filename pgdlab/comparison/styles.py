"""How a method looks on the page, the same in all charts: told apart by people who see fewer colours, and in print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgdlab.comparison.methods import BEST_OF_N

# Okabe and Ito 2008 (jfly.uni-koeln.de/color), without the yellow that paper swallows
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b3a1e")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
BASE_COLOUR = "#8a8a8a"


@dataclass(frozen=True)
class Style:
    """A colour as #rrggbb, a marker and a line's dashes as matplotlib names them."""

    colour: str
    marker: str
    dashes: Any

    @property
    def glyph(self) -> str:
        """The marker as a letter of text."""
        return MARKERS[self.marker]

    @property
    def line(self) -> dict[str, Any]:
        """Of a line without markers."""
        return {"color": self.colour, "ls": self.dashes, "lw": 1.6}

    @property
    def point(self) -> dict[str, Any]:
        """Of a marker without a line."""
        return {"color": self.colour, "marker": self.marker, "ls": "none", "mec": "white", "mew": 0.4}


BASE_STYLE = Style(BASE_COLOUR, "o", ":")


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """A style a method: colour, marker and dashes all change from one to the next, and none comes twice among 224.
    Best-of-n is black."""
    others = sorted({label for label in labels if label != BEST_OF_N})
    found = {
        label: Style(COLOURS[i % 7], [*MARKERS][i % 8], DASHES[(i + i // 56) % 4]) for i, label in enumerate(others)
    }
    return found | {BEST_OF_N: Style("#000000", "*", (0, (4, 2)))}
