"""The comparison as one self-contained HTML page: charts and pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from pgdlab.comparison import charts
from pgdlab.comparison import statistics as stats
from pgdlab.comparison.aggregate import FIGURES, Aggregate
from pgdlab.comparison.columns import BASE, cells, heads, ranged, rows, shown, used
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import Failure

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; max-width: 1340px; margin: 2em auto; padding: 0 1.2em }
h1 { font-size: 1.7em; margin-bottom: .2em } h2 { font-size: 1.2em; margin: 2.2em 0 .3em; border-top: 1px solid #ddd;
padding-top: 1em } p { margin: .4em 0 } .verdict { font-weight: 600 } .note, figcaption { color: #666; font-size: .86em }
.row { display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start } figure { margin: .8em 0; display: table }
figcaption { display: table-caption; caption-side: bottom; padding: .2em }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .84em; margin: .8em 0 }
th, td { padding: .25em .55em; text-align: right; white-space: nowrap; border-bottom: 1px solid #eee }
th { font-weight: 600; border-bottom: 1px solid #999; white-space: normal; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
table.wrap th, td.wrap { white-space: normal; text-align: left } tr.base td { color: #666; font-style: italic }
.swatch { display: inline-block; width: .75em; height: .75em; margin-right: .5em; border-radius: 2px }
details { margin: .4em 0 } summary { cursor: pointer; color: #345 } img { max-width: 100% }
"""
READING = (
    "Each problem is one base, sampler, reward, evaluation and budget of reward queries; what differs in these is never put "
    "into one table. A score is 0 for the untuned base of the same seed and 1 for the optimum or the declared ceiling; where "
    "neither is known it is the gain in reward. Seeds are paired: the same seed is the same noise."
)


@dataclass(frozen=True)
class Report:
    """All that the page shows. others: folders of other tasks among those that were named."""

    problems: list[Problem]
    aggregate: Aggregate | None
    failures: list[Failure]
    others: int = 0


def page(report: Report) -> str:
    """The whole page."""
    colours = charts.palette([m.label for p in report.problems for m in p.methods])
    several = [p for p in report.problems if len(p.methods) > 1]
    alone = [p for p in report.problems if len(p.methods) < 2]
    parts = [head(report, several)]
    if report.aggregate is not None:
        parts.append(together(report.aggregate, colours))
    parts += [section(p, i, colours) for i, p in enumerate(several)]
    parts += [single(alone, colours), failed(report.failures), cautions()]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Comparison</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def head(report: Report, several: Sequence[Problem]) -> str:
    """What there is, and a line on every problem that has something to compare."""
    runs = sum(len(m.runs) for p in report.problems for m in p.methods)
    labels = {m.label for p in report.problems for m in p.methods}
    counts = f"{many(runs, 'run')} of {many(len(labels), 'method')} on {many(len(report.problems), 'problem')}"
    counts += f"; {many(len(report.failures), 'run')} did not finish" if report.failures else "; none failed"
    lines = [[f'<a href="#p{i}">{escape(p.label)}</a>', escape(p.verdict)] for i, p in enumerate(several)]
    said = table(["problem", "what may be said"], lines, wrap=True) if lines else ""
    return f"<h1>Comparison</h1><p>{counts}.</p>{said}<p class=note>{escape(READING)}</p>"


def many(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(names: Sequence[str], lines: Iterable[Sequence[str]], wrap: bool = False, last: str = "") -> str:
    """Rows of HTML cells; last: the class of the last row."""
    kind = " class=wrap" if wrap else ""
    body = [f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell in line)}</tr>" for line in lines]
    if last and body:
        body[-1] = body[-1].replace("<tr>", f"<tr class={last}>", 1)
    top = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"<div class=scroll><table{kind}><tr>{top}</tr>{''.join(body)}</table></div>"


def section(problem: Problem, number: int, colours: dict[str, str]) -> str:
    """One problem: what may be said, charts, the table, pictures, pairs, notes."""
    spread = charts.spread_of(problem)
    dots = "Dots are seeds, bars the interquartile mean and its interval"
    dots += "; what is below -0.5 is cut." if problem.scale == "optimum" else "."
    drawn = [
        (problem.ranked and charts.scores(problem, colours), dots),
        (charts.efficiency(problem, colours), "Reward while training, 95 % interval over seeds; dots: evaluated afterwards."),
        (charts.frontier(problem, colours, "kl_nats", "nats from the base"), "What the reward costs in KL; dashed: no KL known."),
        (spread and charts.frontier(problem, colours, spread, spread), "What it costs in diversity; x: the base."),
    ]  # fmt: skip
    figures = "".join(figure(svg, caption) for svg, caption in drawn if svg)
    return (
        f'<h2 id="p{number}">{escape(problem.label)}</h2><p class=verdict>{escape(problem.verdict)}</p>'
        f"<div class=row>{figures}</div>{methods(problem, colours)}{pictures(problem.ordered)}{pairs(problem)}{noted(problem)}"
    )


def single(alone: Sequence[Problem], colours: dict[str, str]) -> str:
    """Problems with one method, to unfold."""
    parts = [
        f"<details><summary>{escape(p.label)}: {escape(p.methods[0].label)}</summary>"
        f"{methods(p, colours)}{pictures(p.methods)}{noted(p)}</details>"
        for p in alone
    ]
    return f"<h2>Problems with one method: nothing to compare</h2>{''.join(parts)}" if parts else ""


