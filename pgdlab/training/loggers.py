"""Loggers: CSV always, TensorBoard and MLflow where asked for. All continue a resumed run's curves."""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from pgdlab.config.runs import cells
from pgdlab.training.table import Table

SHEET = "contact_sheet"  # its name


def resume_rows(folder: Path, iterations: int) -> list[dict[str, str]]:
    """The rows of metrics.csv up to the iteration that a resumed run continues from, without those that are damaged."""
    return [row for row in cells(folder) if float(row["iteration"]) <= iterations]


class Keeper(Logger, ABC):
    """A Lightning logger that also takes what a run leaves at its end."""

    def record(self, row: dict[str, Any], iteration: int) -> None:
        """Logs a row at the run's own step."""
        self.log_metrics(row, step=iteration)

    @abstractmethod
    def show(self, file: Path, images: list[tuple[UInt8[Tensor, "C H W"], str]], iteration: int) -> None:
        """A contact sheet on the way, and the images in it with their captions."""

    @abstractmethod
    def keep(self, files: list[Path], summary: dict[str, Any], iteration: int) -> None:
        """Files (.png, .csv, .sdf) and the figures of summary.json, at the end of the run."""

    @abstractmethod
    def keep_afterwards(self, figures: dict[str, float], model: Path | None) -> None:
        """Of a run that was over: figures of a later evaluation, or the folder of its exported model."""


class LoggerChoice(ABC):
    """An option of `logger`: a place that a run's figures go to, beside metrics.csv."""

    def require(self) -> None:  # noqa: B027 (most lack nothing)
        """Raises ValueError, before a folder is made, for what the logger lacks."""

    @abstractmethod
    def open(self, folder: Path, settings: Mapping[str, Any], done: list[dict[str, str]]) -> Logger:
        """The logger of a run in its folder. settings: of the run; done: the rows that it starts with."""


@dataclass(frozen=True, kw_only=True)
class Csv(LoggerChoice):
    """metrics.csv in the run folder, which is there whatever else is chosen."""

    def open(self, folder: Path, settings: Mapping[str, Any], done: list[dict[str, str]]) -> Logger:
        return Table(folder, done)


class Board(Keeper, TensorBoardLogger):
    """Event files of TensorBoard."""

    settings: Mapping[str, Any]

    def show(self, file: Path, images: list[tuple[UInt8[Tensor, "C H W"], str]], iteration: int) -> None:
        self.experiment.add_image(SHEET, pixels(file), iteration, dataformats="HWC")

    def keep(self, files: list[Path], summary: dict[str, Any], iteration: int) -> None:
        writer = self.experiment
        for file in files:
            if file.suffix == ".png":
                writer.add_image(file.stem, pixels(file), iteration, dataformats="HWC")
            else:
                writer.add_text(file.stem, f"see {file}", iteration)
        found = figures(summary)
        for name in found.keys() - summary.keys():
            writer.add_scalar(name, found[name], iteration)
        self.log_hyperparams(
            dict(self.settings), {name: found[name] for name in found.keys() & summary.keys()}, iteration
        )
        self.save()

    def keep_afterwards(self, figures: dict[str, float], model: Path | None) -> None:
        for name, value in figures.items():
            self.experiment.add_scalar(name, value, 0)
        self.finalize("success")


@dataclass(frozen=True, kw_only=True)
class TensorBoard(LoggerChoice):
    """TensorBoard: event files in <run>/tensorboard; `tensorboard --logdir runs` shows all runs. Needs the extra [loggers]."""

    def require(self) -> None:
        require_package("tensorboard", "tensorboard")

    def open(self, folder: Path, settings: Mapping[str, Any], done: list[dict[str, str]]) -> Logger:
        # rows after the checkpoint that a run goes on from are taken back
        purge = int(float(done[-1]["iteration"])) + 1 if done else None
        logger = Board(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=purge)
        logger.settings = settings
        return logger


