"""The comparison of runs: problems, methods, seeds, scores and intervals, and the conclusion that they allow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.folders import Found, Run
from pgdlab.comparison.methods import (  # fmt: skip
    best_of_n,
    distinguished,
    grouped,
    hashed,
    method_label,
    method_of,
    option,
    problem_label,
    problem_of,
)
from pgdlab.comparison.scale import Optimum, optimum
from pgdlab.comparison.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The settings. folders: run folders, patterns, or folders of run folders. by: declared factors, groups (trainer) or
    keys (optimizer.lr): methods are distinguished by these alone. ceilings: domain -> the reward that counts as a score of 1,
    for domains whose optimum no oracle knows; without one their scores are gains in reward. tuned: method -> how many
    settings were tried before its were chosen. name: of the folder that is written, runs/compare-<name>.
    """

    folders: tuple[str, ...] = ("runs/*",)
    by: tuple[str, ...] = ()
    ceilings: dict[str, float] = field(default_factory=dict)
    tuned: dict[str, int] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class Method:
    """One method on one problem: its runs, and the scores of those that have one, by seed."""

    label: str
    runs: dict[int, Run]
    scores: dict[int, float]

    def column(self, seeds: Sequence[int]) -> np.ndarray:
        """(S, 1): the scores of these seeds."""
        return np.array([[self.scores[seed]] for seed in seeds])


@dataclass(frozen=True)
class Pair:
    """Two methods on their common seeds. difference: of the mean score, first minus second; better: P(first > second);
    adjusted: the p-value after Holm's correction for all pairs of the problem; needed: see statistics.seeds_needed."""

    first: str
    second: str
    seeds: int
    difference: Interval
    better: Interval
    p: float
    adjusted: float
    needed: int | None

    @property
    def sign(self) -> int:
        """1 where the first is significantly better, -1 where the second is, 0 where neither is."""
        clear = self.difference.low > 0 or self.difference.high < 0
        enough = self.seeds >= stats.FEWEST and self.adjusted <= stats.ALPHA and clear
        return int(np.sign(self.difference.value)) if enough else 0