def noted(problem: Problem) -> str:
    """The problem's notes."""
    return "".join(f"<p class=note>Note: {escape(note)}.</p>" for note in problem.notes)


def figure(svg: str, caption: str) -> str:
    """A chart as an image of its own, so that names inside cannot meet those of another."""
    return picture(f"svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", caption)


def picture(data: str, caption: str) -> str:
    """An image that is in the page itself, and what it shows."""
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/{data}"><figcaption>{text}</figcaption></figure>'


def methods(problem: Problem, colours: dict[str, str]) -> str:
    """The table of methods, with the coverage of its intervals."""
    found = rows(problem)
    columns = used(found)
    lines = []
    for one in found:
        name, *rest = (escape(cell) for cell in cells(problem, one, columns))
        mark = f'<span class=swatch style="background:{colours.get(one.label, charts.BASE_COLOUR)}"></span>'
        lines.append([mark + name, *rest])
    counts = sorted({r.seeds for r in found if r.score_interval and r.label != BASE})
    covered = ", ".join(f"{100 * stats.coverage(n):.0f} % with {n} seeds" for n in counts)
    said = (
        f"In brackets: 95 % intervals of the bootstrap over seeds. Measured, they hold the truth less often: {covered}."
    )
    said = said if covered else "One seed each: no intervals."
    units = "; ".join(f"{c.key}: {c.unit}" for c in columns if c.unit)
    text = f"<p class=note>{escape(said)} {escape(units[:1].upper() + units[1:])}.</p>"
    return table(heads(problem, columns), lines, last="base") + text


def pictures(ranked: Sequence[Method]) -> str:
    """Before and after of the best method, and of the others to unfold: of the first seed of each."""
    shots = []
    for method in ranked:
        seed, run = next(iter(method.runs.items()))
        file = run.folder / "before_after.png"
        if file.is_file():
            data = base64.b64encode(file.read_bytes()).decode()
            name = f"{method.label}, seed {seed}: the same noise through the base and after"
            shots.append(picture(f"png;base64,{data}", name))
    if not shots:
        return ""
    rest = f"<details><summary>Pictures of the others</summary>{''.join(shots[1:])}</details>" if shots[1:] else ""
    return shots[0] + rest


def pairs(problem: Problem) -> str:
    """Every two methods, to unfold."""
    names = ["pair", "seeds", "difference of scores", "P(first better)", "p", "p, Holm", "seeds that would tell"]
    lines = [
        [
            escape(f"{p.first} - {p.second}"), str(p.seeds), ranged(p.difference.value, p.difference),
            ranged(p.better.value, p.better, 2), shown(p.p, 3), shown(p.adjusted, 3) + (" *" if p.sign else ""),
            "-" if p.needed is None else f"{p.needed:,}",
        ]
        for p in problem.pairs
    ]  # fmt: skip
    if not lines:
        return ""
    return f"<details><summary>All {len(lines)} pairs of methods</summary>{table(names, lines)}</details>"


def together(found: Aggregate, colours: dict[str, str]) -> str:
    """Methods over all problems that they share."""
    seeds, problems = found.shape
    order = sorted(found.figures, key=lambda label: -found.figures[label]["IQM"].value)
    lines = [[escape(label), *(ranged(i.value, i) for i in found.figures[label].values())] for label in order]
    matrix = [
        [escape(a), *("" if a == b else ranged(found.better[a, b].value, found.better[a, b], 2) for b in order)]
        for a in order
    ]
    charted = figure(charts.means(found, colours), "Interquartile mean over problems and seeds, 95 % interval.")
    charted += figure(
        charts.profiles(found, colours), "Performance profiles: the share of runs with a score above each value."
    )
    covered = f"{many(seeds, 'seed')} of {many(problems, 'problem')}: {', '.join(found.problems)}"
    measured = f"95 % intervals, stratified bootstrap; measured coverage {100 * stats.coverage(seeds, problems):.0f} %"
    measured = measured if seeds > 1 else "One seed each: no intervals"
    return (
        f"<h2>All problems together</h2><p class=note>{escape(covered)}. {measured}.</p><div class=row>{charted}</div>"
        + table(["method", *FIGURES], lines)
        + "<details><summary>Probability that the row's method is better than the column's</summary>"
        + table(["", *order], matrix)
        + "</details>"
    )


def failed(failures: Sequence[Failure]) -> str:
    """The runs that came to nothing."""
    if not failures:
        return ""
    lines = [[escape(str(f.folder)), escape(f.reason)] for f in failures]
    return "<h2>Runs that did not finish</h2>" + table(["folder", "why"], lines, wrap=True)


def cautions() -> str:
    """What to keep in mind."""
    return (
        "<h2>Cautions</h2><p class=note>A winner is named where each other method is behind with a corrected sign-flip p-value "
        f"of at most {stats.ALPHA}, an interval of the difference that does not hold 0, and {stats.FEWEST} paired seeds or "
        "more. Seeds that would tell: for a power of 80 %, from the mean and scatter of the differences seen, so a rough guess "
        "from few seeds. The KL of a trained policy is of whole paths; best-of-n has none that could be computed. Its cost "
        "comes again with each further sample. KID and diversity change by design where samples of all kinds are steered to "
        "one.</p>"
    )
