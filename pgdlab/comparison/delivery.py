"""Train or steer: what a delivered sample costs, and after how many of them training is the cheaper way to its reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.columns import Table, average, ranged, shown
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import Run
from pgdlab.comparison.statistics import Interval

AMOUNTS = (100, 10_000)  # delivered samples that costs are told of
SAME = 1.05  # network rows a sample that differ by less are equal


@dataclass(frozen=True)
class Delivery:
    """Reward queries before the first sample, and of every sample; network rows of every sample. rows: None where not known."""

    once: float
    each: float
    rows: float | None

    def queries(self, samples: int) -> float:
        """Of so many delivered samples."""
        return self.once + samples * self.each


@dataclass(frozen=True)
class BreakEven:
    """After how many delivered samples training has asked the reward less often than steering, at the reward of steering.
    samples: mean over seeds and its interval, None where a seed's training did not come to that reward. reached: how many did,
    of `seeds`."""

    trained: str
    steered: str
    samples: Interval | float | None
    reached: int
    seeds: int


def delivery(run: Run) -> Delivery | None:
    """What a run's samples cost; None of a certificate's replica, whose samples are not drawn."""
    summary, steps = run.summary, (run.config.get("policy") or {}).get("steps")
    slots, evaluated = summary.get("evaluation_samples"), summary.get("network_evaluations")
    if steps is None:
        return None
    if "candidates" not in summary:
        return Delivery(float(summary["reward_queries"]), 0.0, float(steps))
    own = None if evaluated is None else evaluated - summary.get("training_evaluations", 0)
    if "steered_run" in summary and "training_evaluations" not in summary:
        own = None  # of a version that did not say
    rows = own / slots if own is not None and slots else None
    return Delivery(float(summary.get("training_queries", 0)), float(summary["candidates"]), rows)


def steered(method: Method) -> bool:
    """Whether its samples cost queries, of a base that nothing has trained."""
    found = [delivery(run) for run in method.runs.values()]
    return all(d is not None and d.each > 0 and d.once == 0 for d in found)


def trained(method: Method) -> bool:
    """Whether its samples cost none."""
    found = [delivery(run) for run in method.runs.values()]
    return all(d is not None and d.each == 0 for d in found)


def needed(run: Run, reward: float) -> float | None:
    """Reward queries after which a training's reward is as high as this; None where it never is.

    On the isotonic regression of its learning curve: the never falling one that is nearest (Ayer et al. 1955), since the first
    chance crossing of a noisy curve is early. A row's rollouts are those of the queries before it; the evaluation is the end.
    """
    points = [(row["queries"], row["reward"]) for row in run.curve if "queries" in row and "reward" in row]
    at = np.array([0.0, *(q for q, _ in points)])
    rewards = np.array([*(r for _, r in points), run.summary["reward_after"]])
    level: Float[np.ndarray, " K"] = isotonic_regression(rewards).x
    beyond = level >= reward
    if not beyond.any():
        return None
    i = int(np.argmax(beyond))
    if i == 0:
        return float(at[0])
    return float(at[i - 1] + (at[i] - at[i - 1]) * (reward - level[i - 1]) / (level[i] - level[i - 1]))


def break_even(training: Method, steering: Method) -> BreakEven | None:
    """(queries of training) / (queries a steered sample), by seed; None without a common seed."""
    seeds = sorted(training.runs.keys() & steering.runs.keys())
    found = []
    for seed in seeds:
        run, other = training.runs[seed], steering.runs[seed]
        cost, each = needed(run, other.summary["reward_after"]), delivery(other)
        assert each is not None
        if cost is not None:
            found.append(cost / each.each)
    if not seeds:
        return None
    whole: Interval | float | None = None
    if len(found) == len(seeds):
        whole = found[0] if len(found) == 1 else stats.interval(np.array(found)[:, None], stats.mean)
    return BreakEven(training.label, steering.label, whole, len(found), len(seeds))


def both(problem: Problem) -> tuple[list[Method], list[Method]]:
    """The trained and the steered methods."""
    return [m for m in problem.ordered if trained(m)], [m for m in problem.ordered if steered(m)]


def delivered(problem: Problem) -> Table:
    """Every method at the network rows of a delivered sample, the cheapest first; those that cost the same are together, the best
    reward first. Empty where nothing is trained, or nothing steered."""
    if not all(both(problem)):
        return [], []
    rows = {m.label: average(d.rows for run in m.runs.values() if (d := delivery(run))) for m in problem.methods}
    levels = level_of([value for value in rows.values() if value is not None])
    known = sorted(
        (m for m in problem.methods if rows[m.label] is not None),
        key=lambda m: (levels[rows[m.label] or 0.0], -mean_reward(m)),
    )
    names = ["method", "network rows a sample", "reward", "queries once", "queries a sample"]
    lines = []
    for m in known:
        costs = [d for run in m.runs.values() if (d := delivery(run))]
        once, each = average(d.once for d in costs), average(d.each for d in costs)
        amounts = [average(d.queries(amount) for d in costs) for amount in AMOUNTS]
        level = levels[rows[m.label] or 0.0]
        lines.append(
            [
                m.label,
                shown(level, 0),
                shown(mean_reward(m), 3),
                shown(once, 0),
                shown(each, 2),
                *(shown(a, 0) for a in amounts),
            ]
        )
    return [*names, *(f"queries for {amount:,}" for amount in AMOUNTS)], lines


def level_of(rows: Sequence[float]) -> dict[float, float]:
    """Each number of rows and the one that stands for all that equal it."""
    out: dict[float, float] = {}
    level = 0.0
    for value in sorted(rows):
        level = level if level and value <= SAME * level else value
        out[value] = level
    return out


def mean_reward(method: Method) -> float:
    """After steering or training, over seeds."""
    return float(np.mean([run.summary["reward_after"] for run in method.runs.values()]))


def even(problem: Problem) -> Table:
    """The delivered samples after which each training has paid, a line a steered method and a column a trained one."""
    training, steering = both(problem)
    if not (training and steering):
        return [], []
    lines = [[s.label, shown(mean_reward(s), 3), *(worded(break_even(t, s)) for t in training)] for s in steering]
    return ["steered", "its reward", *(t.label for t in training)], lines


def worded(found: BreakEven | None) -> str:
    """A cell."""
    if found is None:
        return "-"
    if found.samples is None:
        return f"not reached by {found.seeds - found.reached} of {found.seeds}"
    return ranged(found.samples, 0)
