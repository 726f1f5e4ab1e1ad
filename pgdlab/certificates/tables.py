"""Certificates to read: a line, a table, a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from pgdlab.certificates.certificate import Row, Share, StudentInterval
from pgdlab.evaluation.pictures import panels
from pgdlab.oracle.tables import tabular

COLUMNS = "problem | algorithm | held against | J | optimum | E[r] | at the optimum | KL | at the optimum | gap"
COLUMNS += " | to 10 % | to 5 %"
LAWS = {"attainable": "attainable, path KL", "tilt": "tilt, final KL"}
DIVERGED = 10.0  # a gap above this is no longer a number to compare


def percent(interval: StudentInterval | None) -> str:
    """A mean with its interval, in percent."""
    if interval is None:
        return "-"
    if interval.mean > DIVERGED:
        return "diverged"
    spread = "" if interval.half is None else f" ± {100 * interval.half:.1f}"
    return f"{100 * interval.mean:.1f}{spread} %"


def number(value: float) -> str:
    """Four decimals, or the order of magnitude."""
    return f"{value:.4f}" if abs(value) < 1e3 else f"{value:.0e}"


def reached(entry: tuple[float | None, int], replicas: int) -> str:
    """Queries to a level; censored ones are shown as such."""
    median, count = entry
    if median is None:
        return f"never ({count} of {replicas} did)" if count else "never"
    return f"{median:,.0f}" + ("" if count == replicas else f" ({count} of {replicas})")


def line(row: Row) -> str:
    """A cell in one line of the terminal."""
    start = f"{row.problem:12} {row.algorithm:20} "
    if row.figures is None:
        return start + f"refused: {row.refused}"
    f = row.figures
    ends = f"gap {percent(row.gap):>14}   queries to 5 %: {reached(row.to_5, row.replicas)}   {row.seconds:.0f} s"
    law = "of the tilt's" if row.law == "tilt" else "of"
    return start + f"J {number(f.objective):>8} {law} {number(f.best):>8}   {ends}"


def markdown(names: list[str], lines: Iterable[list[str]]) -> str:
    """A table in markdown."""
    head = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def certificate_table(rows: list[Row]) -> str:
    """A row a cell; J, KL and gap are by the KL of what the row is held against."""
    return markdown(COLUMNS.split(" | "), [[r.problem, r.algorithm, LAWS[r.law], *cells(r)] for r in rows])


def cells(row: Row) -> list[str]:
    """The figures of a row to read."""
    if row.figures is None:
        return ["refused"] + ["-"] * 8
    f = row.figures
    figures = map(number, (f.objective, f.best, f.reward, f.best_reward, f.kl, f.best_kl))
    return [*figures, percent(row.gap), *(reached(x, row.replicas) for x in (row.to_10, row.to_5))]


def tabular_table(rows: list[tabular.Row]) -> str:
    """The certificate on finite MDPs, a row for each algorithm on each problem."""
    lines = []
    for r in rows:
        gap = f"{100 * r.gap:.2f} % ({100 * r.low:.2f} to {100 * r.high:.2f})"
        queries = ["never" if q is None else f"{q:,.0f}" for q in (r.queries_10, r.queries_5)]
        lines.append([r.problem, r.algorithm, number(r.objective), number(r.optimum), gap, *queries])
    return markdown(["problem", "algorithm", "J", "optimum", "gap", "to 10 %", "to 5 %"], lines)


def share_line(share: Share) -> str:
    """A cell of the eta table in one line of the terminal."""
    if share.optimal is None:
        return f"eta {share.eta}  {share.tuned:9} no policy gradient"
    return f"eta {share.eta}  {share.tuned:9} optimal {100 * share.optimal:5.1f} %   trained {percent(share.trained)}"


def eta_table(shares: list[Share]) -> str:
    """A row an eta, two columns (optimal, trained) for what is tuned."""
    heads = [f"{name}, {kind}" for name in dict.fromkeys(s.tuned for s in shares) for kind in ("optimal", "trained")]
    lines: dict[str, list[str]] = {}
    for s in shares:
        none = s.optimal is None
        shown = ["no gradient", "-"] if none else [f"{100 * (s.optimal or 0):.1f} %", percent(s.trained)]
        lines.setdefault(s.eta, [s.eta]).extend(shown)
    return markdown(["eta", *heads], lines.values())


def eta_picture(shares: list[Share], path: Path) -> None:
    """Shares against eta: lines for the oracle, points with intervals for training."""
    with panels(path, 1, (6.0, 4.0)) as (_, [axis]):
        for i, tuned in enumerate(dict.fromkeys(s.tuned for s in shares)):
            some = [s for s in shares if s.tuned == tuned and s.optimal is not None and s.trained is not None]
            at = [float(s.eta) for s in some]
            axis.plot(at, [100 * (s.optimal or 0) for s in some], color=f"C{i}", label=f"{tuned}: optimal")
            trained = [s.trained for s in some if s.trained is not None]
            middle, half = ([100 * (getattr(t, name) or 0) for t in trained] for name in ("mean", "half"))
            axis.errorbar(at, middle, half, color=f"C{i}", fmt="o", capsize=3, label=f"{tuned}: trained")
        axis.set(xlabel="eta (1: DDPM, 0: deterministic)", ylabel="share of the tilt, %", ylim=(-5, 110))
        axis.legend(frameon=False)


def certificate_picture(rows: list[Row], path: Path) -> None:
    """The gap against reward queries, median over the replicas with its quartiles, a panel for every problem."""
    from matplotlib.ticker import MaxNLocator

    problems = list(dict.fromkeys(r.problem for r in rows))
    names = list(dict.fromkeys(r.algorithm for r in rows))
    size = (4.2 * len(problems), 4.2)
    with panels(path, len(problems), size, dpi=110, sharey=True) as (figure, axes):
        for axis, problem in zip(axes, problems, strict=True):
            for r in (r for r in rows if r.problem == problem and r.curve):
                queries = [q for q, _ in r.curve]
                low, middle, high = torch.tensor([g for _, g in r.curve]).quantile(torch.tensor([0.25, 0.5, 0.75]), 1)
                dashes, colour = divmod(names.index(r.algorithm), 10)
                axis.plot(queries, middle, color=f"C{colour}", label=r.algorithm, ls="--" if dashes else "-")
                axis.fill_between(queries, low, high, color=f"C{colour}", alpha=0.15, lw=0)
            for level in (0.1, 0.05):
                axis.axhline(level, color="grey", lw=0.6, ls=":")
            axis.set(title=problem, xlabel="reward queries", yscale="log", ylim=(1e-4, 3))
            axis.xaxis.set_major_locator(MaxNLocator(4))
        axes[0].set_ylabel("gap to the optimum (1: the base)")
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2 * len(problems), frameon=False)
