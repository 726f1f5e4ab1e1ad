"""The loss of a process: the others end within seconds, and say how to go on."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

PERIOD = (
    0.2  # seconds; Lightning kills its process without a word where it sees first, which it looks for every 5 seconds
)
PATIENCE, GREETING = 60.0, 5.0  # seconds for all processes to meet, and for one to say who it is
SECRET = 16  # bytes
# of a machine that is gone without a word: asked after 10 seconds of silence, given up after 20 more
SILENCE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
DONE, TOLD = b".", b"x"


class Watch(Callback):
    """Ends this process where another one of its run has ended: the next exchange would wait for it, for half an hour under nccl.
    Where an exchange has failed first, fit() says so.

    The first process has a connection to every other one, whoever started them, which the system closes when either ends.
    advice: how to go on with the run.
    """

    def __init__(self, advice: Callable[[], str]) -> None:
        self.advice, self.over = advice, threading.Event()
        self.links: dict[int, socket.socket] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.world_size > 1:
            self.links = connected(trainer)
            told = (trainer.global_rank, processes_of(trainer))
            threading.Thread(target=self.watch, args=told, daemon=True, name="watch").start()

    def watch(self, own: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """own: this process's rank. processes: that this one has started, by rank from 1."""
        while not self.over.wait(PERIOD):
            rank, told = lost(self.links)
            if rank is None or self.over.wait(PERIOD):
                continue
            who = ended(processes) or (
                f"the process of rank {rank} ended" if rank else "the first process of the run ended"
            )
            if own <= 1 and not told:  # one voice
                os.write(2, f"\nerror: {who}; {self.advice()}\n".encode())
            self.part(TOLD)
            os._exit(2)

    def part(self, word: bytes) -> None:
        """Takes leave of the others: where nothing is wrong, or where it has been said what is."""
        for link in [*self.links.values()]:  # watch() takes out those that have taken leave
            with contextlib.suppress(OSError):
                link.sendall(word)
                link.shutdown(socket.SHUT_WR)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.over.set()
        self.part(DONE)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.over.set()
        self.part(b"")


def connected(trainer: lightning.Trainer) -> dict[int, socket.socket]:
    """Rank -> a connection: to all others in the first process, to the first one in the others. Warns where some are missing."""
    strategy: Any = trainer.strategy
    door = socket.create_server(("", 0)) if trainer.global_rank == 0 else None
    port, secret = strategy.broadcast((door.getsockname()[1], secrets.token_bytes(SECRET)) if door else None)
    if door:
        links = received(door, secret, trainer.world_size - 1)
    else:
        links = reached((strategy.cluster_environment.main_address, port), secret, trainer.global_rank)
    if len(links) < (trainer.world_size - 1 if door else 1):
        warnings.warn("not all processes could be reached: the loss of one may be noticed late", stacklevel=2)
    for link in links.values():
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in SILENCE.items():
            if option := getattr(socket, name, None):
                link.setsockopt(socket.IPPROTO_TCP, option, value)
    return links


def reached(address: tuple[str, int], secret: bytes, rank: int) -> dict[int, socket.socket]:
    """The connection to the first process; none where it cannot be reached."""
    with contextlib.suppress(OSError):
        link = socket.create_connection(address, PATIENCE)
        link.sendall(secret + rank.to_bytes(4, "big"))
        return {0: link}
    return {}


def received(door: socket.socket, secret: bytes, count: int) -> dict[int, socket.socket]:
    """Connections of so many processes, by rank, or of those that come in time; of strangers, who do not know the run's secret,
    none."""
    links: dict[int, socket.socket] = {}
    late = time.monotonic() + PATIENCE
    with door:
        while len(links) < count and (left := late - time.monotonic()) > 0:
            door.settimeout(left)
            with contextlib.suppress(OSError):
                link, _ = door.accept()
                link.settimeout(min(left, GREETING))
                said = b""
                while len(said) < SECRET + 4 and (some := link.recv(SECRET + 4 - len(said))):
                    said += some
                if secrets.compare_digest(said[:SECRET], secret):
                    links[int.from_bytes(said[SECRET:], "big")] = link
                else:
                    link.close()
    return links


def lost(links: dict[int, socket.socket]) -> tuple[int | None, bool]:
    """The rank of a process that has ended, None where all are there, and whether it said that this has been told. Those that
    have taken leave are not looked at any more."""
    for link in select.select(list(links.values()), [], [], 0)[0]:
        rank = next(r for r, one in links.items() if one is link)
        try:
            word = link.recv(1)
        except OSError:
            word = b""
        if word != DONE:
            return rank, word == TOLD
        del links[rank]
    return None, False


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


def of_an_exchange(error: RuntimeError) -> bool:
    """Whether it is the processes' exchange that failed: gloo's errors have no class of their own."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def lost_process(trainer: lightning.Trainer, seconds: float = 2.0) -> str:
    """Which other process of a run has ended, and how, where an exchange with it failed; empty where none has."""
    started, late = processes_of(trainer), time.monotonic() + seconds
    while started and time.monotonic() < late:  # a connection breaks a moment before the system says why
        if how := ended(started):
            return how
        time.sleep(0.05)
    return "" if started else "another process of the run ended"