class MLflowKeeper(Keeper, MLFlowLogger):
    """A run of MLflow's."""

    def show(self, file: Path, images: list[tuple[UInt8[Tensor, "C H W"], str]], iteration: int) -> None:
        self.experiment.log_artifact(self.run_id, str(file), file.parent.name)

    def keep(self, files: list[Path], summary: dict[str, Any], iteration: int) -> None:
        self.log_metrics(figures(summary), step=iteration)
        for file in files:
            self.experiment.log_artifact(self.run_id, str(file))

    def keep_afterwards(self, figures: dict[str, float], model: Path | None) -> None:
        self.log_metrics(figures)
        if model is not None:
            self.experiment.log_artifacts(self.run_id, str(model), "model")
        self.finalize("success")


@dataclass(frozen=True, kw_only=True)
class MLflow(LoggerChoice):
    """MLflow. Needs the extra [loggers].

    uri: of its store, null for MLFLOW_TRACKING_URI or else the file runs/mlflow.db: no server is needed. experiment: of the
    run, null for its sweep or else "pgdlab". The run's id is kept in the run folder, so that a resumed run continues its curves.
    """

    uri: str | None = None
    experiment: str | None = None

    def require(self) -> None:
        for module in ("mlflow", *(STORE if self.address().startswith("sqlite:") else ())):
            require_package(module, "mlflow")

    def address(self) -> str:
        """Of the store."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('runs').resolve()}/mlflow.db"

    def open(self, folder: Path, settings: Mapping[str, Any], done: list[dict[str, str]]) -> Logger:
        from mlflow.exceptions import MlflowException

        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            with alone(Path("runs/mlflow.lock")):  # the first one makes the tables
                return self.begin(folder, settings)
        except MlflowException as error:
            raise ValueError(f"MLflow at {self.address()}: {error}") from error

    def begin(self, folder: Path, settings: Mapping[str, Any]) -> Logger:
        """Starts the run, or goes on with the one whose id is in the run folder."""
        identity, sweep = folder / "mlflow_id", str(Path(str(settings.get("name") or "")).parent)
        local = self.address().startswith("sqlite:")
        logger = MLflowKeeper(
            self.experiment or (sweep if sweep != "." else "pgdlab"), run_name=folder.name, tracking_uri=self.address(),
            artifact_location=f"file://{Path('runs').resolve()}/mlflow" if local else None,
            tags={"task": str(settings.get("task"))}, run_id=identity.read_text() if identity.is_file() else None,
        )  # fmt: skip
        if getattr(rank_zero_only, "rank", 0) == 0 and not identity.is_file():
            logger.log_hyperparams(dict(settings))
            identity.write_text(str(logger.run_id))
        return logger


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time."""
    file.parent.mkdir(exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


STORE = ("sqlalchemy", "alembic", "cryptography")  # packages that MLflow needs for a store in a file


def require_package(module: str, logger: str) -> None:
    """Raises ValueError where a package is missing."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"logger={logger} needs the package {module}, which is not installed: pip install 'pgdlab[loggers]'"
        )


def figures(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in a summary, those inside mappings too: evaluations/ema/sde/reward. Without those that are not finite."""
    found: dict[str, float] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping):
            found |= figures(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found


def pixels(file: Path) -> Any:
    """A picture as an array (height, width, 3)."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(file).convert("RGB"))


def record(logger: Logger, row: dict[str, Any], iteration: int) -> None:
    """Logs a row at the run's own step."""
    if isinstance(logger, Keeper):
        logger.record(row, iteration)
    else:
        logger.log_metrics(row, step=iteration)


def publish(logger: Logger, files: list[Path], summary: dict[str, Any], iteration: int) -> None:
    """Files and figures to loggers that take them; the end of the run."""
    if isinstance(logger, Keeper):
        logger.keep(files, summary, iteration)
    logger.finalize("success")
