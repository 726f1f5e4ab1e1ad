"""The comparison of run folders as a run folder of its own: one HTML page, CSV and markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pgdlab.comparison import columns
from pgdlab.comparison.aggregate import aggregate
from pgdlab.comparison.comparison import Comparison, problems
from pgdlab.comparison.folders import Found, read
from pgdlab.comparison.page import Report, page
from pgdlab.config.configuration import Config
from pgdlab.config.runs import run_folder, save_config, write
from pgdlab.training.build import loggers_of
from pgdlab.training.loggers import publish


def report(cfg: Config) -> None:
    """Writes report.html, report.csv, runs.csv and report.md. Raises ValueError where there is nothing to compare."""
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
    tables_to_wandb(cfg, folder)
    print(text + f"look at {folder / 'report.html'}; figures in {folder / 'report.csv'} and {folder / 'runs.csv'}")


def compare(found: Found, options: Comparison) -> Report:
    """The comparison of what was found. Raises ValueError where no run is finished."""
    if not found.runs:
        raise ValueError(
            f"there is no finished run in compare.folders={list(options.folders)}: {len(found.failures)} stopped, "
            f"{len(found.others)} are folders of other tasks; train some first"
        )
    all_problems = problems(found, options)
    return Report(all_problems, aggregate(all_problems), found.failures, len(found.others))


def markdown(report: Report) -> str:
    """The tables that a document can quote."""
    parts = [f"## {p.label}\n\n{p.verdict}\n\n{columns.markdown(columns.method_table(p))}" for p in report.problems]
    if report.aggregate is not None:
        parts.append(f"## All problems together\n\n{columns.markdown(columns.aggregate_table(report.aggregate))}")
    parts += [f"Not finished: {f.folder}: {f.reason}\n" for f in report.failures]
    return "\n".join(parts) + "\n"


def tables_to_wandb(cfg: Config, folder: Path) -> None:
    """Both tables as W&B tables with logger=wandb; their column `method` is what runs are grouped by."""
    if not str(cfg.nodes["logger"]["_target_"]).endswith(".wandb"):
        return
    for logger in loggers_of(cfg, folder, []):
        publish(logger, [folder / "report.csv", folder / "runs.csv"], {}, 1)
