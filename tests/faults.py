"""A reward that spoils a run, where PGDLAB_TEST_FAULTS names a folder to remember that in."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from pgdlab.config.runs import LAST, METRICS
from pgdlab.rewards.base import Score
from tests.worlds import Bright

SLOW = 4.0  # seconds


class Faulty(Bright):
    """Mean grey level. fault: none; raise, kill or hang, once and after the first checkpoint; always (kill, whenever the run is
    begun or continued); slow (the fourth iteration takes some seconds more)."""

    def __init__(self, *, fault: str = "none") -> None:
        super().__init__()
        self.fault = fault

    def score(self, sample: Any, cond: Tensor) -> Score:
        memory = os.environ.get("PGDLAB_TEST_FAULTS")
        if memory is not None and self.fault != "none":
            self.spoil(Path(memory))
        return super().score(sample, cond)

    def spoil(self, memory: Path) -> None:
        words = dict(word.split("=", 1) for word in sys.argv[1:])
        folder = Path(words.get("resume") or f"runs/{words['name']}")
        mark = memory / folder.name
        if self.fault == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "slow":
            if not mark.exists() and len(metrics(folder)) == 3:
                mark.touch()
                time.sleep(SLOW)
            return
        if not (folder / LAST).is_file() or mark.exists():
            return
        mark.touch()
        if self.fault == "raise":
            sys.exit("spoiled")  # what a reward raises is measured and masked; this goes through
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)


def metrics(folder: Path) -> list[str]:
    """The lines of metrics.csv below its head."""
    file = folder / METRICS
    return file.read_text().splitlines()[1:] if file.is_file() else []
