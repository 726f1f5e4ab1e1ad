"""task=sweep: runs a W&B sweep file (sweep=sweeps/NAME.yaml) with Ray Tune, here or on a cluster, and compares the runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pgdlab.comparison.report import report as compared
from pgdlab.config.compose import compose
from pgdlab.config.configuration import Config
from pgdlab.config.program import extra, program
from pgdlab.config.runs import CONFIG, SUMMARY, write
from pgdlab.config.schema import nearest
from pgdlab.sweep.engine import Engine
from pgdlab.sweep.file import Sweep, read
from pgdlab.sweep.records import NOTHING, Record
from pgdlab.sweep.templates import found

READS = ("sweep", "engine", "logger", "compare")
INSTEAD = "the sweep file says what its runs are: put it there, as a parameter"


def main(cfg: Config) -> int:
    """Runs what is left of the sweep; the same command goes on after any end. Exit code 1 where a trial did not finish,
    else 3 where one diverged."""
    if not cfg.sweep:
        raise ValueError(f"task=sweep needs a sweep file: {program()} task=sweep sweep=quick")
    cfg = replace(cfg, sweep=found(cfg.sweep))
    assert cfg.sweep is not None
    sweep = read(cfg.sweep, keep_logger=bool(cfg.nodes["logger"].keys() - {"csv"}))
    engine = cfg.stated(Engine, "engine")
    try:
        from pgdlab.sweep.driver import run
    except ImportError as error:
        raise ValueError(f"{error}; task=sweep needs Ray: {extra('sweep')}") from error
    records = run(sweep, engine)
    home = Path("runs") / sweep.name
    shutil.copy(cfg.sweep, home / "sweep.yaml")
    write(table(records, sweep), home / "trials.md")
    print(table(records, sweep))
    warn_of_metric(records, sweep)
    report(records, sweep, cfg)
    if not all(r.over for r in records):
        return 1
    return 3 if any(r.state in NOTHING for r in records) else 0


def warn_of_metric(records: Sequence[Record], sweep: Sweep) -> None:
    """Says so where no trial has the metric: bayes chose at random, and the table has an empty column."""
    finished = [(r.rows() or [{}])[-1] | (r.summary or {}) for r in records if r.summary is not None]
    if sweep.metric and finished and not any(sweep.metric in figures for figures in finished):
        names = [name for name, value in finished[0].items() if isinstance(value, (int, float))]
        print(f"metric.name is {sweep.metric!r}, which no trial has.{nearest(sweep.metric, names)}", file=sys.stderr)


def table(records: Sequence[Record], sweep: Sweep) -> str:
    """Every trial: its state, its attempts, its metric, and why it did not finish."""
    head = f"| trial | state | attempts | {sweep.metric or 'metric'} | seconds | reason |\n|---|---|---|---|---|---|\n"
    states = [r.state for r in records]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return head + "".join(row(r, sweep) for r in records) + f"\n{len(records)} trials: {counts}\n"


def row(r: Record, sweep: Sweep) -> str:
    """A trial's line."""
    figures = (r.rows() or [{}])[-1] | (r.summary or {})
    value, attempts = figures.get(str(sweep.metric)), r.attempts
    shown = f"{value:.4g}" if isinstance(value, (int, float)) else ""
    return f"| {r.name} | {r.state} | {len(attempts)} | {shown} | {r.seconds:.1f} | {r.failure.replace('|', '/')} |\n"


def report(records: Sequence[Record], sweep: Sweep, cfg: Config) -> None:
    """The comparison of what there is, where there is any."""
    folders = [str(r.folder) for r in records if (r.folder / CONFIG).is_file()]
    if not any((Path(folder) / SUMMARY).is_file() for folder in folders):
        return
    given = {key: value for key, value in (cfg.nodes["compare"] or {}).items() if value}
    options = {"folders": folders, "name": sweep.name, **given}
    try:
        compared(compose(["task=compare"]).with_nodes(compare=options, logger=cfg.nodes["logger"]))
    except ValueError as error:
        print(f"no comparison: {error}", file=sys.stderr)
