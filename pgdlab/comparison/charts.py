"""The comparison's charts, as SVG: scores by seed, learning curves, frontiers, performance profiles."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.aggregate import THRESHOLDS, Aggregate
from pgdlab.comparison.columns import score_name
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import Run
from pgdlab.comparison.methods import BEST_OF_N
from pgdlab.comparison.statistics import Interval

COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99", "#994f00", "#7570b3",
    "#99aa00", "#ff99aa", "#222255", "#663333", "#77aadd", "#bb5566", "#004d40", "#ddaa33", "#aa99dd", "#8b8000",
)  # fmt: skip
BASE_COLOUR, BEST_COLOUR = "#999999", "#000000"
SPREAD = ("diversity", "internal_diversity", "vun")  # a domain's frontier shows the first of these that it has


def palette(labels: Sequence[str]) -> dict[str, str]:
    """A colour a method, the same in all charts of a page; best-of-n is black."""
    others = sorted({label for label in labels if label != BEST_OF_N})
    return {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(others)} | {BEST_OF_N: BEST_COLOUR}


@contextmanager
def chart(width: float, height: float, out: list[str]) -> Iterator[Any]:
    """A matplotlib axis; the drawing is appended to `out` as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "pgdlab", "axes.titlesize": 9}):
        figure, axis = plt.subplots(figsize=(width, height), layout="constrained")
        axis.spines[["top", "right"]].set_visible(False)
        yield axis
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    out.append(text.getvalue()[text.getvalue().index("<svg") :])


def bars(axis: Any, found: dict[str, Interval], colours: dict[str, str], dots: dict[str, list[float]]) -> None:
    """A bar for the interval of each method, a stroke for its value, and its dots; the last method on top."""
    for y, (label, (value, low, high)) in enumerate(found.items()):
        axis.plot([low, high], [y, y], color=colours[label], lw=5, alpha=0.35, solid_capstyle="round")
        if label in dots:
            axis.plot(dots[label], [y] * len(dots[label]), ".", color=colours[label], ms=4)
        axis.plot(value, y, "|", color=colours[label], ms=12, mew=2)
    axis.set(yticks=range(len(found)), ylim=(-0.6, len(found) - 0.4))
    for tick, label in zip(axis.set_yticklabels(found), found, strict=True):
        tick.set_color(colours[label])


def cut(axis: Any, least: float = -0.5) -> None:
    """Leaves out scores far below the base: a method that ignored the KL would leave no room for the others."""
    drawn = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axis.lines])
    left, right = max(drawn.min(), least), max(drawn.max(), least + 1)
    margin = 0.05 * (right - left)
    axis.set_xlim(left - margin, right + margin)


def scores(problem: Problem, colours: dict[str, str]) -> str:
    """Every seed's score as a dot, the interquartile mean and its interval as a bar; the base is 0."""
    out: list[str] = []
    dots = {m.label: [*m.scores.values()] for m in problem.ranked[::-1]}
    with chart(3.4, 0.7 + 0.28 * len(dots), out) as axis:
        found = {label: stats.interval(np.array(values)[:, None], stats.iqm) for label, values in dots.items()}
        bars(axis, found, colours, dots)
        axis.set(xlabel=f"{score_name(problem)}; the base is 0")
        if problem.scale == "optimum":
            cut(axis)
    return out[0]


