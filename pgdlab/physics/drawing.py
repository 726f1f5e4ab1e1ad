"""Pictures of fields and of paths, a titled part for every entry."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.images.drawing import picture

MOST = 32  # samples of a part
SPAN_K, SPAN_P = 2.5, 0.25  # the colours reach from minus this to this, of log K and of p


def fields(rows: dict[str, Float[Tensor, "B 2 S S"]], path: Path) -> None:
    """log K (blue to yellow) and p (blue to red) of every sample, side by side."""
    from matplotlib import colormaps

    def coloured(field: Float[Tensor, "B S S"], span: float, colours: str) -> Float[Tensor, "B 3 S S"]:
        level = (field.nan_to_num() / span / 2 + 0.5).clamp(0, 1).numpy()
        return torch.from_numpy(colormaps[colours](level)[..., :3]).permute(0, 3, 1, 2)

    drawn = {}
    for title, sample in rows.items():
        log_k, p = sample[:MOST].unbind(1)
        both = coloured(log_k, SPAN_K, "cividis"), coloured(p, SPAN_P, "coolwarm")
        drawn[title] = torch.stack(both, 1).flatten(0, 1)
    picture(drawn, path)


def paths(rows: dict[str, Float[Tensor, "B 2 T"]], path: Path) -> None:
    """theta and omega of every sample, a line each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(rows), 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(rows), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (title, sample) in zip(axes, rows.items(), strict=True):
        for theta, omega in sample[:MOST].numpy():
            axis.plot(theta, omega, linewidth=0.8)
        axis.set(title=title, xlabel="theta")
    axes[0].set_ylabel("omega")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
