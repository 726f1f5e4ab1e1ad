"""One tidy picture of titled grids of images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

MOST = 64  # images a grid
TILE = 56  # pixels that a smaller image is enlarged to
FRAME = 2  # white pixels around an image
GRID_INCHES, GRID_LINE_INCHES = 4.8, 0.125  # of a grid's width, of a line of its captions
LETTERS, LINES = 88, 4  # of a row's captions side by side, of one caption
COLUMNS, TILE_INCHES, LINE_INCHES = 8, 1.7, 0.13  # of a sheet


def grid(image: Float[Tensor, "B C S S"], columns: int = 8, above: float = 0.0) -> Float[Tensor, "R K C"]:
    """Images in [0, 1] in rows of `columns`, with a thin white line between them and a white strip above each, `above`
    of an image high; enlarged without smoothing. C: 1 (grey) or 3 (red, green, blue)."""
    few = image[:MOST]
    factor = max(1, TILE // few.shape[-1])
    big = few.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    strip = round(above * big.shape[-1])
    framed = torch.nn.functional.pad(big, (FRAME, FRAME, FRAME + strip, FRAME), value=1.0)
    missing = -len(framed) % columns
    framed = torch.cat([framed, torch.ones(missing, *framed.shape[1:])])
    rows = [torch.cat(list(framed[i : i + columns]), 2) for i in range(0, len(framed), columns)]
    return torch.cat(rows, 1).permute(1, 2, 0)


def picture(rows: dict[str, Tensor], path: Path, captions: Sequence[str] | None = None) -> None:
    """Writes a PNG with a titled grid for every entry (title -> images (B, C, S, S) in [0, 1]), two to a row. captions: one
    an image, the same for every entry, written above it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(8, max(map(len, rows.values())))
    named = wrapped(captions, LETTERS // columns) if captions is not None else []
    above = strip(named) * columns / GRID_INCHES
    grids = {t: grid(image, min(8, len(image)), above) for t, image in rows.items()}
    across = min(2, len(grids)) if len(grids) != 3 else 3
    down = -(-len(grids) // across)
    tallest = max(g.shape[0] / g.shape[1] for g in grids.values())
    figure = Figure(
        figsize=(GRID_INCHES * across, (GRID_INCHES * tallest + 0.45) * down), dpi=110, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
        axis.set_anchor("N")
    for axis, (title, pixels) in zip(axes, grids.items(), strict=False):
        shown = pixels.expand(-1, -1, 3)  # grey as equal parts of red, green and blue
        axis.imshow(shown.numpy(), vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title, fontsize=12)
        if any(named):
            write(axis, named[: min(MOST, len(rows[title]))], min(8, len(rows[title])), pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def wrapped(captions: Sequence[str], letters: int) -> list[str]:
    """Captions in lines of so many letters, LINES of them at most."""
    return ["\n".join(textwrap.wrap(text, letters, max_lines=LINES, placeholder=" …")) for text in captions]


def strip(captions: Sequence[str]) -> float:
    """Inches above an image that the longest of wrapped captions takes; 0 where there are none."""
    lines = max((text.count("\n") + 1 for text in captions if text), default=0)
    return lines * GRID_LINE_INCHES + 0.03 if lines else 0.0


def write(axis: Any, captions: Sequence[str], columns: int, pixels: Float[Tensor, "R K C"]) -> None:
    """The captions above the images of a grid."""
    wide, high = pixels.shape[1] / columns, pixels.shape[0] / -(-len(captions) // columns)
    for i, text in enumerate(captions):
        at = (i % columns + 0.5) * wide, i // columns * high + FRAME
        axis.text(*at, text, ha="center", va="top", fontsize=6, parse_math=False)


def eight_bit(image: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
    """Images in [0, 1] as bytes, on the host."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().cpu()


def sheet(image: UInt8[Tensor, "B C H W"], captions: Sequence[str], title: str, path: Path) -> None:
    """Writes a PNG with all images in rows, each with its caption under it in at most four lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    under = wrapped(captions, 32)
    columns, lines = min(COLUMNS, len(image)), max(text.count("\n") + bool(text) for text in under)
    rows, tall = -(-len(image) // columns), TILE_INCHES * image.shape[2] / image.shape[3]
    wide, high = columns * TILE_INCHES, rows * (tall + LINE_INCHES * (lines + 1)) + 3 * LINE_INCHES
    figure = Figure(figsize=(wide, high), dpi=110)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - LINE_INCHES / high, title, ha="center", va="top", fontsize=11)
    for i, (pixels, text) in enumerate(zip(image, under, strict=True)):
        low = rows - 1 - i // columns
        bottom = low * (tall + LINE_INCHES * (lines + 1)) + LINE_INCHES * (lines + 1)
        place = (i % columns * TILE_INCHES / wide, bottom / high, TILE_INCHES * 0.97 / wide, tall * 0.97 / high)
        axis = figure.add_axes(place)
        axis.axis("off")
        axis.imshow(pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy(), vmin=0, vmax=255)
        axis.text(0.5, -0.03, text, transform=axis.transAxes, ha="center", va="top", fontsize=6, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
