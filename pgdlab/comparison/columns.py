"""The comparison's tables: a row a method, and a row a run, as figures; as CSV and as markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.aggregate import FIGURES, Aggregate
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import Run
from pgdlab.comparison.statistics import Interval

BASE = "base, untuned"
OF_INTEREST = ("diversity", "kid", "valid", "unique", "novel", "vun", "fcd", "rings", "sa", "motifs")
Table = tuple[list[str], list[list[str]]]  # names of columns, and lines of cells


@dataclass(frozen=True)
class Column:
    """A figure of a run. digits: behind the point; unit: shown next to its name."""

    key: str
    of: Callable[[Run], float | None]
    digits: int = 3
    unit: str = ""


def after(name: str) -> Callable[[Run], float | None]:
    """A figure of the steered samples."""
    return lambda run: run.evaluation[1].get(name)


def summed(name: str) -> Callable[[Run], float | None]:
    """A figure of the run's summary."""
    return lambda run: run.summary.get(name)


def hacking(run: Run) -> float | None:
    """Hacking index: 1 - (gain of the held-out reward) / (gain of the reward), each in standard deviations of the base's
    samples. 0: the held-out reward follows in full; 1: not at all; above 1: it falls. None where there is no held-out
    reward, either does not vary among the base's samples, or the reward has not risen by two standard errors."""
    base, tuned = run.evaluation
    names = ("heldout", "reward")
    # runs of earlier versions have standard errors alone: as good where both rewards are known of equally many samples
    unit = "std" if all(base.get(f"{name}_std") for name in names) else "stderr"
    gains = []
    for name in names:
        before, after, spread = base.get(name), tuned.get(name), base.get(f"{name}_{unit}")
        if before is None or after is None or not spread:
            return None
        gains.append((after - before) / spread)
    gain, error = run.summary.get("reward_gain"), run.summary.get("reward_gain_stderr")
    if gain is None or error is None:
        return None
    return 1 - gains[0] / gains[1] if gain > 2 * error else None


def unique_queries(run: Run) -> float | None:
    """Samples that a reward with a cache had to compute."""
    return run.curve[-1].get("unique_queries") if run.curve else None


COLUMNS = [
    Column("reward before", summed("reward_before")),
    Column("reward after", summed("reward_after")),
    Column("held out", after("heldout")),
    Column("hacking", hacking, 2, "0: held-out follows, 1: it does not"),
    Column("KL", after("kl_nats"), 2, "nats, whole path"),
    *(Column(name, after(name)) for name in OF_INTEREST),
    Column("queries", summed("reward_queries"), 0, "of the reward"),
    Column("oracle calls", unique_queries, 0, "answers not remembered"),
    Column("per further sample", lambda run: run.summary.get("candidates", 0.0), 2, "queries"),
    Column("network rows", summed("network_evaluations"), 0),
    Column("seconds", summed("training_seconds"), 0, "of training"),
]


@dataclass(frozen=True)
class Row:
    """A method's figures on a problem, means over its seeds; score: the interquartile mean, and its interval,
    None with one seed."""

    label: str
    seeds: int
    figures: dict[str, float | None]
    score: float | None
    score_interval: Interval | None = None


def rows(problem: Problem) -> list[Row]:
    """The methods of a problem, the best first, those without a score after them, and the base."""
    return [row(m) for m in problem.ordered] + [base_row(problem)]


def row(method: Method) -> Row:
    """One method."""
    figures = {c.key: average(c.of(run) for run in method.runs.values()) for c in COLUMNS}
    scores = method.column(list(method.scores))
    if len(scores) < 2:
        return Row(method.label, len(method.runs), figures, average(method.scores.values()))
    found = stats.interval(scores, stats.iqm)
    return Row(method.label, len(method.runs), figures, found.value, found)


def base_row(problem: Problem) -> Row:
    """The pretrained base, as evaluated with the runs: its score is 0 and it costs nothing."""
    by_seed = {seed: run for m in problem.methods for seed, run in m.runs.items()}
    bases = [run.evaluation[0] for run in by_seed.values()]
    figures: dict[str, float | None] = {c.key: None for c in COLUMNS}
    before = average(run.summary["reward_before"] for run in by_seed.values())
    own = {"reward before": before, "reward after": before, "held out": average(b.get("heldout") for b in bases)}
    own |= {"KL": 0.0, "queries": 0.0, "per further sample": 0.0, "network rows": 0.0, "seconds": 0.0}
    own |= {name: average(b.get(name) for b in bases) for name in OF_INTEREST}
    return Row(BASE, len(by_seed), figures | own, 0.0)


