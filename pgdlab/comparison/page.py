"""The comparison as one HTML page: the data that page.html.jinja lays out."""

from __future__ import annotations

import base64
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from pgdlab.comparison import charts
from pgdlab.comparison import statistics as stats
from pgdlab.comparison.aggregate import Aggregate
from pgdlab.comparison.columns import BASE, Table, aggregate_table, method_table, ranged, rows, shown, used
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import Failure

PAIRS = ["pair", "seeds", "difference of scores", "P(first better)", "p", "p, Holm", "seeds for 80 % power"]


@dataclass(frozen=True)
class Report:
    """The contents of the page. others: folders of other tasks among those that were named."""

    problems: list[Problem]
    aggregate: Aggregate | None
    failures: list[Failure]
    others: int = 0


class Picture(NamedTuple):
    """An image that is in the page itself, as the end of a data URI, and its caption."""

    data: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A problem. covered: numbers of seeds, and how often intervals of so many hold the truth; units: of the columns."""

    problem: Problem
    charts: list[Picture]
    table: Table
    covered: list[tuple[int, float]]
    units: str
    pictures: list[Picture]
    pairs: Table

    @classmethod
    def of(cls, problem: Problem, colours: dict[str, str]) -> Section:
        """The section of a problem; charts only where it has methods to compare."""
        found = rows(problem)
        units = "; ".join(f"{c.key}: {c.unit}" for c in used(found) if c.unit)
        seeds = sorted({r.seeds for r in found if r.score_interval and r.label != BASE})
        drawn = charted(problem, colours) if len(problem.methods) > 1 else []
        return cls(
            problem, drawn, method_table(problem), [(n, stats.coverage(n)) for n in seeds],
            units[:1].upper() + units[1:], before_after(problem.ordered), pairs(problem),
        )  # fmt: skip


def page(report: Report) -> str:
    """The whole page."""
    methods = [m for p in report.problems for m in p.methods]
    colours = charts.palette([m.label for m in methods])
    sections = [Section.of(p, colours) for p in report.problems]
    pages = Environment(loader=PackageLoader("pgdlab", "comparison"), autoescape=True, undefined=StrictUndefined)
    pages.filters["many"] = many
    return pages.get_template("page.html.jinja").render(
        report=report,
        colours=colours | {BASE: charts.BASE_COLOUR},
        runs=[run for m in methods for run in m.runs],
        methods={m.label for m in methods},
        compared=[s for s in sections if len(s.problem.methods) > 1],
        alone=[s for s in sections if len(s.problem.methods) < 2],
        failures=[(f.folder, f.reason) for f in report.failures],
        coverage=stats.coverage, alpha=stats.ALPHA, fewest=stats.FEWEST,
        **({} if report.aggregate is None else together(report.aggregate, colours)),
    )  # fmt: skip


def many(counted: Sized | int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    count = counted if isinstance(counted, int) else len(counted)
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def chart(svg: str, caption: str) -> Picture:
    """A chart as an image of its own, so that names inside cannot meet those of another."""
    return Picture(f"svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", caption)


def charted(problem: Problem, colours: dict[str, str]) -> list[Picture]:
    """The charts of a problem, as far as it has figures for them."""
    spread = charts.spread_of(problem)
    dots = "Dots are seeds, bars the interquartile mean and its interval"
    dots += "; what is below -0.5 is cut." if problem.scale == "optimum" else "."
    drawn = [
        (problem.ranked and charts.scores(problem, colours), dots),
        (charts.efficiency(problem, colours), "Reward while training, 95 % interval over seeds; dots: evaluated afterwards."),
        (charts.frontier(problem, colours, "kl_nats", "nats from the base"), "What the reward costs in KL; dashed: no KL known."),
        (spread and charts.frontier(problem, colours, spread, spread), "What it costs in diversity; x: the base."),
    ]  # fmt: skip
    return [chart(svg, caption) for svg, caption in drawn if svg]


def before_after(ranked: Sequence[Method]) -> list[Picture]:
    """Before and after of every method's first seed, the best method first."""
    out = []
    for method in ranked:
        seed, run = next(iter(method.runs.items()))
        file = run.folder / "before_after.png"
        if file.is_file():
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


def together(found: Aggregate, colours: dict[str, str]) -> dict[str, Table | list[Picture]]:
    """Methods over all problems that they share: charts, and the probability that one is better than another."""
    table = aggregate_table(found)
    order = [line[0] for line in table[1]]
    better = [[a, *("" if a == b else ranged(found.better[a, b], 2) for b in order)] for a in order]
    drawn = [
        chart(charts.means(found, colours), "Interquartile mean over problems and seeds, 95 % interval."),
        chart(
            charts.profiles(found, colours), "Performance profiles: the share of runs with a score above each value."
        ),
    ]
    return {"aggregate_table": table, "better_table": (["", *order], better), "together": drawn}
