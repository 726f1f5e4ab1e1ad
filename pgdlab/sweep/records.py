"""The state of a trial on disk: its run folder, a record of its attempts, and a log of their output."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgdlab.config import trust
from pgdlab.config.compose import draft
from pgdlab.config.groups import parse_one
from pgdlab.config.runs import FAILURE, LAST, SUMMARY, folder_name, rows, write, write_json
from pgdlab.sweep.file import Parameters, Sweep

RECORDS = "trials"  # the folder of records in a sweep's
EARLY = "terminated early"
NOTHING = ("diverged", "untrained")  # states of a run whose figures are worth nothing: it would come to the same again
OVER = ("finished", *NOTHING, EARLY)  # states in which nothing is left to run
WARM_TASKS = ("train", "best_of_n", "steer")
PLAIN = {"_target_", "_partial_", "accelerator", "devices", "precision"}  # of a runtime that leaves a process as it was


@dataclass(frozen=True)
class Record:
    """A trial. sweep: the folder runs/<name of the sweep>; name: of the trial; chosen: the values of the parameters that vary;
    warm: whether it may run in a process that ran another one; processes: of the run."""

    sweep: Path
    name: str
    chosen: Parameters
    overrides: tuple[str, ...]
    task: str
    warm: bool
    processes: int

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path("runs") / folder_name(self.task, f"{self.sweep.name}/{self.name}")

    @property
    def file(self) -> Path:
        """The record."""
        return self.sweep / RECORDS / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """The output of its attempts."""
        return self.file.with_suffix(".log")

    @property
    def named(self) -> list[str]:
        """The overrides of the run itself."""
        return [*self.overrides, f"name={self.sweep.name}/{self.name}"]

    @property
    def argv(self) -> list[str]:
        """The command line: of the run itself, or of its continuation where there is a checkpoint."""
        if (self.folder / LAST).is_file():
            return [f"resume={self.folder}", *trust.words(map(parse_one, self.overrides))]
        return self.named

    @property
    def summary(self) -> dict[str, Any] | None:
        """Of a finished trial. One that cannot be read counts as none: the run goes on from its checkpoint and writes it anew."""
        return mapping(self.folder / SUMMARY)

    @property
    def failure(self) -> str:
        """Why it was given up or stopped, where it was. A run may have finished while it was being stopped."""
        file = self.folder / FAILURE
        if self.summary is not None:
            return ""
        return file.read_text(errors="replace").strip() if file.is_file() else ""

    @property
    def state(self) -> str:
        """finished, one of NOTHING (as its summary says), terminated early, failed, or not finished."""
        summary = self.summary
        if summary is not None:
            return str(summary["status"]) if summary.get("status") in NOTHING else "finished"
        return EARLY if self.failure.startswith(EARLY) else "failed" if self.failure else "not finished"

    @property
    def over(self) -> bool:
        """Whether there is nothing left to run."""
        return self.state in OVER

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """How its attempts began and ended; [] where there is no record, or one that cannot be read."""
        found = (mapping(self.file) or {}).get("attempts")
        return [a for a in found if isinstance(a, dict) and "end" in a] if isinstance(found, list) else []

    @property
    def seconds(self) -> float:
        """All its attempts together."""
        return float(sum(a.get("seconds") or 0 for a in self.attempts))

    def keep(self, attempts: list[dict[str, Any]]) -> None:
        """Writes the record."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.file.is_file() and mapping(self.file) is None:
            self.file.replace(self.file.with_suffix(".broken"))  # nobody reads it, but it may be somebody's only trace
        content = {"chosen": self.chosen, "overrides": list(self.overrides), "folder": str(self.folder)}
        write_json({**content, "attempts": attempts}, self.file)

    def mend(self) -> None:
        """Writes down the end of a finished attempt whose driver was killed before it could."""
        summary, attempts = self.folder / SUMMARY, self.attempts
        if self.summary is not None and attempts and attempts[-1]["end"] is None:
            took = summary.stat().st_mtime - attempts[-1].get("begun", summary.stat().st_mtime)
            self.keep([*attempts[:-1], attempts[-1] | {"end": self.state, "seconds": took}])

    def give_up(self, reason: str) -> None:
        """Leaves the reason in the run folder, where the comparison reads it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write(reason + "\n", self.folder / FAILURE)

    def rows(self) -> list[dict[str, float]]:
        """The whole rows of metrics.csv, which may be written at this moment."""
        return rows(self.folder)


def mapping(file: Path) -> dict[str, Any] | None:
    """A JSON file's mapping; None where there is none, or it is broken."""
    try:
        found = json.loads(file.read_text()) if file.is_file() else None
    except (ValueError, RecursionError):  # not JSON, not text, or nested without end
        return None
    return found if isinstance(found, dict) else None


def record(sweep: Sweep, chosen: Parameters) -> Record:
    """The record of a trial. Raises ConfigError for overrides that no run can have."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in chosen.items()}
    overrides = sweep.overrides(plain)
    cfg = draft(overrides)
    runtime = cfg.nodes["runtime"]
    alone = set(runtime) <= PLAIN and (runtime.get("accelerator"), runtime.get("devices")) == ("cpu", 1)
    warm = alone and cfg.task in WARM_TASKS and cfg.nodes["logger"].keys() <= {"csv"}
    devices = runtime.get("devices")
    processes = devices if isinstance(devices, int) and devices > 0 else 1
    name = label(sweep, plain, overrides)
    return Record(Path("runs") / sweep.name, name, plain, tuple(overrides), cfg.task, warm, processes)


def label(sweep: Sweep, chosen: Parameters, overrides: list[str]) -> str:
    """The values that vary, readable, and a hash of all overrides, so that another sweep file makes other folders."""
    said = "-".join(re.sub(r"[^\w.]+", "-", str(chosen[name])).strip("-") for name in sweep.order if name in chosen)
    return f"{said[:80]}-{hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:6]}".lstrip("-.")
