"""One tidy picture of titled grids of images."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 64  # images a grid


def grid(image: Float[Tensor, "B 1 S S"], columns: int = 8) -> Float[Tensor, "R C"]:
    """Images in [0, 1] in rows of `columns`, with a thin white line between them; enlarged without smoothing."""
    few = image[:MOST, 0]
    factor = max(1, 56 // few.shape[-1])
    big = few.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    framed = torch.nn.functional.pad(big, (2, 2, 2, 2), value=1.0)
    missing = -len(framed) % columns
    framed = torch.cat([framed, torch.ones(missing, *framed.shape[1:])])
    rows = [torch.cat(list(framed[i : i + columns]), 1) for i in range(0, len(framed), columns)]
    return torch.cat(rows)


def picture(rows: dict[str, Tensor], path: Path) -> None:
    """Writes a PNG with a titled grid for every entry (title -> images (B, 1, S, S) in [0, 1]), two to a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grids = {title: grid(image, min(8, len(image))) for title, image in rows.items()}
    across = min(2, len(grids)) if len(grids) != 3 else 3
    down = -(-len(grids) // across)
    tallest = max(g.shape[0] / g.shape[1] for g in grids.values())
    figure = Figure(figsize=(4.8 * across, (4.8 * tallest + 0.45) * down), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
        axis.set_anchor("N")
    for axis, (title, pixels) in zip(axes, grids.items(), strict=False):
        axis.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
