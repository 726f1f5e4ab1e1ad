"""Rewards at equal KL: where the training curves of several methods stand after the same distance from the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import Run
from pgdlab.comparison.statistics import Interval

SHARES = (0.25, 0.5, 1.0)  # of the KL that all methods reach


@dataclass(frozen=True)
class Frontier:
    """levels: KL in nats, up to what every seed of every method reached. rewards: label -> a mean over seeds a level."""

    levels: list[float]
    rewards: dict[str, list[Interval | float]]
    unknown: list[str]


def frontier(problem: Problem) -> Frontier | None:
    """Of the methods that log their KL; None where fewer than two do, or one never leaves the base."""
    known = {m.label: [path(run) for run in m.runs.values()] for m in problem.methods}
    drawn = {label: paths for label, paths in known.items() if all(len(p) > 1 for p in paths)}
    if len(drawn) < 2:
        return None
    common = min(p[:, 0].max() for paths in drawn.values() for p in paths)
    if common <= 0:
        return None
    levels = [share * float(common) for share in SHARES]
    rewards = {
        label: [averaged([reached(p, level) for p in paths]) for level in levels] for label, paths in drawn.items()
    }
    return Frontier(levels, rewards, sorted(known.keys() - drawn.keys()))


def path(run: Run) -> np.ndarray:
    """(K, 2): KL in nats and reward of the base and of each iteration's rollouts that have both."""
    rows = [(r["kl_nats"], r["reward"]) for r in run.curve if "kl_nats" in r and "reward" in r]
    return np.array([(0.0, run.summary["reward_before"]), *rows])


def reached(points: np.ndarray, level: float) -> float:
    """The reward where a curve (K, 2) comes to a KL for the first time, on the line between two iterations.

    It must come there: level is at most the largest KL of the curve.
    """
    beyond = int(np.argmax(points[:, 0] >= level))
    if beyond == 0:
        return float(points[0, 1])
    (before, low), (after, high) = points[beyond - 1], points[beyond]
    return float(low + (high - low) * (level - before) / (after - before))


def averaged(values: Sequence[float]) -> Interval | float:
    """The mean over seeds, with its interval where there are several."""
    return float(values[0]) if len(values) == 1 else stats.interval(np.array(values)[:, None], stats.mean)


def band(method: Method) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """KL (K,), mean reward (K,) and its interval over seeds (2, K), as far as all seeds came; None without a KL."""
    paths = [path(run) for run in method.runs.values()]
    end = min((p[:, 0].max() for p in paths if len(p) > 1), default=0.0)
    if not end or any(len(p) < 2 for p in paths):
        return None
    at = np.linspace(0.0, end, 60)
    rewards = np.array([[reached(p, level) for level in at] for p in paths])
    rows = np.random.default_rng(0).integers(0, len(paths), (1000, len(paths)))
    return at, rewards.mean(0), stats.percentiles(rewards[rows].mean(1), stats.LEVEL)
