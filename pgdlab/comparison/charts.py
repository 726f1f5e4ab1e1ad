"""The comparison's charts, as SVG: scores by seed, learning curves, frontiers, performance profiles."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.aggregate import THRESHOLDS, Aggregate
from pgdlab.comparison.columns import score_name
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.equal_kl import band
from pgdlab.comparison.equal_kl import frontier as frontier_of
from pgdlab.comparison.folders import Run
from pgdlab.comparison.statistics import Interval
from pgdlab.comparison.styles import BASE_STYLE, Style

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # at (K,), mean (K,) and its interval (2, K)

BASE_COLOUR = BASE_STYLE.colour
SPREAD = ("diversity", "internal_diversity", "vun")  # a domain's frontier shows the first of these that it has


@dataclass(frozen=True)
class Chart:
    """A chart in three formats; png at 300 dots an inch."""

    svg: str
    pdf: bytes
    png: bytes


@contextmanager
def chart(width: float, height: float, out: list[Chart], named: Sequence[str] = ()) -> Iterator[Any]:
    """A matplotlib axis, in inches; the drawing is appended to `out`. named: the methods of a legend below it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    look: dict[Any, Any] = {
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        "font.size": 9,
        "svg.hashsalt": "pgdlab",
        "axes.titlesize": 9,
    }
    with plt.rc_context(look):
        figure, axis = plt.subplots(figsize=(width, height + 0.16 * len(named)), layout="constrained")
        axis.spines[["top", "right"]].set_visible(False)
        yield axis
        if named:
            handles, labels = axis.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=7, handlelength=3)
        svg = saved(figure, "svg", {"Date": None}).decode()
        pdf = saved(figure, "pdf", {"CreationDate": None})
        out.append(Chart(svg[svg.index("<svg") :], pdf, saved(figure, "png", {})))
        plt.close(figure)


def saved(figure: Any, kind: str, metadata: dict[str, Any]) -> bytes:
    """A figure's file, the same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, transparent=kind == "svg", dpi=300, metadata=metadata)
    return file.getvalue()


def bars(axis: Any, found: dict[str, Interval], look: dict[str, Style], dots: dict[str, list[float]]) -> None:
    """A bar for the interval of each method, a stroke for its value, and its dots; the last method on top."""
    for y, (label, (value, low, high)) in enumerate(found.items()):
        axis.plot([low, high], [y, y], color=look[label].colour, lw=5, alpha=0.35, solid_capstyle="round")
        if label in dots:
            axis.plot(dots[label], [y] * len(dots[label]), **look[label].point, ms=4.5)
        axis.plot(value, y, "|", color=look[label].colour, ms=12, mew=2)
    axis.set(yticks=range(len(found)), ylim=(-0.6, len(found) - 0.4))
    for tick, label in zip(axis.set_yticklabels(found), found, strict=True):
        tick.set_color(look[label].colour)


def cut(axis: Any, least: float = -0.5) -> None:
    """Leaves out scores far below the base: a method that ignored the KL would leave no room for the others."""
    drawn = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axis.lines])
    left, right = max(drawn.min(), least), max(drawn.max(), least + 1)
    margin = 0.05 * (right - left)
    axis.set_xlim(left - margin, right + margin)


def scores(problem: Problem, look: dict[str, Style]) -> Chart:
    """Every seed's score as a dot, the interquartile mean and its interval as a bar; the base is 0."""
    out: list[Chart] = []
    dots = {m.label: [*m.scores.values()] for m in problem.ranked[::-1]}
    with chart(3.4, 0.7 + 0.28 * len(dots), out) as axis:
        found = {label: stats.interval(np.array(values)[:, None], stats.iqm) for label, values in dots.items()}
        bars(axis, found, look, dots)
        axis.set(xlabel=f"{score_name(problem)}; the base is 0")
        if problem.scale == "optimum":
            cut(axis)
    return out[0]


def curve(method: Method) -> Curve | None:
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
    if not len(at):  # no seed was asked as much as another at its first iteration
        return None
    rewards = np.array([np.interp(at, *line) for line in lines])
    rows = np.random.default_rng(0).integers(0, len(lines), (1000, len(lines)))
    return at, rewards.mean(0), stats.percentiles(rewards[rows].mean(1), stats.LEVEL)


