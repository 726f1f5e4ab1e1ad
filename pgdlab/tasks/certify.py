"""task=certify: training algorithms on problems whose optimum is known, held against it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pgdlab.certificates.certificate import Cell, Measure, Run, Suite, Tables, row
from pgdlab.certificates.tables import certificate_picture, certificate_table, line, tabular_table
from pgdlab.certificates.truth import declared, truth
from pgdlab.config.compose import ConfigError, compose, instantiate
from pgdlab.config.runs import run_folder, save_config, write, write_json
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.oracle.tables.tabular import certify_tables
from pgdlab.training.build import build_module, penalties_of
from pgdlab.training.fit import LAST, fit, load

CELL = "certificate.json"


class RefusedError(ValueError):
    """A run cannot be done, or came to nothing, and says why."""


def main(cfg: Any) -> None:
    """On finite MDPs, or on points, as the config's certificate says (the affine suite where it says nothing)."""
    if cfg.certificate is None:
        cfg.certificate = compose(["certificate=affine"]).certificate
    suite = instantiate(cfg.certificate)
    if isinstance(suite, Tables):
        tables(cfg, suite)
    else:
        points(cfg, suite_of(cfg))


def points(cfg: Any, suite: Suite) -> None:
    """Runs the suite's cells one after another; `resume=runs/<name>` goes on after the last finished one."""
    folder = begun(cfg, suite.name)
    console, rows = Console(stderr=True, highlight=False), []
    cells = len(suite.problems) * len(suite.algorithms)
    for problem, base in suite.problems.items():
        for algorithm, more in suite.algorithms.items():
            rows.append(row(problem, algorithm, cell(suite, base, more, folder / problem / algorithm)))
            console.print(f"{len(rows)}/{cells}  {line(rows[-1])}", soft_wrap=True)
    write(certificate_table(rows), folder / "certificate.md")
    write_json({"rows": [dataclasses.asdict(r) for r in rows]}, folder / CELL)
    certificate_picture(rows, folder / "certificate.png")
    print(f"look at {folder / 'certificate.md'} and {folder / 'certificate.png'}; figures in {folder / CELL}")


def tables(cfg: Any, suite: Tables) -> None:
    """The certificate on finite MDPs, about half a minute."""
    folder = begun(cfg, suite.name)
    rows = certify_tables(suite.seed)
    write(tabular_table(rows), folder / "certificate.md")
    write_json({"rows": [dataclasses.asdict(r) for r in rows]}, folder / CELL)
    print(tabular_table(rows) + f"look at {folder / 'certificate.md'}; figures in {folder / CELL}")


def suite_of(cfg: Any) -> Suite:
    """The config's suite. Raises ValueError where it names none."""
    suite = instantiate(cfg.certificate)
    if not isinstance(suite, Suite):
        raise ValueError(f"task={cfg.task} needs a suite of problems and algorithms: certificate=affine")
    return suite


def begun(cfg: Any, name: str) -> Path:
    """The run folder, with its config."""
    cfg.name = name
    folder = run_folder(cfg)
    save_config(cfg, folder)
    return folder


def cell(suite: Suite, base: list[str], more: list[str], folder: Path) -> Cell:
    """One algorithm on one problem: read back where it was finished before, else run."""
    file = folder / CELL
    if not file.is_file():
        started = time.perf_counter()
        refused, runs = "", []
        try:
            runs = [run(base, more, seed, suite.measurements, folder / str(seed)) for seed in range(suite.seeds)]
        except RefusedError as error:
            refused = str(error)
        write_json(dataclasses.asdict(Cell(runs, time.perf_counter() - started, refused)), file)
    return Cell.read(json.loads(file.read_text()))


def run(base: list[str], more: list[str], seed: int, measurements: int, folder: Path) -> Run:
    """Trains once, and measures on the way. The problem's own overrides declare the KL weights.

    Raises RefusedError where the algorithm says that the problem is not for it, and where the run diverged;
    KeyboardInterrupt where it was asked to stop: such a cell is not finished.
    """
    cfg = compose([*base, *more, f"seed={seed}"])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        module = build_module(cfg)
        found = truth(module.world, declared(penalties_of(compose(base))))
        measure = Measure(found, measurements)
        fit(module, cfg, folder, [measure])
    except ConfigError:
        raise  # a mistake in the suite itself
    except ValueError as error:
        if isinstance(error.__cause__, OSError):  # the disk, not the algorithm
            raise
        raise RefusedError(str(error)) from error
    if int(module.iterations) < module.world.plan.iterations:
        raise KeyboardInterrupt(f"go on with the same task and resume={folder.parents[2]}")
    load_weights(module.policy, load(folder / LAST)["state_dict"], folder / LAST)
    with torch.no_grad():
        final = found.measure(module.policy)
    return Run(found.best, found.ceiling, found.base, final, measure.curve)
