"""Plans being executed, as an animation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.planning.drawing import draw
from pgdlab.planning.execution import execute
from pgdlab.planning.maps import Map
from pgdlab.planning.tasks import Tasks

SHOWN = 4  # plans
FRAMES, PAUSE = 40, 80  # of the animation, and milliseconds a frame


def animation(plan: Float[Tensor, "B P 2"], map_: Map, tasks: Tasks, cond: Int[Tensor, " B"], path: Path) -> Path:
    """Writes a GIF: the first plans on their maps and the ball that is driven along them, which stays where it got stuck."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    plan, cond = plan[:SHOWN], cond[:SHOWN]
    ways = execute(plan, map_, tasks, cond).ways
    figure, axes = plt.subplots(1, len(plan), figsize=(2 * len(plan), 2), squeeze=False)
    for axis, one, c in zip(axes[0], plan, cond.tolist(), strict=True):
        draw(axis, one, map_, tasks.occupied[c])
    balls = [axis.plot([], [], "o", color="#1f4e9c", markersize=5)[0] for axis in axes[0]]
    figure.tight_layout(pad=0.3)
    longest = max(len(way) for way in ways)

    def frame(k: int) -> list[Any]:
        for ball, way in zip(balls, ways, strict=True):
            at = way[min(round(k * (longest - 1) / (FRAMES - 1)), len(way) - 1)]
            ball.set_data(at[:1], at[1:])
        return [*balls]

    FuncAnimation(figure, frame, frames=FRAMES, blit=False).save(path, writer=PillowWriter(fps=1000 // PAUSE))
    plt.close(figure)
    return path