@dataclass(frozen=True)
class Problem:
    """Methods that may be compared: same base, reward, evaluation and budget. scale: a score of 1 is the oracle's
    "optimum" or a declared "ceiling"; with "reward" the score is the gain in reward."""

    label: str
    scale: str
    methods: list[Method]
    notes: list[str]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every two methods, with p-values corrected for their number."""
        two = list(itertools.combinations(self.methods, 2))
        common = [(a, b, sorted(a.scores.keys() & b.scores.keys())) for a, b in two]
        known = [(a, b, seeds) for a, b, seeds in common if len(seeds) > 1]
        p = [stats.sign_flip((a.column(seeds) - b.column(seeds))[:, 0]) for a, b, seeds in known]
        return [
            pair(*one, p[i], adjusted, len(known))
            for i, (one, adjusted) in enumerate(zip(known, stats.holm(p), strict=True))
        ]

    @property
    def ranked(self) -> list[Method]:
        """The methods with scores, the highest mean first."""
        return sorted((m for m in self.methods if m.scores), key=lambda m: -float(np.mean([*m.scores.values()])))

    @property
    def ordered(self) -> list[Method]:
        """All methods: the ranked ones, then those without a score."""
        return self.ranked + [m for m in self.methods if not m.scores]

    def against(self, first: str, second: str) -> Pair | None:
        """The pair of these two, in this order."""
        for p in self.pairs:
            if (p.first, p.second) == (first, second):
                return p
            if (p.second, p.first) == (first, second):
                turned = [Interval(-p.difference.value, -p.difference.high, -p.difference.low)]
                turned.append(Interval(1 - p.better.value, 1 - p.better.high, 1 - p.better.low))
                return Pair(first, second, p.seeds, turned[0], turned[1], p.p, p.adjusted, p.needed)
        return None

    @property
    def winner(self) -> str | None:
        """The method that is significantly better than every other one, if any."""
        if len(self.ranked) < 2:
            return None
        best, *others = self.ranked
        found = [self.against(best.label, other.label) for other in others]
        return best.label if all(p is not None and p.sign == 1 for p in found) else None

    @property
    def verdict(self) -> str:
        """The conclusion, in a sentence or two."""
        if len(self.ranked) < 2:
            return "Nothing to compare: one method alone has this problem, sampler and budget."
        best, second = self.ranked[:2]
        if self.winner:
            return f"“{best.label}” is better than each of the other {len(self.ranked) - 1}, corrected for all pairs."
        found = self.against(best.label, second.label)
        if found is None:
            return f"No winner can be named: “{best.label}” and “{second.label}” have fewer than two seeds in common."
        few = f", of which {stats.FEWEST} are needed at least" if found.seeds < stats.FEWEST else ""
        need = "no number of seeds would tell" if found.needed is None else f"about {found.needed:,} seeds would tell"
        return (
            f"No winner can be named ({found.seeds} paired seeds{few}). “{best.label}” has the highest mean score, "
            f"“{second.label}” the next; if they differ as these seeds say, {need} them apart."
        )


def pair(a: Method, b: Method, seeds: list[int], p: float, adjusted: float, pairs: int) -> Pair:
    """The figures of two methods on their common seeds."""
    x, y = a.column(seeds), b.column(seeds)
    difference = stats.interval(x - y, stats.mean)
    better = stats.interval(x, stats.improvement, y)
    needed = stats.seeds_needed((x - y)[:, 0], pairs)
    return Pair(a.label, b.label, len(seeds), difference, better, p, adjusted, needed)


def problems(found: Found, options: Comparison) -> list[Problem]:
    """The runs by problem; nothing that differs in base, sampler, reward, evaluation or budget shares one."""
    groups = grouped(found.runs, problem_of)
    keys = {k: problem_of(runs[0]) for k, runs in groups.items()}
    labels = distinguished({k: problem_label(runs[0]) for k, runs in groups.items()}, keys)
    return sorted((problem(labels[k], runs, options) for k, runs in groups.items()), key=lambda p: p.label)


def problem(label: str, runs: list[Run], options: Comparison) -> Problem:
    """One problem with its methods."""
    own = grouped(runs, lambda run: {"": best_of_n(run.config), **method_of(run, options.by)})
    keys = {k: method_of(found[0], options.by) for k, found in own.items()}
    labels = distinguished({k: method_label(found[0], options.by) for k, found in own.items()}, keys)
    known, ceiling = optimum(runs), options.ceilings.get(option("domain", runs[0].config.get("domain")))
    scale = "optimum" if runs[0].score is not None or known else "reward" if ceiling is None else "ceiling"
    notes: list[str] = []
    methods = [method(labels[k], found, known or ceiling, notes) for k, found in own.items()]
    return Problem(label, scale, sorted(methods, key=lambda m: m.label), notes + bases(methods))


def method(label: str, runs: list[Run], best: Optimum | float | None, notes: list[str]) -> Method:
    """A method's runs by seed; runs that are left out or pooled are noted."""
    by_seed: dict[int, Run] = {}
    for run in runs:
        if by_seed.setdefault(int(run.summary["seed"]), run) is not run:
            notes.append(f"{run.folder} repeats a seed of {label} and is left out")
    differ = {k for run in by_seed.values() for k in difference(run, next(iter(by_seed.values())))}
    if differ:
        notes.append(f"{label} pools runs that differ in {', '.join(sorted(differ))}")
    seeds = dict(sorted(by_seed.items()))
    scores = {seed: score(run, best) for seed, run in seeds.items()}
    return Method(label, seeds, {seed: value for seed, value in scores.items() if value is not None})


def difference(run: Run, other: Run) -> list[str]:
    """The keys of a method in which two runs differ."""
    a, b = method_of(run), method_of(other)
    return [k for k in a.keys() | b.keys() if hashed({"": a.get(k)}) != hashed({"": b.get(k)})]


def score(run: Run, best: Optimum | float | None) -> float | None:
    """0 for the base of the same seed; 1 for the optimum, or the declared ceiling; with neither the gain in reward. None
    where it needs a KL that is not known."""
    if run.score is not None:
        return run.score
    if isinstance(best, Optimum):
        return best.score(run)
    before, gain = run.summary["reward_before"], run.summary["reward_after"] - run.summary["reward_before"]
    if best is not None and best <= before:
        raise ValueError(
            f"compare.ceilings has {best}; it must be above the reward of the base, which in {run.folder} is {before}"
        )
    return float(gain if best is None else gain / (best - before))


def bases(methods: list[Method]) -> list[str]:
    """A note where runs with the same seed do not have the same base: their noise is not paired."""
    before: dict[int, list[float]] = {}
    for m in methods:
        for seed, run in m.runs.items():
            before.setdefault(seed, []).append(run.summary["reward_before"])
    off = [seed for seed, values in before.items() if max(values) - min(values) > 1e-3 * (1e-3 + max(map(abs, values)))]
    return [
        f"seed {seed}: the base's reward differs between runs, so their bases or noise differ" for seed in sorted(off)
    ]
