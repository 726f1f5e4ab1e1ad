"""What SIGTERM and Ctrl-C do to a run: they end it as an exception does, and the exit code says which one it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A signal ended what went on; number: of the signal. The process ends with 128 and the number, as shells have it."""

    def __init__(self, number: int, said: str = "") -> None:
        super().__init__(said)
        self.number, self.code = number, 128 + number

    @staticmethod
    def of(stop: KeyboardInterrupt, said: str = "") -> Stopped:
        """Any interruption, with a word on how to go on."""
        return Stopped(stop.number if isinstance(stop, Stopped) else signal.SIGINT, said)


@contextmanager
def hearing() -> Iterator[None]:
    """SIGTERM as an exception, like Ctrl-C: files are closed, and it is said how to go on."""

    def stop(number: int, *_: object) -> None:
        raise Stopped(number)

    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if own:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
