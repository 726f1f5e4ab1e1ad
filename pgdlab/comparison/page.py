"""The comparison as one HTML page: the data that page.html.jinja lays out."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from pgdlab.comparison import charts, columns
from pgdlab.comparison import statistics as stats
from pgdlab.comparison.aggregate import Aggregate
from pgdlab.comparison.charts import Chart
from pgdlab.comparison.columns import BASE, Table, ranged, shown
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.delivery import delivered, even
from pgdlab.comparison.delivery_charts import costs, law_kl
from pgdlab.comparison.equal_kl import frontier
from pgdlab.comparison.folders import Failure
from pgdlab.comparison.provenance import mixed, origins, settings, tuning
from pgdlab.comparison.styles import BASE_STYLE, Style, styles

PAIRS = ["pair", "seeds", "difference of scores", "P(first better)", "p", "p, Holm", "seeds for 80 % power"]
GLOSSARY = {
    "base": "the pretrained model before it was steered; its score is 0",
    "best of n": "no training: of n samples of the base the one with the highest reward, at as many reward queries",
    "delivered sample": "a sample that is given out: free of queries after training, at some queries each where it is steered",
    "gain in reward": "mean reward after steering minus that of the base on the same noise",
    "hacking": "0 where the held-out reward rises as the reward does, in standard deviations of the base; 1: not at all",
    "held out": "a reward of the same intent that training never saw",
    "interval": "95 % percentiles of 2,000 bootstrap resamples of the seeds; how often they hold the truth is printed beside",
    "IQM": "interquartile mean: of the middle half of all scores",
    "KL": "Kullback-Leibler divergence of whole denoising paths from the base's, in nats: how far a policy has moved",
    "optimality gap": "1 minus the mean of scores that are cut at 1",
    "p, Holm": "exact sign-flip test of paired seeds, corrected for all pairs of methods",
    "performance profile": "the share of runs with a score above each value",
    "queries": "samples that the reward was asked about while training: the budget that methods of a problem share",
    "score": "0 for the base of the same seed, 1 for the optimum or a declared ceiling",
    "seed": "one run; the same seed is the same noise in every method",
}


class Picture(NamedTuple):
    """An image that is in the page itself, as the end of a data URI, and its caption; chart: what it was drawn from, and the
    name of its files."""

    data: str
    caption: str
    chart: Chart | None = None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A problem. covered: numbers of seeds, and how often intervals of so many hold the truth; units: of the columns; equal:
    rewards at equal KL; delivered: costs of a sample; even: when training has paid; tuning: how settings were chosen."""

    problem: Problem
    charts: list[Picture]
    table: Table
    covered: list[tuple[int, float]]
    units: str
    pictures: list[Picture]
    pairs: Table
    seeds: Table
    equal: Table
    delivered: Table
    even: Table
    settings: Table
    origins: Table
    tuning: str
    notes: list[str]

    @classmethod
    def of(cls, problem: Problem, look: dict[str, Style], tried: Mapping[str, int]) -> Section:
        """The section of a problem; charts only where it has methods to compare."""
        found = columns.rows(problem)
        units = "; ".join(f"{c.key}: {c.unit}" for c in columns.used(found) if c.unit)
        seeds = sorted({r.seeds for r in found if r.score_interval and r.label != BASE})
        equal, unknown = equal_kl(problem)
        return cls(
            problem=problem,
            charts=charted(problem, look) if len(problem.methods) > 1 else [],
            table=columns.method_table(problem),
            covered=[(n, stats.coverage(n)) for n in seeds],
            units=units[:1].upper() + units[1:],
            pictures=before_after(problem.ordered),
            pairs=pairs(problem),
            seeds=columns.seed_table(problem),
            equal=equal,
            delivered=delivered(problem),
            even=even(problem),
            settings=settings(problem),
            origins=origins(problem),
            tuning=tuning(problem, tried),
            notes=problem.notes + unknown + mixed(problem),
        )


@dataclass(frozen=True)
class Report:
    """The contents of the page. others: folders of other tasks among those that were named; tuned: see Comparison."""

    problems: list[Problem]
    aggregate: Aggregate | None
    failures: list[Failure]
    others: int = 0
    tuned: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def look(self) -> dict[str, Style]:
        """The style of every method."""
        return styles([m.label for p in self.problems for m in p.methods])

    @cached_property
    def sections(self) -> list[Section]:
        """A section a problem."""
        return [Section.of(p, self.look, self.tuned) for p in self.problems]

    @cached_property
    def overall(self) -> list[Picture]:
        """The charts over all problems."""
        if self.aggregate is None:
            return []
        means = "Interquartile mean over problems and seeds, 95 % interval."
        profiles = "Performance profiles: the share of runs with a score above each value."
        return [
            picture(charts.means(self.aggregate, self.look), means, "means"),
            picture(charts.profiles(self.aggregate, self.look), profiles, "profiles"),
        ]

    @property
    def figures(self) -> dict[str, Chart]:
        """Every chart of the page by the name of its files."""
        named = [("all", shown) for shown in self.overall]
        named += [(f"{i}-{slug(s.problem.label)}", p) for i, s in enumerate(self.sections, 1) for p in s.charts]
        return {f"{prefix}-{p.name}": p.chart for prefix, p in named if p.chart is not None}


