"""What a long step is doing, on stderr: a spinner on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

PATIENCE = 10  # seconds without a word, where there is no terminal


class Working:
    """`with Working() as working: working.say("evaluating base/sde, 1 of 6")`. Short steps say nothing outside a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.status = Status("", console=self.console) if self.console.is_terminal else None
        self.last = time.monotonic()

    def __enter__(self) -> Working:
        if self.status is not None:
            self.status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is not None:
            self.status.stop()

    def say(self, text: str, *, now: bool = False) -> None:
        """What begins. now: at once, as before a step that takes long by itself."""
        if self.status is not None:
            self.status.update(text)
        elif now or time.monotonic() - self.last > PATIENCE:
            self.last = time.monotonic()
            self.console.print(text, soft_wrap=True)
