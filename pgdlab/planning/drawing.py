"""Pictures of plans on their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.planning.figures import near
from pgdlab.planning.maps import Map
from pgdlab.planning.tasks import Tasks

COLUMNS, MOST = 8, 16  # maps a row, and a group
CLEAR, TOUCHES = "#2a7f62", "#c8553d"


def picture(
    groups: dict[str, Float[Tensor, "B P 2"]],
    map_: Map,
    tasks: Tasks,
    path: Path,
    cond: Int[Tensor, " B"] | None = None,
) -> None:
    """A grid of maps for every group: walls dark, blocks light, a plan that touches nothing green, else red. Without cond all
    plans of a group are drawn on one map without blocks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {title: plans[:MOST] for title, plans in groups.items()}
    each = 1 if cond is None else -(-max(len(plans) for plans in shown.values()) // COLUMNS)
    columns, side = (1, 4.0) if cond is None else (COLUMNS, 1.55)
    down = each * len(shown)
    figure, axes = plt.subplots(down, columns, figsize=(side * columns, side * down), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for group, (title, plans) in enumerate(shown.items()):
        rows = axes[group * each : (group + 1) * each].flat
        rows[0].set_title(title, fontsize=9, loc="left")
        for k, plan in enumerate(plans.cpu()):
            axis = rows[0 if cond is None else k]
            axis.set_axis_on()
            draw(axis, plan, map_, None if cond is None else tasks.occupied[cond[k]])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(axis: Any, plan: Float[Tensor, "P 2"], map_: Map, occupied: Tensor | None) -> None:
    """One plan on its map."""
    there = map_.walls if occupied is None else occupied
    shade = map_.walls.double() + 0.45 * (there & ~map_.walls).double()
    half = map_.width / 2, map_.height / 2
    axis.imshow(shade, extent=(-half[0], half[0], -half[1], half[1]), cmap="Greys", vmin=0, vmax=1.3)
    colour = TOUCHES if near(plan[None], there[None]).any() else CLEAR
    axis.plot(plan[:, 0], plan[:, 1], color=colour, linewidth=1.2)
    axis.scatter(*plan[[0, -1]].T, c=["white", colour], edgecolors=colour, s=14, zorder=3)
    axis.set_xticks([])
    axis.set_yticks([])
