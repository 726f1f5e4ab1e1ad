"""The loss of a process: the others end within seconds, and say how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from pgdlab.config.launch import launcher

PERIOD = (
    0.2  # seconds; Lightning kills its process without a word where it sees first, which it looks for every 5 seconds
)


class Watch(Callback):
    """Ends this process where another one of its run has ended: the next exchange would wait for it, for half an hour under nccl.
    Where an exchange has failed first, fit() says so. Of processes that torchrun or srun started, these end the others.

    advice: how to go on with the run.
    """

    def __init__(self, advice: Callable[[], str]) -> None:
        self.advice, self.over = advice, threading.Event()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.world_size > 1 and launcher() == "own":
            told = (processes_of(trainer), os.getppid())
            threading.Thread(target=self.watch, args=told, daemon=True, name="watch").start()

    def watch(self, processes: Sequence[subprocess.Popen[bytes]], parent: int) -> None:
        """processes: of the other ranks, from 1, in the first one; none in the others, whose parent is the first one."""
        while not self.over.wait(PERIOD):
            orphan = not processes and os.getppid() != parent
            lost = "the first process of the run ended" if orphan else ended(processes)
            if lost and not self.over.wait(PERIOD):
                os.write(2, f"\nerror: {lost}; {self.advice()}\n".encode())
                for process in processes:
                    process.kill()
                os._exit(2)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.over.set()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.over.set()


def processes_of(trainer: lightning.Trainer) -> Sequence[subprocess.Popen[bytes]]:
    """Those that a run's first process has started, by rank from 1."""
    return getattr(trainer.strategy.launcher, "procs", [])


def ended(processes: Sequence[subprocess.Popen[bytes]]) -> str:
    """Which one of them has failed, and how; empty where none has."""
    for rank, process in enumerate(processes, 1):
        code = process.poll()
        if code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return f"the process of rank {rank} ended ({how})"
    return ""


def lost_process(trainer: lightning.Trainer, seconds: float = 2.0) -> str:
    """Which other process of a run has ended, and how, where an exchange with it failed; empty where none has."""
    started, late = processes_of(trainer), time.monotonic() + seconds
    while started and time.monotonic() < late:  # a connection breaks a moment before the system says why
        if how := ended(started):
            return how
        time.sleep(0.05)
    return "" if started else "another process of the run ended"
