"""The process of a trial: this program, in a warm worker or started for the purpose, which ends when its owner does."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pgdlab
from pgdlab.config.defaults import FILE

RUN = Path(pgdlab.__file__).resolve().with_name("__main__.py")  # there in a wheel too
SERVE = "--serve"  # the argument that makes this program a worker
OTHERS = ("SLURM_", "PMI", "OMPI_")  # of the job that Ray runs in: a trial is not one of its ranks
PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None  # looked up here: not between fork and exec
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PGDLAB_RUN")


def environment(threads: int) -> dict[str, str]:
    """A trial's: so many CPU threads, and nothing of the ranks of a surrounding job."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(OTHERS) and k not in RANKS}
    paths = [str(RUN.parent.parent), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def die_with_parent() -> None:
    """In a new process: SIGKILL follows the death of the one that made it (Linux; elsewhere nothing)."""
    if PRCTL is not None:
        PRCTL(1, signal.SIGKILL)


class Process:
    """Runs command lines one after another. warm: in one worker that is kept, else each in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.child: subprocess.Popen[bytes] | None = None
        self.warm = False

    def start(self, argv: list[str], log: Path, threads: int, *, warm: bool) -> None:
        """Begins a run with so many CPU threads a process; its output is added to the log."""
        if (self.root / FILE).is_file():  # a sweep's file says what its runs are
            argv = ["--no-defaults", *argv]
        if self.child is None or self.child.poll() is not None or not (warm and self.warm):
            self.kill()
            self.spawn([str(RUN), *([SERVE] if warm else argv)], log, threads, warm=warm)
        if warm:
            assert self.child is not None
            assert self.child.stdin is not None
            order = {"argv": argv, "log": str(log)}
            self.child.stdin.write(json.dumps(order).encode() + b"\n")
            self.child.stdin.flush()

    def spawn(self, words: list[str], log: Path, threads: int, *, warm: bool) -> None:
        """A new process. It leads a group, so that the processes that it starts end with it."""
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.PIPE if warm else subprocess.DEVNULL, stdout=subprocess.PIPE if warm else out, stderr=out,
                cwd=self.root, env=environment(threads), start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        self.warm = warm

    def ended(self, seconds: float) -> int | None:
        """Waits so long at most. The exit code, negative for a signal; None where the run goes on."""
        assert self.child is not None
        if self.warm:
            assert self.child.stdout is not None
            ready, _, _ = select.select([self.child.stdout], [], [], seconds)
            return None if not ready else 0 if self.child.stdout.readline() else self.child.wait()
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Ends the process and its group at once, where there is one."""
        if self.child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                pipe.close()
        self.child = None


ERROR = re.compile(r"(error: |[\w.]*(Error|Exception)\b)")  # how a line begins that says why


STOPPED = {130: "SIGINT", 143: "SIGTERM"}  # exit codes of a run that was asked to stop and did


def said(code: int, log: Path, before: int = 0) -> str:
    """Why a run ended with this code: the signal, or the last error in its log, or the last line; of what came after so many
    bytes."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")
    if code in STOPPED:
        return f"stopped by {STOPPED[code]} (exit code {code})"
    text = log.read_bytes()[before:].decode(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return f"exit code {code}: {(errors or lines or ['it said nothing'])[-1]}"
