"""Weights & Biases: online with a key, offline without or where the server does not answer; a resumed run goes on."""

from __future__ import annotations

import base64
import csv as csv_file
import io
import json
import netrc
import os
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jaxtyping import UInt8
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from pgdlab.config.runs import short
from pgdlab.config.schema import nearest
from pgdlab.training.loggers import SHEET, Keeper, LoggerChoice, figures

MOLECULES = 16  # in three dimensions, that a browser is to show at once
PATIENCE = 8.0  # seconds for an answer of the server's
Mode = Literal["online", "offline", "disabled"]
MODES = (*get_args(Mode), "shared", "dryrun")  # what WANDB_MODE may be


class WandbKeeper(Keeper, WandbLogger):
    """A W&B run. alerts: whether it sends a message when it has finished."""

    alerts: bool = False

    def record(self, row: dict[str, Any], iteration: int) -> None:
        """At the run's own step. Lightning leaves the step to W&B, whose offline runs count from 0 again when they are
        resumed: the server would drop what comes before the step that it has."""
        self.experiment.log(row, step=iteration)

    def show(self, file: Path, images: list[tuple[UInt8[Tensor, "C H W"], str]], iteration: int) -> None:
        """The images one by one, so that each has its caption."""
        import wandb as library

        shown = [library.Image(x.permute(1, 2, 0).expand(-1, -1, 3).numpy(), caption=text) for x, text in images]
        self.record({SHEET: shown, "iteration": float(iteration)}, iteration)

    def keep(self, files: list[Path], summary: dict[str, Any], iteration: int) -> None:
        self.record({file.stem: media(file) for file in files}, iteration)
        self.experiment.summary.update(figures(summary))
        if self.alerts:
            reward = f": reward {summary['reward_after']:.4g}" if "reward_after" in summary else ""
            self.experiment.alert(
                title=f"{self._name} {summary.get('status', 'finished')}", text=f"{self._name}{reward}"
            )
        self.experiment.finish()

    def keep_afterwards(self, figures: dict[str, float], model: Path | None) -> None:
        self.experiment.summary.update(figures)
        if model is not None:
            import wandb as library

            artifact = library.Artifact(f"{self._name}-model", type="model")
            artifact.add_dir(str(model))
            self.experiment.log_artifact(artifact)
        self.experiment.finish()


@dataclass(frozen=True, kw_only=True)
class Wandb(LoggerChoice):
    """Weights & Biases: online with a key, offline without (upload later with `wandb sync`).

    mode: "disabled" makes no run; null asks WANDB_MODE, then looks for a key. A server that does not answer as W&B's does makes
    the run an offline one, unless mode is "online", which is an error then; one that goes away keeps nobody waiting: W&B
    writes all to disk first. group: of the run, null for its sweep; job_type: null for its task. alerts: whether W&B tells
    its user when the run has finished. The run's id is kept in the run folder, so that a resumed run continues its curves.
    """

    project: str = "pgdlab"
    mode: Mode | None = None
    group: str | None = None
    job_type: str | None = None
    alerts: bool = False

    def require(self) -> None:
        given = os.environ.get("WANDB_MODE")
        if given and given not in MODES:
            raise ValueError(f"WANDB_MODE is {given!r} in the environment.{nearest(given, MODES)}")
        if self.mode == "online" and (trouble := unanswered(server())):
            raise ValueError(f"W&B {trouble}. logger.wandb.mode=offline does without the server, null where it must")

    def open(self, folder: Path, settings: Mapping[str, Any], done: list[dict[str, str]]) -> Logger:
        identity = folder / "wandb_id"
        if not identity.is_file():
            identity.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))  # wandb agent names its runs
        first = getattr(rank_zero_only, "rank", 0) == 0
        mode = self.mode or os.environ.get("WANDB_MODE") or ("online" if key_of(server()) else "offline")
        trouble = unanswered(server()) if mode == "online" and first else ""
        if not trouble:
            try:
                return self.begin(folder, settings, identity.read_text(), mode, "")
            except StartError as error:
                trouble = f"at {server()}: {' '.join(str(error).split())}"
        if self.mode == "online":
            raise ValueError(f"W&B {trouble}. logger.wandb.mode=offline does without the server")
        return self.begin(folder, settings, identity.read_text(), "offline", f"{trouble}; ")

    def begin(self, folder: Path, settings: Mapping[str, Any], identity: str, mode: str, trouble: str) -> Logger:
        """Starts the run, and says where it is. Raises StartError where W&B cannot start it."""
        import wandb as library

        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        library.setup()  # reads that: Lightning's way of starting a run makes W&B warn before it does
        sweep = str(Path(str(settings.get("name") or "")).parent)
        logger = WandbKeeper(
            project=self.project, name=folder.name, id=identity, save_dir=folder.resolve(), resume="allow", mode=mode,
            group=self.group or os.environ.get("WANDB_RUN_GROUP") or (sweep if sweep != "." else None),
            job_type=self.job_type or os.environ.get("WANDB_JOB_TYPE") or settings.get("task"),
        )  # fmt: skip
        logger.alerts = self.alerts
        try:
            logger.log_hyperparams(dict(settings))
        except library.errors.Error as error:
            library.teardown()  # else the next run of this process waits for the one that did not start
            raise StartError(str(error)) from error
        logger.experiment.define_metric("*", step_metric="iteration")
        sync = f"{trouble}offline, upload later with: wandb sync {short(folder)}/wandb/*"
        if mode != "disabled":
            rank_zero_only(print)(f"W&B: {logger.experiment.url if mode == 'online' else sync}", file=sys.stderr)
        return logger


class StartError(Exception):
    """W&B did not start a run."""


QUIET = {  # of the environment, where the user does not say otherwise
    "WANDB_FINISH_TIMEOUT": "60",  # seconds; the rest can be synced from disk
    "WANDB_INIT_TIMEOUT": "20",
    "WANDB_SILENT": "true",  # what there is to say is said here
}


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


def server() -> str:
    """The address of W&B."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def key_of(address: str) -> str | None:
    """The key for a server, of the environment or of ~/.netrc."""
    try:
        found = netrc.netrc().authenticators(urllib.parse.urlsplit(address).hostname or address)
    except (OSError, netrc.NetrcParseError):
        found = None
    return os.environ.get("WANDB_API_KEY") or (found[2] if found else None)


def unanswered(address: str) -> str:
    """What is wrong with a server, "" where its API answers: asked once who the key's owner is, through the proxy that the
    environment names. A login page, a proxy's answer and silence are found within PATIENCE, not by W&B's own retries."""
    login = base64.b64encode(f"api:{key_of(address) or ''}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}", "User-Agent": "pgdlab"}
    query = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()
    try:
        request = urllib.request.Request(f"{address}/graphql", query, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found = json.loads(answer.read(1_000_000))
    except urllib.error.HTTPError as error:
        advice = ": is the key right?" if error.code in (401, 403) else ""
        return f"at {address} answers {error.code} {error.reason}{advice}"
    except TimeoutError:
        return f"at {address} does not answer within {PATIENCE:.0f} s"
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, TimeoutError):
            return f"at {address} does not answer within {PATIENCE:.0f} s"
        if isinstance(error, OSError) or "unknown url type" in str(error):
            return f"cannot be reached at {address}"
        return f"at {address} does not answer as W&B does (a login page, a proxy?)"
    viewer = found.get("data") if isinstance(found, dict) else None
    if not isinstance(viewer, dict):
        return f"at {address} does not answer as W&B does (a login page, a proxy?)"
    return "" if viewer.get("viewer") else f"at {address} does not know the key"
