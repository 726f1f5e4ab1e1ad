"""Loggers: CSV always, Weights & Biases where asked for. Both continue a resumed run's curves."""

from __future__ import annotations

import csv as csv_file
import os
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from pgdlab.runs import METRICS


def resume_rows(folder: Path, iterations: int) -> list[dict[str, str]]:
    """The rows of metrics.csv up to the iteration that a resumed run continues from."""
    path = folder / METRICS
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv_file.DictReader(file) if float(row["iteration"] or "inf") <= iterations]


def csv(folder: Path, cfg: Any, done: list[dict[str, str]]) -> list[Logger]:
    """metrics.csv in the run folder, one row an iteration; done: the rows that a resumed run starts with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "previous log files will be deleted": they are `done`
        logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)
        logger.experiment.metrics = [dict(row) for row in done]
    logger.save()
    return [logger]


def wandb(
    folder: Path, cfg: Any, done: list[dict[str, str]], project: str = "pgdlab", mode: str | None = None
) -> list[Logger]:
    """CSV and Weights & Biases: offline without a key (upload later with `wandb sync`), online with one.

    The run's id is kept in the run folder, so that a resumed run continues its curves; the x axis is the run's own
    iteration, because an offline run that is resumed counts its steps from 0 again.
    """
    from omegaconf import OmegaConf

    known = os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").is_file()
    identity = folder / "wandb_id"
    if not identity.is_file():
        import wandb as library

        identity.write_text(library.util.generate_id())
    logger = WandbLogger(
        project=project, name=folder.name, id=identity.read_text(), save_dir=folder, resume="allow",
        mode=mode or ("online" if known else "offline"),
    )  # fmt: skip
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    logger.experiment.define_metric("*", step_metric="iteration")
    return [*csv(folder, cfg, done), logger]
