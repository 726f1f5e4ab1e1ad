"""Episodes in a maze: the ways that a ball took, as a picture and as an animation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from pgdlab.planning.drawing import CLEAR, TOUCHES
from pgdlab.planning.execution import GOAL
from pgdlab.planning.maps import Map

SHOWN, MOST = 4, 40  # episodes of an animation, and of a picture
FRAMES, PAUSE = 40, 80  # of the animation, and milliseconds a frame
Way = Float[NDArray[np.float64], "_ 2"]


def reached(way: Way, goal: NDArray[np.float64]) -> bool:
    """Whether a way ends at the goal."""
    return bool(np.linalg.norm(way[-1] - goal) <= GOAL)


def maze(axis: Any, map_: Map) -> None:
    """The walls."""
    half = map_.width / 2, map_.height / 2
    axis.imshow(map_.walls, extent=(-half[0], half[0], -half[1], half[1]), cmap="Greys", vmin=0, vmax=1.3)
    axis.set_xticks([])
    axis.set_yticks([])


def picture(ways: dict[str, list[Way]], goals: list[NDArray[np.float64]], map_: Map, path: Path) -> Path:
    """The first ways of each policy on one map: green where the goal was reached, else red, and where they ended."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(ways), figsize=(4 * len(ways), 4.2), squeeze=False, layout="constrained")
    for axis, (title, each) in zip(axes[0], ways.items(), strict=True):
        maze(axis, map_)
        there = [reached(way, goal) for way, goal in zip(each, goals, strict=True)]
        for way, success in list(zip(each, there, strict=True))[:MOST]:
            colour = CLEAR if success else TOUCHES
            axis.plot(way[:, 0], way[:, 1], color=colour, linewidth=0.8, alpha=0.7)
            axis.plot(*way[-1], "o", color=colour, markersize=3)
        axis.set_title(f"{title}: {sum(there)} of {len(there)} reach the goal", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def animation(ways: dict[str, list[Way]], goals: list[NDArray[np.float64]], map_: Map, path: Path) -> Path:
    """Writes a GIF: the first episodes of each policy, a row each; the goal is a circle of the size that counts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    shown = {title: each[:SHOWN] for title, each in ways.items()}
    columns = len(next(iter(shown.values())))
    figure, axes = plt.subplots(len(shown), columns, figsize=(1.7 * columns, 1.8 * len(shown)), squeeze=False)
    drawn = []
    for row, (title, each) in zip(axes, shown.items(), strict=True):
        row[0].set_title(title, fontsize=9, loc="left")
        for axis, way, goal in zip(row, each, goals, strict=False):
            maze(axis, map_)
            axis.add_patch(plt.Circle(tuple(goal), GOAL, color=CLEAR, alpha=0.35, linewidth=0))
            drawn.append(
                (way, *axis.plot([], [], color="#1f4e9c", linewidth=0.8), *axis.plot([], [], "o", color="#1f4e9c"))
            )
    figure.tight_layout(pad=0.3)
    longest = max(len(way) for way, _, _ in drawn)

    def frame(k: int) -> list[Any]:
        end = round(k * (longest - 1) / (FRAMES - 1)) + 1
        for way, line, ball in drawn:
            now = way[:end]
            line.set_data(now[:, 0], now[:, 1])
            ball.set_data(now[-1:, 0], now[-1:, 1])
        return []

    FuncAnimation(figure, frame, frames=FRAMES, blit=False).save(path, writer=PillowWriter(fps=1000 // PAUSE), dpi=70)
    plt.close(figure)
    return path
