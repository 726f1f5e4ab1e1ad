"""What a certificate looks like: a line, a table, a picture."""

from __future__ import annotations

from pathlib import Path

import torch

from pgdlab.certificates.certificate import Interval, Row, Share
from pgdlab.oracle.tables import tabular

COLUMNS = "problem | algorithm | J | optimum | E[r] | at the optimum | KL | at the optimum | gap | to 10 % | to 5 %"
DIVERGED = 10.0  # a gap above this is no longer a number to compare


def percent(interval: Interval | None) -> str:
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
    return start + f"J {number(f.objective):>8} of {number(f.best):>8}   {ends}"


def certificate_table(rows: list[Row]) -> str:
    """A table in markdown, one row a cell."""
    lines = [f"| {COLUMNS} |", "|" + "---|" * (COLUMNS.count("|") + 1)]
    for r in rows:
        cells = ["refused"] + ["-"] * 8
        if r.figures is not None:
            f = r.figures
            figures = (f.objective, f.best, f.reward, f.best_reward, f.kl, f.best_kl)
            cells = [*map(number, figures), percent(r.gap), *(reached(x, r.replicas) for x in (r.to_10, r.to_5))]
        lines.append("| " + " | ".join([r.problem, r.algorithm, *cells]) + " |")
    return "\n".join(lines) + "\n"


def tabular_table(rows: list[tabular.Row]) -> str:
    """The certificate on finite MDPs in markdown."""
    lines = ["| problem | algorithm | J | optimum | gap | to 10 % | to 5 % |", "|" + "---|" * 7]
    for r in rows:
        gap = f"{100 * r.gap:.2f} % ({100 * r.low:.2f} to {100 * r.high:.2f})"
        queries = ["never" if q is None else f"{q:,.0f}" for q in (r.queries_10, r.queries_5)]
        figures = [number(r.objective), number(r.optimum), gap, *queries]
        lines.append("| " + " | ".join([r.problem, r.algorithm, *figures]) + " |")
    return "\n".join(lines) + "\n"


def share_line(share: Share) -> str:
    """A cell of the eta table in one line of the terminal."""
    if share.optimal is None:
        return f"eta {share.eta}  {share.tuned:9} no policy gradient"
    return f"eta {share.eta}  {share.tuned:9} optimal {100 * share.optimal:5.1f} %   trained {percent(share.trained)}"


def eta_table(shares: list[Share]) -> str:
    """A table in markdown: a row an eta, two columns (optimal, trained) for what is tuned."""
    tuned = list(dict.fromkeys(s.tuned for s in shares))
    heads = [f"{name}, {kind}" for name in tuned for kind in ("optimal", "trained")]
    lines = ["| eta | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for eta in dict.fromkeys(s.eta for s in shares):
        cells = []
        for s in (s for s in shares if s.eta == eta):
            none = s.optimal is None
            cells += ["no gradient", "-"] if none else [f"{100 * (s.optimal or 0):.1f} %", percent(s.trained)]
        lines.append("| " + " | ".join([eta, *cells]) + " |")
    return "\n".join(lines) + "\n"


def eta_picture(shares: list[Share], path: Path) -> None:
    """Shares against eta: lines for the oracle, points with intervals for training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for i, tuned in enumerate(dict.fromkeys(s.tuned for s in shares)):
        some = [s for s in shares if s.tuned == tuned and s.optimal is not None and s.trained is not None]
        at = [float(s.eta) for s in some]
        axis.plot(at, [100 * (s.optimal or 0) for s in some], color=f"C{i}", label=f"{tuned}: optimal")
        trained = [s.trained for s in some if s.trained is not None]
        middle, half = ([100 * (getattr(t, name) or 0) for t in trained] for name in ("mean", "half"))
        axis.errorbar(at, middle, half, color=f"C{i}", fmt="o", capsize=3, label=f"{tuned}: trained")
    axis.set(xlabel="eta (1: DDPM, 0: deterministic)", ylabel="share of the tilt, %", ylim=(-5, 110))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def certificate_picture(rows: list[Row], path: Path) -> None:
    """The gap against reward queries, median over the replicas with its quartiles, a panel for every problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    problems = list(dict.fromkeys(r.problem for r in rows))
    names = list(dict.fromkeys(r.algorithm for r in rows))
    size = (4.2 * len(problems), 4.2)
    figure, axes = plt.subplots(1, len(problems), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, problem in zip(axes[0], problems, strict=True):
        for r in (r for r in rows if r.problem == problem and r.curve):
            queries = [q for q, _ in r.curve]
            low, middle, high = torch.tensor([g for _, g in r.curve]).quantile(torch.tensor([0.25, 0.5, 0.75]), 1)
            colour = f"C{names.index(r.algorithm) % 10}"
            axis.plot(
                queries, middle, color=colour, label=r.algorithm, ls="-" if names.index(r.algorithm) < 10 else "--"
            )
            axis.fill_between(queries, low, high, color=colour, alpha=0.15, lw=0)
        for level in (0.1, 0.05):
            axis.axhline(level, color="grey", lw=0.6, ls=":")
        axis.set(title=problem, xlabel="reward queries", yscale="log", ylim=(1e-4, 3))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("gap to the optimum (1: the base)")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(problems), frameon=False
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
