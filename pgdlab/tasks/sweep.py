"""task=sweep: runs a W&B sweep file (sweep=sweeps/NAME.yaml) with Ray Tune, here or on a cluster, and compares the runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pgdlab.comparison.report import report as compared
from pgdlab.config.compose import compose
from pgdlab.config.configuration import Config
from pgdlab.config.runs import CONFIG, SUMMARY, write
from pgdlab.sweep.engine import Engine
from pgdlab.sweep.file import Sweep, read
from pgdlab.sweep.records import EARLY, Record

OWN = ("task", "sweep", "engine", "logger", "compare")  # what the command line of a sweep may set


def main(cfg: Config) -> int:
    """Runs what is left of the sweep; the same command goes on after any end. Exit code 1 where a trial did not finish."""
    if not cfg.sweep:
        raise ValueError("task=sweep needs a sweep file: python run.py task=sweep sweep=sweeps/quick.yaml")
    refuse_others(cfg)
    sweep = read(cfg.sweep, keep_logger=str(cfg.nodes["logger"]["_target_"]).endswith(".wandb"))
    engine = cfg.stated(Engine, "engine")
    try:
        from pgdlab.sweep.driver import run
    except ImportError as error:
        raise ValueError(f"{error}; task=sweep needs Ray: pip install -e '.[sweep]'") from error
    records = run(sweep, engine)
    home = Path("runs") / sweep.name
    shutil.copy(cfg.sweep, home / "sweep.yaml")
    write(table(records, sweep), home / "trials.md")
    print(table(records, sweep))
    report(records, sweep, cfg)
    return 0 if all(r.state in ("finished", EARLY) for r in records) else 1


def refuse_others(cfg: Config) -> None:
    """Raises ValueError for a setting that would change no trial: the sweep file says what trials are."""
    base = compose(["task=sweep"]).plain()
    for key, value in cfg.plain().items():
        if key not in OWN and value != base.get(key):
            raise ValueError(f"{key} is set, but the sweep file says what its runs are: put it there, as a parameter")


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
    seconds = sum(a["seconds"] or 0 for a in attempts)
    return f"| {r.name} | {r.state} | {len(attempts)} | {shown} | {seconds:.1f} | {r.failure.replace('|', '/')} |\n"


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
