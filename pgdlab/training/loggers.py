"""Loggers: CSV always, Weights & Biases where asked for. Both continue a resumed run's curves."""

from __future__ import annotations

import csv as csv_file
import io
import netrc
import os
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from pgdlab.config.runs import METRICS, cells, naming

MOLECULES = 16  # in three dimensions, that a browser is to show at once
Mode = Literal["online", "offline", "disabled"]


def resume_rows(folder: Path, iterations: int) -> list[dict[str, str]]:
    """The rows of metrics.csv up to the iteration that a resumed run continues from, without those that are damaged."""
    return [row for row in cells(folder) if float(row["iteration"]) <= iterations]


def csv(folder: Path, settings: Mapping[str, Any], done: list[dict[str, str]]) -> list[Logger]:
    """metrics.csv in the run folder, one row an iteration. settings: of the run; done: the rows that it starts with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "previous log files will be deleted": they are `done`
        logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)
        logger.experiment.metrics = [dict(row) for row in done]
    with naming(folder / METRICS):
        logger.save()
    return [logger]


def wandb(
    folder: Path,
    settings: Mapping[str, Any],
    done: list[dict[str, str]],
    project: str = "pgdlab",
    mode: Mode | None = None,
) -> list[Logger]:
    """CSV and Weights & Biases: online with a key, offline without (upload later with `wandb sync`).

    mode: "disabled" makes no run; null asks WANDB_MODE, then looks for a key. A server that cannot be reached makes the run
    an offline one, and one that goes away keeps nobody waiting: W&B writes all to disk first. The run's id is kept in the
    run folder, so that a resumed run continues its curves. Raises ValueError where the server refuses.
    """
    import wandb as library

    identity = folder / "wandb_id"
    if not identity.is_file():
        identity.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))  # wandb agent names its runs
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_key(server) else "offline")
    lost = chosen == "online" and not reachable(server)
    chosen = "offline" if lost else chosen
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "60")  # seconds; the rest can be synced from disk
    os.environ.setdefault("WANDB_SILENT", "true")  # what there is to say is said below
    library.setup()  # reads that: Lightning's way of starting a run makes W&B warn before it does
    logger = WandbLogger(
        project=project, name=folder.name, id=identity.read_text(), save_dir=folder.resolve(), resume="allow",
        mode=chosen,
    )  # fmt: skip
    try:
        logger.log_hyperparams(dict(settings))
    except library.errors.Error as error:
        raise ValueError(f"W&B at {server}: {error}. logger.mode=offline does without the server") from error
    logger.experiment.define_metric("*", step_metric="iteration")
    sync = f"{f'cannot reach {server}; ' if lost else ''}offline, upload later with: wandb sync {folder}/wandb/*"
    if chosen != "disabled":
        rank_zero_only(print)(f"W&B: {sync if chosen == 'offline' else logger.experiment.url}", file=sys.stderr)
    return [*csv(folder, settings, done), logger]


def record(logger: Logger, row: dict[str, Any], iteration: int) -> None:
    """Logs a row at the run's own step. Lightning leaves the step to W&B, whose offline runs count from 0 again when they
    are resumed: the server would drop what comes before the step that it has."""
    if isinstance(logger, WandbLogger):
        logger.experiment.log(row, step=iteration)
    else:
        with naming(Path(str(logger.log_dir)) / METRICS):
            logger.log_metrics(row, step=iteration)


def publish(logger: Logger, files: list[Path], summary: dict[str, Any], iteration: int) -> None:
    """Files and the headline figures to loggers that take them; the end of the run."""
    if isinstance(logger, WandbLogger):
        record(logger, {file.stem: media(file) for file in files}, iteration)
        logger.experiment.summary.update({k: v for k, v in summary.items() if isinstance(v, (int, float))})
        logger.experiment.finish()
    logger.finalize("success")


def media(file: Path) -> Any:
    """A file as W&B shows it: a .png as an image, a .csv as a table, an .sdf as its first MOLECULES molecules."""
    import wandb as library

    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            columns, *rows = csv_file.reader(lines)
        return library.Table(columns=[*columns], data=[[number(cell) for cell in row] for row in rows])
    if file.suffix == ".sdf":
        records = [record for record in file.read_text().split("$$$$\n") if record.strip()][:MOLECULES]
        return [library.Molecule(io.StringIO(r), caption=r.partition("\n")[0], file_type="sdf") for r in records]
    return library.Image(str(file))


def number(cell: str) -> float | str | None:
    """A cell of a table: a number where it is one, None where it is empty."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def has_key(server: str) -> bool:
    """Whether there is a key for the server, in the environment or in ~/.netrc."""
    try:
        found = netrc.netrc().authenticators(urllib.parse.urlsplit(server).hostname or server)
    except (OSError, netrc.NetrcParseError):
        found = None
    return bool(os.environ.get("WANDB_API_KEY") or found)


def reachable(server: str) -> bool:
    """Whether anything answers, through the proxy that the environment names, within 5 s."""
    try:
        urllib.request.urlopen(server, timeout=5).close()
    except urllib.error.HTTPError:
        return True  # an answer
    except (OSError, ValueError):
        return False
    return True
