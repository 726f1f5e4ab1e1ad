"""Methods over several problems at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.comparison import Problem
from pgdlab.comparison.statistics import Interval

THRESHOLDS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Aggregate:
    """Methods over all problems on which each of them ran. scores: label -> (S, T). figures: label -> name -> interval;
    better: (a, b) -> P(a > b); profiles: label -> the share of runs above each of THRESHOLDS and its interval (3, K)."""

    problems: list[str]
    scores: dict[str, np.ndarray]
    figures: dict[str, dict[str, Interval]]
    better: dict[tuple[str, str], Interval]
    profiles: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        """Seeds, problems."""
        found = next(iter(self.scores.values())).shape
        return (found[0], found[1])


FIGURES = {"IQM": stats.iqm, "median": stats.median, "mean": stats.mean, "optimality gap": stats.optimality_gap}


def aggregate(found: Sequence[Problem]) -> Aggregate | None:
    """Over problems with a scale; None where no two methods share one.

    Every problem gives as many seeds as the one with the fewest that all methods have.
    """
    labels, chosen = shared([p for p in found if p.scale != "reward"])
    tables = [{m.label: m.scores for m in p.ranked if m.label in labels} for p in chosen]
    seeds = [sorted(set.intersection(*(set(scores) for scores in table.values()))) for table in tables]
    count = min(map(len, seeds), default=0)
    if not count:
        return None
    scores = {
        name: np.array([[t[name][s] for s in some[:count]] for t, some in zip(tables, seeds, strict=True)]).T
        for name in labels
    }
    figures = {
        name: {f: stats.interval(x, estimator) for f, estimator in FIGURES.items()} for name, x in scores.items()
    }
    both = itertools.permutations(labels, 2)
    better = {(a, b): stats.interval(scores[a], stats.improvement, scores[b]) for a, b in both}
    return Aggregate(
        [p.label for p in chosen], scores, figures, better, {name: banded(x) for name, x in scores.items()}
    )


def shared(found: Sequence[Problem]) -> tuple[list[str], list[Problem]]:
    """Two methods or more, and two problems or more on which all of them ran: those that make the largest table without a
    gap. Both empty where there are none."""
    ran = [frozenset(m.label for m in p.ranked) for p in found]
    sets = {a & b for a, b in itertools.combinations(ran, 2) if len(a & b) > 1}
    best = max(sets, key=lambda some: (len(some) * sum(some <= own for own in ran), sorted(some)), default=None)
    return ([], []) if best is None else (sorted(best), [p for p, own in zip(found, ran, strict=True) if best <= own])


def banded(scores: np.ndarray, resamples: int = 1000) -> np.ndarray:
    """(3, K): a performance profile, and the ends of its interval at every threshold."""
    rows = stats.resampled((scores.shape[0], scores.shape[1]), resamples, np.random.default_rng(0))
    drawn = stats.profile(np.take_along_axis(np.broadcast_to(scores, rows.shape), rows, axis=1), THRESHOLDS)
    return np.vstack([np.asarray(stats.profile(scores, THRESHOLDS))[None], stats.percentiles(drawn, stats.LEVEL)])
