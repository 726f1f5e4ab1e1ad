"""A run as a guest of another program, such as a notebook: what it changes of the process is put back."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

CHOICE = "PGDLAB_RUN"  # where run_folder() leaves its choice to a run's other processes
TORCH: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (lambda: torch.backends.cudnn.benchmark, lambda value: setattr(torch.backends.cudnn, "benchmark", value)),
    (lambda: torch.backends.cudnn.deterministic, lambda value: setattr(torch.backends.cudnn, "deterministic", value)),
)


@contextmanager
def guest() -> Iterator[None]:
    """Torch's settings and generator, handlers of signals, matplotlib's backend, warnings' filters, levels of loggers, the
    working directory and the environment's run folder are afterwards what they were, whatever happened."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kept in (settings, handlers, drawing, levels, surroundings):
            stack.enter_context(kept())
        yield


@contextmanager
def settings() -> Iterator[None]:
    """Torch's global settings."""
    before = [get() for get, _ in TORCH]
    try:
        yield
    finally:
        for (get, put), value in zip(TORCH, before, strict=True):
            if get() != value:
                put(value)


@contextmanager
def handlers() -> Iterator[None]:
    """Handlers of signals. Only the main thread has them: a run in another one hears no Ctrl-C."""
    heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's backend: a notebook draws with its own."""
    import matplotlib

    before = dict.__getitem__(matplotlib.rcParams, "backend")  # as it is, undecided perhaps: rcParams[...] would decide
    try:
        yield
    finally:
        if dict.__getitem__(matplotlib.rcParams, "backend") != before:
            if isinstance(before, str) and "matplotlib.pyplot" in sys.modules:
                matplotlib.use(before)
            else:
                dict.__setitem__(matplotlib.rcParams, "backend", before)


@contextmanager
def levels() -> Iterator[None]:
    """Levels of the loggers that a run silences."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def surroundings() -> Iterator[None]:
    """The working directory, and the environment's run folder."""
    folder, choice = os.getcwd(), os.environ.pop(CHOICE, None)
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.pop(CHOICE, None)
        if choice is not None:
            os.environ[CHOICE] = choice
