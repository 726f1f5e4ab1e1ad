"""task=compare: run folders (compare.folders='[runs/a,runs/b]', or a pattern) as one HTML page, CSV and markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pgdlab.comparison import columns
from pgdlab.comparison.aggregate import aggregate
from pgdlab.comparison.comparison import Comparison, problems
from pgdlab.comparison.folders import Found, read
from pgdlab.comparison.page import Report, page
from pgdlab.config.compose import instantiate
from pgdlab.config.runs import run_folder, save_config, write
from pgdlab.config.schema import check, complete
from pgdlab.training.loggers import publish


def main(cfg: Any) -> None:
    """Writes report.html, report.csv, runs.csv and report.md. Raises ValueError where there is nothing to compare."""
    if cfg.resume:
        raise ValueError("task=compare reads run folders and resumes none: name them in compare.folders")
    options = comparison(cfg)
    report = compare(read(options.folders), options)
    cfg.name = options.name
    folder = run_folder(cfg)
    save_config(cfg, folder)
    text = markdown(report)
    write(page(report), folder / "report.html")
    write(text, folder / "report.md")
    write(columns.methods_csv(report.problems), folder / "report.csv")
    write(columns.runs_csv(report.problems), folder / "runs.csv")
    tables_to_wandb(cfg, folder)
    print(text + f"look at {folder / 'report.html'}; figures in {folder / 'report.csv'} and {folder / 'runs.csv'}")


def comparison(cfg: Any) -> Comparison:
    """What cfg.compare says, over the defaults of Comparison: its _target_ need not be given."""
    given = OmegaConf.create({"_target_": f"{Comparison.__module__}.Comparison"})
    node = complete(OmegaConf.to_container(OmegaConf.merge(given, cfg.compare or {})), "compare")
    check(node, "compare")
    options: Comparison = instantiate(node)
    return options


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


def tables_to_wandb(cfg: Any, folder: Path) -> None:
    """Both tables as W&B tables with logger=wandb; their column `method` is what runs are grouped by."""
    if not str(cfg.logger["_target_"]).endswith(".wandb"):
        return
    for logger in instantiate(cfg.logger)(folder, cfg, []):
        publish(logger, [folder / "report.csv", folder / "runs.csv"], {}, 1)
