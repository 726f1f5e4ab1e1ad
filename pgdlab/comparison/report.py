"""The comparison of run folders as a run folder of its own: one HTML page, CSV and markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pgdlab.comparison import columns
from pgdlab.comparison.aggregate import aggregate
from pgdlab.comparison.charts import Chart
from pgdlab.comparison.comparison import Comparison, problems
from pgdlab.comparison.delivery import delivered, even
from pgdlab.comparison.folders import Found, read
from pgdlab.comparison.page import Report, page
from pgdlab.comparison.sound import sound
from pgdlab.config.configuration import Config
from pgdlab.config.runs import naming, run_folder, save_config, write
from pgdlab.config.schema import nearest
from pgdlab.training.build import loggers_of
from pgdlab.training.loggers import publish

NAMED = 5  # failures whose reasons a refusal tells


def report(cfg: Config) -> None:
    """Writes report.html, report.csv, runs.csv, report.md, report.tex and figures/. Raises ValueError where there is nothing to
    compare."""
    options = cfg.stated(Comparison, "compare")
    found = compare(read(options.folders), options)
    cfg = replace(cfg, name=options.name)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    text = markdown(found)
    write(page(found), folder / "report.html")
    write(text, folder / "report.md")
    write(columns.methods_csv(found.problems), folder / "report.csv")
    write(columns.runs_csv(found.problems), folder / "runs.csv")
    write(tables(found), folder / "report.tex")
    draw(found.figures, folder / "figures")
    tables_to_wandb(cfg, folder)
    print(text + f"look at {folder / 'report.html'}; tables (csv, md, tex) and figures (pdf, png) are beside it")


def compare(found: Found, options: Comparison) -> Report:
    """The comparison of what was found. Raises ValueError where no run is finished."""
    found = sound(found)
    if not found.runs:
        raise ValueError(
            f"there is no finished run in compare.folders={list(options.folders)}: {len(found.failures)} stopped, "
            f"{len(found.others)} are folders of other tasks; train some first"
            + "".join(f"\n{f.folder}: {f.reason}" for f in found.failures[:NAMED])
        )
    all_problems = problems(found, options)
    labels = {m.label for p in all_problems for m in p.methods}
    for name in options.tuned.keys() - labels:
        raise ValueError(f"compare.tuned names {name!r}, which is no method here.{nearest(name, labels)}")
    return Report(all_problems, aggregate(all_problems), found.failures, len(found.others), options.tuned)


def tables(report: Report) -> str:
    """The tables of methods for a paper; it needs the package booktabs."""
    parts = [columns.latex(columns.method_table(p), f"{p.label}. {p.verdict}") for p in report.problems]
    if report.aggregate is not None:
        parts.append(columns.latex(columns.aggregate_table(report.aggregate), "All problems together."))
    return "\n".join(parts)


def draw(figures: dict[str, Chart], folder: Path) -> None:
    """Every chart as PDF and PNG."""
    folder.mkdir(exist_ok=True)
    for name, chart in figures.items():
        for kind, content in (("pdf", chart.pdf), ("png", chart.png)):
            with naming(folder / f"{name}.{kind}"):
                (folder / f"{name}.{kind}").write_bytes(content)


def markdown(report: Report) -> str:
    """The tables that a document can quote."""
    parts = []
    for p in report.problems:
        parts.append(
            f"## {columns.plain(p.label)}\n\n{columns.plain(p.verdict)}\n\n{columns.markdown(columns.method_table(p))}"
        )
        for title, table in (("A delivered sample", delivered(p)), ("Samples after which training has paid", even(p))):
            if table[1]:
                parts.append(f"### {title}\n\n{columns.markdown(table)}")
    if report.aggregate is not None:
        parts.append(f"## All problems together\n\n{columns.markdown(columns.aggregate_table(report.aggregate))}")
    parts += [f"Not finished: {columns.plain(str(f.folder))}: {columns.plain(f.reason)}\n" for f in report.failures]
    return "\n".join(parts) + "\n"


def tables_to_wandb(cfg: Config, folder: Path) -> None:
    """Both tables as W&B tables with logger=wandb; their column `method` is what runs are grouped by."""
    if "wandb" not in cfg.nodes["logger"]:
        return
    for logger in loggers_of(cfg, folder, []):
        publish(logger, [folder / "report.csv", folder / "runs.csv"], {}, 1)