def efficiency(problem: Problem, look: dict[str, Style]) -> Chart | None:
    """Reward of the rollouts against reward queries; the dot at the end is the evaluation afterwards."""
    out: list[Chart] = []
    curves = {m.label: found for m in problem.methods if (found := curve(m)) is not None}
    with chart(2.75, 2.6, out, [*curves]) as axis:
        for m in problem.methods:
            if m.label in curves:
                at, end = curves[m.label][0], [run.summary["reward_after"] for run in m.runs.values()]
                whole = len(at) > 1  # what has one round, as particles, is a point
                if whole:
                    filled(axis, curves[m.label], m.label, look)
                axis.plot(at[-1], np.mean(end), **look[m.label].point, ms=5, label=None if whole else m.label)
        axis.axhline(before(problem), color=BASE_COLOUR, lw=1, ls=":")
        axis.set(xlabel="reward queries", ylabel="reward")
    return out[0] if curves else None


def filled(axis: Any, curve: Curve, label: str, look: dict[str, Style]) -> None:
    """A method's curve and the band of its interval."""
    at, middle, band = curve
    axis.plot(at, middle, label=label, **look[label].line)
    axis.fill_between(at, *band, color=look[label].colour, alpha=0.15, lw=0)


def at_equal_kl(problem: Problem, look: dict[str, Style]) -> Chart | None:
    """Reward of the rollouts against their KL; the vertical line is the KL that all methods reach."""
    found = frontier_of(problem)
    if found is None:
        return None
    out: list[Chart] = []
    bands = {m.label: band(m) for m in problem.methods}
    with chart(2.75, 2.6, out, [*found.rewards]) as axis:
        for label, curve in bands.items():
            if curve is not None and label in found.rewards:
                filled(axis, curve, label, look)
        axis.axvline(found.levels[-1], color=BASE_COLOUR, lw=1, ls=":")
        axis.set(xlabel="nats from the base", ylabel="reward while training", xlim=(0, 2.5 * found.levels[-1]))
    return out[0]


def before(problem: Problem) -> float:
    """The base's mean reward."""
    by_seed = {seed: run for m in problem.methods for seed, run in m.runs.items()}
    return float(np.mean([run.summary["reward_before"] for run in by_seed.values()]))


def frontier(problem: Problem, look: dict[str, Style], name: str, axis_label: str) -> Chart | None:
    """Reward against a figure of the steered samples: small dots are seeds, large ones means; methods that differ in a setting
    are joined. A method without the figure (the KL of best-of-n) is a dashed line at its reward."""
    points = {m.label: list(placed(m, lambda run: run.evaluation[1].get(name))) for m in problem.methods}
    if not any(points.values()):
        return None
    out: list[Chart] = []
    with chart(2.75, 2.6, out, [*points]) as axis:
        families: dict[str, list[tuple[float, float]]] = {}
        for m in problem.methods:
            here, style = np.array(points[m.label]), look[m.label]
            if not len(here):
                reward = np.mean([r.summary["reward_after"] for r in m.runs.values()])
                axis.axhline(reward, color=style.colour, lw=1, ls="--", label=m.label)
                continue
            axis.plot(*here.T, **style.point, ms=4, alpha=0.6)
            axis.plot(*here.mean(0), **style.point, ms=8, label=m.label)
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


def profiles(found: Aggregate, look: dict[str, Style]) -> Chart:
    """Performance profiles: the share of runs with a score above each threshold, and its interval."""
    out: list[Chart] = []
    with chart(4.6, 3.0, out, [*found.profiles]) as axis:
        for label, (share, *interval) in found.profiles.items():
            filled(axis, (THRESHOLDS, share, np.array(interval)), label, look)
        axis.set(xlabel="score above", ylabel="share of runs", ylim=(-0.02, 1.02))
    return out[0]


def means(found: Aggregate, look: dict[str, Style]) -> Chart:
    """The interquartile mean of every method over the problems, and its interval."""
    out: list[Chart] = []
    order = sorted(found.figures, key=lambda label: found.figures[label]["IQM"].value)
    with chart(4.6, 0.7 + 0.3 * len(order), out) as axis:
        bars(axis, {label: found.figures[label]["IQM"] for label in order}, look, {})
        axis.set(xlabel="interquartile mean of the score")
        cut(axis)
    return out[0]
