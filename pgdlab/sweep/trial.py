"""A trial as Ray Tune sees it: one run of this program, which knows its state from its folder."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import time
from typing import Any

from ray import tune

from pgdlab.config.groups import OWN
from pgdlab.config.runs import FAILURE, LAST
from pgdlab.sweep.file import Sweep
from pgdlab.sweep.process import Process, said
from pgdlab.sweep.records import Record, record
from pgdlab.training.divergence import CAME_TO_NOTHING

PATIENCE = 0.1  # seconds between looks at metrics.csv
REFUSED = 2  # the exit code of a mistake that the user can mend


class Trial(tune.Trainable):
    """An actor that runs one trial after another. It holds no state that a new one could not read from the disk: a finished
    trial answers at once, any other goes on from its checkpoint. step() is an iteration where they are reported, else the run.
    """

    def setup(self, config: dict[str, Any], *, settings: dict[str, Any]) -> None:
        """settings: sweep, engine, root (the directory that the sweep was started in), whether rows are reported, and own, the
        user's folder of options."""
        self.settings, self.engine = settings, settings["engine"]
        self.metric: str = settings["sweep"].metric or "finished"
        os.chdir(settings["root"])
        os.environ |= {OWN: settings["own"]}
        self.process = Process(settings["root"])
        self.lock: Any = None
        self.take(config)

    def take(self, config: dict[str, Any]) -> None:
        """The trial that comes next."""
        sweep: Sweep = self.settings["sweep"]
        self.record: Record = record(sweep, sweep.values(config))
        self.begun, self.over, self.reported = False, False, 0
        self.code: int | None = None  # how the run ended: a warm process says it once

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.leave()
        self.take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if not self.begun:
            self.begin()
        while True:
            if self.code is None:
                self.code = self.process.ended(PATIENCE)
            # the last row comes with the end
            rows = self.record.rows()[self.reported : -1] if self.settings["rows"] else []
            if rows:
                self.require_metric(rows[0])
                self.reported += 1
                return {self.metric: math.nan, **rows[0]}  # NaN: a cell that is empty
            if self.code == 0 or (self.code == CAME_TO_NOTHING and self.record.over):
                return self.result()
            if self.code == REFUSED:
                return self.refused(said(self.code, self.record.log, self.said_before))
            if self.code is not None:
                raise self.failed(said(self.code, self.record.log, self.said_before))
            if time.monotonic() > self.late:
                raise self.failed(f"no end after {self.engine.seconds:g} s")

    def require_metric(self, row: dict[str, float]) -> None:
        """Ends a trial whose first row does not have the metric of early termination."""
        if self.reported == 0 and self.metric not in row:
            names = ", ".join(row)
            raise self.failed(f"early_terminate needs a column of metrics.csv; {self.metric} must be one of {names}")

    def begin(self) -> None:
        """Starts the run, or goes on with it, unless it is over. A folder without a checkpoint is begun anew."""
        r = self.record
        self.lock = r.file.with_suffix(".lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # an actor of a driver that was killed may be alive for a moment
        r.keep(r.attempts)
        self.begun, self.over = True, r.over
        self.late = time.monotonic() + (self.engine.seconds or float("inf"))
        if self.over:
            self.code = 0
            r.mend()
            return
        if not (r.folder / LAST).is_file() and r.folder.exists():
            shutil.rmtree(r.folder)
        (r.folder / FAILURE).unlink(missing_ok=True)
        rows = r.rows()
        gpus = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
        attempt = {"argv": r.argv, "iteration": rows[-1]["iteration"] if rows else 0, "begun": time.time()}
        r.keep([*r.attempts, attempt | gpus | {"seconds": None, "end": None}])
        self.started, self.said_before = time.monotonic(), r.log.stat().st_size if r.log.is_file() else 0
        threads = max(1, self.engine.cpus // r.processes)
        self.process.start(r.argv, r.log, threads, warm=r.warm and self.engine.warm)

    def refused(self, reason: str) -> dict[str, Any]:
        """Ends a trial whose mistake another attempt would only make again: it is not retried as a crash is."""
        self.process.kill()
        self.ending(reason)
        self.record.give_up(f"refused: {reason}")
        self.unlock()
        return {self.metric: math.nan, "finished": False, "done": True}

    def ending(self, words: str) -> None:
        """Writes down how the attempt ended."""
        *before, last = self.record.attempts
        took = time.monotonic() - self.started
        self.record.keep([*before, last | {"end": words, "seconds": took}])

    def failed(self, reason: str) -> RuntimeError:
        """Ends an attempt that failed."""
        self.process.kill()
        self.ending(reason)
        self.unlock()
        return RuntimeError(reason)

    def result(self) -> dict[str, Any]:
        """The figures of a trial that is over: its last row and its summary."""
        summary = self.record.summary
        if not self.over:
            if summary is None:
                raise self.failed("it ended without a summary, as after a signal to stop")
            self.ending(self.record.state)
        self.unlock()
        rows = self.record.rows()
        figures = {k: v for k, v in (summary or {}).items() if isinstance(v, (int, float))}
        ends = {"finished": summary is not None, "done": True}
        return {self.metric: math.nan, **(rows[-1] if rows else {}), **figures, **ends}

    def unlock(self) -> None:
        """Leaves the folder to others."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    def leave(self) -> None:
        """Ends a run that the scheduler stopped."""
        if self.begun and self.lock is not None:
            self.process.kill()
            if not self.over:
                self.ending("stopped by the sweep")
        self.unlock()

    def cleanup(self) -> None:
        self.leave()
        self.process.kill()