def average(values: Iterable[float | None]) -> float | None:
    """Mean of those that are known."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def used(table: Sequence[Row]) -> list[Column]:
    """The columns that a method (not the base alone) has a figure for."""
    return [c for c in COLUMNS if any(r.figures[c.key] is not None for r in table if r.label != BASE)]


def shown(value: float | None, digits: int) -> str:
    """A figure to read; "-" where it is not known."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ranged(value: Interval | float | None, digits: int = 3) -> str:
    """`value [low, high]`, or the value alone where no interval is known (one seed has none)."""
    if not isinstance(value, Interval):
        return shown(value, digits)
    wide = f" [{shown(value.low, digits)}, {shown(value.high, digits)}]" if value.low < value.high else ""
    return shown(value.value, digits) + wide


def score_name(problem: Problem) -> str:
    """The name of a problem's score."""
    return {"optimum": "score (1: optimum)", "ceiling": "score (1: ceiling)", "reward": "gain in reward"}[problem.scale]


def method_table(problem: Problem) -> Table:
    """A problem's methods and the base, to read."""
    table = rows(problem)
    columns = used(table)
    lines = [
        [
            r.label,
            str(r.seeds),
            ranged(r.score_interval or r.score),
            *(shown(r.figures[c.key], c.digits) for c in columns),
        ]
        for r in table
    ]
    return ["method", "seeds", score_name(problem), *(c.key for c in columns)], lines


def seed_table(problem: Problem) -> Table:
    """The score of every seed, a line a seed and a column a method; "-" where a method did not run it."""
    methods = problem.ordered
    seeds = sorted({seed for m in methods for seed in m.runs})
    lines = [[str(seed), *(shown(m.scores.get(seed), 3) for m in methods)] for seed in seeds]
    return ["seed", *(m.label for m in methods)], lines


def aggregate_table(found: Aggregate) -> Table:
    """The methods over all problems, the highest interquartile mean first."""
    order = sorted(found.figures, key=lambda label: -found.figures[label]["IQM"].value)
    return ["method", *FIGURES], [[label, *map(ranged, found.figures[label].values())] for label in order]


def markdown(table: Table) -> str:
    """A table in markdown."""
    names, *lines = ([plain(cell) for cell in line] for line in (table[0], *table[1]))
    return "\n".join("| " + " | ".join(line) + " |" for line in (names, ["---"] * len(names), *lines)) + "\n"


MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", "|": "&#124;"})


def plain(text: str) -> str:
    """Text of a run, which anybody may have written, in markdown: a line without tags, cells, links and images of its own."""
    return " ".join(text.translate(MARKDOWN).replace("](", r"]\(").split())


LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def latex(table: Table, caption: str) -> str:
    """A table in LaTeX, over both columns of a page, with the rules of the package booktabs."""
    head = " & ".join(name.translate(LATEX) for name in table[0])
    body = "\n".join("  " + " & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in table[1])
    columns = "l" + "r" * (len(table[0]) - 1)
    return (
        f"\\begin{{table*}}\n\\centering\\small\n\\caption{{{caption.translate(LATEX)}}}\n\\begin{{tabular}}{{{columns}}}\n"
        f"  \\toprule\n  {head} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n\\end{{tabular}}\n\\end{{table*}}\n"
    )


def methods_csv(problems: Sequence[Problem]) -> str:
    """A row for every method of every problem, with all figures."""
    out = []
    for p in problems:
        for r in rows(p):
            interval = r.score_interval
            low, high = (interval.low, interval.high) if interval else (None, None)
            known = {"problem": p.label, "method": r.label, "seeds": r.seeds, "scale": p.scale, "score": r.score}
            covered = stats.coverage(r.seeds) if interval else None
            out.append(known | {"score_low": low, "score_high": high, "coverage": covered} | r.figures)
    return as_csv(out)


def runs_csv(problems: Sequence[Problem]) -> str:
    """A row for every run."""
    out: list[dict[str, Any]] = []
    for p in problems:
        for m in p.methods:
            for seed, run in m.runs.items():
                known = {"problem": p.label, "method": m.label, "seed": seed, "folder": str(run.folder)}
                out.append(known | {"score": m.scores.get(seed)} | {c.key: c.of(run) for c in COLUMNS})
    return as_csv(out)


def as_csv(table: list[dict[str, Any]]) -> str:
    """Rows with the same keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
