"""The cells of a certificate: an algorithm trained on a problem, once a seed, each kept in a folder of its own."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import torch

from pgdlab.certificates.certificate import Cell, Law, Measure, Run, Suite
from pgdlab.certificates.truth import declared, truth
from pgdlab.config.compose import ConfigError, compose
from pgdlab.config.configuration import Config
from pgdlab.config.runs import write_json
from pgdlab.config.schema import instantiate
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.penalties.base import Penalties, Penalty
from pgdlab.training.build import build_module
from pgdlab.training.fit import LAST, fit, load

CELL = "certificate.json"


class RefusedError(ValueError):
    """A run cannot be done, or came to nothing, and says why."""


def suite_of(cfg: Config) -> Suite:
    """The config's suite. Raises ValueError where it names none."""
    suite = instantiate(cfg.nodes["certificate"], "certificate")
    if not isinstance(suite, Suite):
        raise ValueError(f"task={cfg.task} needs a suite of problems and algorithms: certificate=affine")
    return suite


def cell(suite: Suite, base: list[str], more: list[str], folder: Path, law: Law = "attainable") -> Cell:
    """One algorithm on one problem: read back where it was finished before, else run. law: that it is held against."""
    file = folder / CELL
    if not file.is_file():
        started = time.perf_counter()
        refused, runs = "", []
        try:
            runs = [run(base, more, seed, suite.measurements, folder / str(seed), law) for seed in suite.every_seed()]
        except RefusedError as error:
            refused = str(error)
        write_json(dataclasses.asdict(Cell(runs, time.perf_counter() - started, refused, law)), file)
    return Cell.read(json.loads(file.read_text()))


def run(base: list[str], more: list[str], seed: int, measurements: int, folder: Path, law: Law = "attainable") -> Run:
    """Trains once, and measures on the way. The problem's own overrides declare the KL weights.

    Raises RefusedError where the algorithm says that the problem is not for it, and where the run diverged;
    KeyboardInterrupt where it was asked to stop: such a cell is not finished.
    """
    cfg = compose([*base, *more, f"seed={seed}"])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        module = build_module(cfg)
        found = truth(module.world, declared(Penalties(compose(base).make_each(Penalty, "penalty"))))
        if law == "tilt" and found.tilt is None:
            raise ValueError(
                "the law of final samples is known on Gaussian bases, and on a line with noise in every step"
            )
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
    return Run(found.best, found.ceiling, found.base, final, measure.curve, found.tilt)
