"""task=certify: training algorithms on problems whose optimum is known, held against it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pgdlab.build import build_module
from pgdlab.compose import ConfigError, compose, instantiate
from pgdlab.evaluation.certificate import Cell, Measure, Run, Suite, row, truth
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.evaluation.tables import certificate_picture, certificate_table, line
from pgdlab.fit import LAST, fit, load
from pgdlab.runs import run_folder, save_config, write, write_json

CELL = "certificate.json"


class Refused(ValueError):
    """An algorithm cannot do a problem, and says why."""


def main(cfg: Any) -> None:
    """Runs the suite's cells one after another; `resume=runs/<name>` goes on after the last finished one."""
    suite = suite_of(cfg)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    console, rows = Console(stderr=True, highlight=False), []
    for problem, base in suite.problems.items():
        for algorithm, more in suite.algorithms.items():
            rows.append(row(problem, algorithm, cell(suite, base, more, folder / problem / algorithm)))
            console.print(line(rows[-1]), soft_wrap=True)
    write(certificate_table(rows), folder / "certificate.md")
    write_json({"rows": [dataclasses.asdict(r) for r in rows]}, folder / CELL)
    certificate_picture(rows, folder / "certificate.png")
    print(f"look at {folder / 'certificate.md'} and {folder / 'certificate.png'}; figures in {folder / CELL}")


def suite_of(cfg: Any) -> Suite:
    """The config's suite. Raises ValueError where it names none."""
    suite = instantiate(cfg.certificate)
    if not isinstance(suite, Suite):
        raise ValueError(f"task={cfg.task} needs a suite: certificate=affine, or another of configs/certificate")
    return suite


def cell(suite: Suite, base: list[str], more: list[str], folder: Path) -> Cell:
    """One algorithm on one problem: read back where it was finished before, else run."""
    file = folder / CELL
    if not file.is_file():
        started = time.perf_counter()
        refused, runs = "", []
        try:
            runs = [run(base, more, seed, suite.measurements, folder / str(seed)) for seed in range(suite.seeds)]
        except Refused as error:
            refused = str(error)
            folder.mkdir(parents=True, exist_ok=True)
        write_json(dataclasses.asdict(Cell(runs, time.perf_counter() - started, refused)), file)
    return Cell.read(json.loads(file.read_text()))


def run(base: list[str], more: list[str], seed: int, measurements: int, folder: Path) -> Run:
    """Trains once, and measures on the way. The problem's own overrides declare the KL weights.

    Raises Refused where the algorithm says that the problem is not for it.
    """
    cfg = compose([*base, *more, f"seed={seed}"])
    try:
        module = build_module(cfg)
    except ConfigError:
        raise
    except ValueError as error:
        raise Refused(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    found = truth(module.world, instantiate(compose(base).penalty))
    measure = Measure(found, measurements)
    fit(module, cfg, folder, [measure])
    load_weights(module.policy, load(folder / LAST)["state_dict"], folder / LAST)
    with torch.no_grad():
        final = found.measure(module.policy)
    return Run(found.best, found.ceiling, found.base, final, measure.curve)