def curve(method: Method) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Queries (K,), mean reward (K,) and its interval over seeds (2, K), interpolated where seeds differ in their queries."""
    every = [
        [(r["queries"], r["reward"]) for r in run.curve if "queries" in r and "reward" in r]
        for run in method.runs.values()
    ]
    lines = [np.array(points).T for points in every if points]
    if not lines:
        return None
    start, end = max(line[0][0] for line in lines), min(line[0][-1] for line in lines)
    at = np.array([q for q in sorted({q for line in lines for q in line[0]}) if start <= q <= end])
    rewards = np.array([np.interp(at, *line) for line in lines])
    rows = np.random.default_rng(0).integers(0, len(lines), (1000, len(lines)))
    return at, rewards.mean(0), stats.percentiles(rewards[rows].mean(1), stats.LEVEL)


def efficiency(problem: Problem, colours: dict[str, str]) -> str | None:
    """Reward of the rollouts against reward queries; the dot at the end is the evaluation afterwards."""
    out: list[str] = []
    with chart(2.75, 2.6, out) as axis:
        for m in problem.methods:
            found = curve(m)
            if found is None:
                continue
            at, middle, band = found
            line = {"ls": "--"} if m.label == BEST_OF_N else {}
            axis.plot(at, middle, color=colours[m.label], lw=1.6, label=m.label, **line)
            axis.fill_between(at, *band, color=colours[m.label], alpha=0.15, lw=0)
            end = [run.summary["reward_after"] for run in m.runs.values()]
            axis.plot(at[-1], np.mean(end), "o", color=colours[m.label], ms=4)
        drawn = len(axis.lines)
        axis.axhline(before(problem), color=BASE_COLOUR, lw=1, ls=":")
        axis.set(xlabel="reward queries", ylabel="reward")
    return out[0] if drawn else None


def before(problem: Problem) -> float:
    """The base's mean reward."""
    by_seed = {seed: run for m in problem.methods for seed, run in m.runs.items()}
    return float(np.mean([run.summary["reward_before"] for run in by_seed.values()]))


def frontier(problem: Problem, colours: dict[str, str], name: str, axis_label: str) -> str | None:
    """Reward against a figure of the steered samples: small dots are seeds, large ones means; methods that differ in a setting
    are joined. A method without the figure (the KL of best-of-n) is a dashed line at its reward."""
    points = {m.label: list(placed(m, lambda run: run.evaluation[1].get(name))) for m in problem.methods}
    if not any(points.values()):
        return None
    out: list[str] = []
    with chart(2.75, 2.6, out) as axis:
        families: dict[str, list[tuple[float, float]]] = {}
        for m in problem.methods:
            colour, here = colours[m.label], np.array(points[m.label])
            if not len(here):
                axis.axhline(np.mean([r.summary["reward_after"] for r in m.runs.values()]), color=colour, lw=1, ls="--")
                continue
            axis.plot(*here.T, ".", color=colour, ms=4, alpha=0.6)
            axis.plot(*here.mean(0), "o", color=colour, ms=7)
            families.setdefault(m.label.partition(" (")[0], []).append(tuple(here.mean(0)))
        for members in families.values():
            axis.plot(*np.array(sorted(members)).T, color=BASE_COLOUR, lw=0.8, zorder=0)
        base = [r.evaluation[0].get(name) for m in problem.methods for r in m.runs.values()]
        if known := [x for x in base if x is not None]:
            axis.plot(np.mean(known), before(problem), "x", color=BASE_COLOUR, ms=7)
        axis.set(xlabel=axis_label, ylabel="reward")
    return out[0]


def placed(method: Method, of: Callable[[Run], float | None]) -> Iterator[tuple[float, float]]:
    """(figure, reward) of the runs that have the figure."""
    for run in method.runs.values():
        if (value := of(run)) is not None:
            yield value, run.summary["reward_after"]


def spread_of(problem: Problem) -> str | None:
    """The figure of diversity that the problem's domain has."""
    run = next(iter(problem.methods[0].runs.values()))
    return next((name for name in SPREAD if name in run.evaluation[1]), None)


def profiles(found: Aggregate, colours: dict[str, str]) -> str:
    """Performance profiles: the share of runs with a score above each threshold, and its interval."""
    out: list[str] = []
    with chart(4.6, 3.0, out) as axis:
        for label, (share, low, high) in found.profiles.items():
            axis.plot(THRESHOLDS, share, color=colours[label], lw=1.6, label=label)
            axis.fill_between(THRESHOLDS, low, high, color=colours[label], alpha=0.12, lw=0)
        axis.set(xlabel="score above", ylabel="share of runs", ylim=(-0.02, 1.02))
    return out[0]


def means(found: Aggregate, colours: dict[str, str]) -> str:
    """The interquartile mean of every method over the problems, and its interval."""
    out: list[str] = []
    order = sorted(found.figures, key=lambda label: found.figures[label]["IQM"].value)
    with chart(4.6, 0.7 + 0.3 * len(order), out) as axis:
        bars(axis, {label: found.figures[label]["IQM"] for label in order}, colours, {})
        axis.set(xlabel="interquartile mean of the score")
        cut(axis)
    return out[0]