def page(report: Report) -> str:
    """The whole page."""
    pages = Environment(loader=PackageLoader("pgdlab", "comparison"), autoescape=True, undefined=StrictUndefined)
    pages.filters["many"] = many
    methods = [m for p in report.problems for m in p.methods]
    return pages.get_template("page.html.jinja").render(
        report=report,
        look=report.look | {BASE: BASE_STYLE},
        runs=[run for m in methods for run in m.runs],
        methods={m.label for m in methods},
        compared=[s for s in report.sections if len(s.problem.methods) > 1],
        alone=[s for s in report.sections if len(s.problem.methods) < 2],
        failures=[(f.folder, f.reason) for f in report.failures],
        coverage=stats.coverage, alpha=stats.ALPHA, fewest=stats.FEWEST, glossary=GLOSSARY,
        **({} if report.aggregate is None else together(report.aggregate)),
    )  # fmt: skip


def many(counted: Sized | int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    count = counted if isinstance(counted, int) else len(counted)
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def slug(label: str) -> str:
    """A problem's label as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower())[:48].strip("-")


def picture(chart: Chart, caption: str, name: str) -> Picture:
    """A chart as an image of its own, so that names inside cannot meet those of another."""
    return Picture(f"svg+xml;base64,{base64.b64encode(chart.svg.encode()).decode()}", caption, chart, name)


def charted(problem: Problem, look: dict[str, Style]) -> list[Picture]:
    """The charts of a problem, as far as it has figures for them."""
    spread = charts.spread_of(problem)
    dots = "Dots are seeds, bars the interquartile mean and its interval"
    dots += "; what is below -0.5 is cut." if problem.scale == "optimum" else "."
    learning = "Reward while training, 95 % interval over seeds; dots: evaluated afterwards."
    paths = "What it costs in KL of whole paths; dashed: not known."
    queries = "Reward at the queries of a delivered sample; line: a training's, for 10,000 to 100 of them."
    drawn: list[tuple[Chart | str | None, str, str]] = [
        (charts.scores(problem, look) if problem.ranked else None, dots, "scores"),
        (charts.efficiency(problem, look), learning, "queries"),
        (charts.frontier(problem, look, "kl_nats", "nats from the base"), paths, "kl"),
        (charts.at_equal_kl(problem, look), "Reward while training at equal KL; dotted: as far as all came.", "equal-kl"),
        (costs(problem, look), queries, "delivered"),
        (law_kl(problem, look), "Reward over KL. Full: of whole paths; hollow: of the law aimed at, or a bound.", "law-kl"),
        (spread and charts.frontier(problem, look, spread, spread), "What it costs in diversity; x: the base.", "diversity"),
    ]  # fmt: skip
    return [picture(chart, caption, name) for chart, caption, name in drawn if isinstance(chart, Chart)]


def equal_kl(problem: Problem) -> tuple[Table, list[str]]:
    """Rewards at equal KL, and a note of the methods whose KL while training is not known."""
    found = frontier(problem)
    if found is None:
        return ([], []), []
    lines = [[label, *map(ranged, values)] for label, values in found.rewards.items()]
    names = ", ".join(found.unknown)
    note = [f"{names}: no KL is known while training, so no reward at equal KL"] if names else []
    return (["method", *(f"reward at {level:.2g} nats" for level in found.levels)], lines), note


def before_after(ranked: Sequence[Method]) -> list[Picture]:
    """Before and after of every method's first seed, the best method first."""
    out = []
    for method in ranked:
        seed, run = next(iter(method.runs.items()))
        file = run.folder / "before_after.png"
        if file.is_file() and not file.is_symlink():
            data = base64.b64encode(file.read_bytes()).decode()
            caption = f"{method.label}, seed {seed}: the same noise through the base and after"
            out.append(Picture(f"png;base64,{data}", caption))
    return out


def pairs(problem: Problem) -> Table:
    """Every two methods."""
    return PAIRS, [
        [
            f"{p.first} - {p.second}", str(p.seeds), ranged(p.difference), ranged(p.better, 2), shown(p.p, 3),
            shown(p.adjusted, 3) + (" *" if p.sign else ""), "-" if p.needed is None else f"{p.needed:,}",
        ]
        for p in problem.pairs
    ]  # fmt: skip


def together(found: Aggregate) -> dict[str, Table]:
    """Methods over all problems that they share, and the probability that one is better than another."""
    table = columns.aggregate_table(found)
    order = [line[0] for line in table[1]]
    better = [[a, *("" if a == b else ranged(found.better[a, b], 2) for b in order)] for a in order]
    return {"aggregate_table": table, "better_table": (["", *order], better)}
