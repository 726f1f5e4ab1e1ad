"""Charts of train or steer: reward over the queries of a delivered sample, and over KL."""

from __future__ import annotations

import numpy as np

from pgdlab.comparison.charts import BASE_COLOUR, Chart, before, chart
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.delivery import AMOUNTS, both, delivery, mean_reward
from pgdlab.comparison.folders import Run
from pgdlab.comparison.styles import Style


def costs(problem: Problem, look: dict[str, Style]) -> Chart | None:
    """A steered method is a point with its seeds, a training a line: its queries by 10,000 to 100 delivered samples."""
    training, steering = both(problem)
    if not (training and steering):
        return None
    out: list[Chart] = []
    with chart(2.75, 2.6, out, [m.label for m in problem.methods]) as axis:
        for m in steering:
            at = [(d.each, run.summary["reward_after"]) for run in m.runs.values() if (d := delivery(run))]
            axis.plot(*np.array(at).T, **look[m.label].point, ms=4, alpha=0.6)
            axis.plot(*np.array(at).mean(0), **look[m.label].point, ms=8, label=m.label)
        for m in training:
            once = np.mean([d.once for run in m.runs.values() if (d := delivery(run))])
            ends, reward = [once / amount for amount in AMOUNTS], mean_reward(m)
            axis.plot(ends, [reward] * len(ends), **look[m.label].line, label=m.label)
        axis.axhline(before(problem), color=BASE_COLOUR, lw=1, ls=":")
        axis.set(xscale="log", xlabel="queries a delivered sample", ylabel="reward")
    return out[0]


def law_kl(problem: Problem, look: dict[str, Style]) -> Chart | None:
    """Full points: KL of whole paths; hollow: of samples, an estimate of KL(law aimed at || base), or the bound of a choice among
    n. Both in nats, not one axis."""
    training, steering = both(problem)
    points = {m.label: distances(m) for m in problem.methods}
    if not (training and any(at for m in steering for _, at, _ in points[m.label])):
        return None
    out: list[Chart] = []
    with chart(2.75, 2.6, out, [label for label, found in points.items() if found]) as axis:
        for label, found in points.items():
            for i, (paths, at, reward) in enumerate(found):
                filling = {} if paths else {"mfc": "none", "mec": look[label].colour, "mew": 1.2}
                axis.plot(at, reward, **(look[label].point | filling), ms=6, label=None if i else label)
        axis.plot(0, before(problem), "x", color=BASE_COLOUR, ms=7)
        axis.set(xlabel="nats from the base", ylabel="reward")
    return out[0]


def distances(method: Method) -> list[tuple[bool, float, float]]:
    """Of the runs that know one: whether it is of paths, the KL, and the reward."""
    found = [(distance(run), run.summary["reward_after"]) for run in method.runs.values()]
    return [(*kl, reward) for kl, reward in found if kl is not None]


def distance(run: Run) -> tuple[bool, float] | None:
    """The KL of its paths, else of the law that it aims at, else what it is at most, in nats."""
    if (paths := run.evaluation[1].get("kl_nats")) is not None:
        return True, paths
    known = [run.summary.get(name) for name in ("kl_estimate_nats", "kl_bound_nats")]
    return next(((False, kl) for kl in known if kl is not None), None)
