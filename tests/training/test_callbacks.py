"""The progress of a run, as it is printed: how long it takes is said on every terminal, and without one."""

from __future__ import annotations

import io
import re
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
from rich.console import Console

from pgdlab.training.callbacks import ProgressBar
from tests.worlds import BRIGHT, recorder

ROW = {
    "reward": 0.473, "heldout": 0.141, "kl_nats": 12.3, "train/clip_fraction_high": 0.2, "train/clip_fraction_low": 0.1,
    "queries": 128000.0,
}  # fmt: skip


def shown(console: Console, monkeypatch: pytest.MonkeyPatch, seconds: float = 3600.0) -> str:
    """What is on the console after one of 40 iterations, which took `seconds`."""
    clock = [100.0]
    monkeypatch.setattr("pgdlab.training.callbacks.time.monotonic", lambda: clock[0])
    module, trainer = recorder(BRIGHT)[0], Mock(spec=lightning.Trainer, is_global_zero=True, current_epoch=0)
    module.history.append(ROW)
    progress: Any = ProgressBar(40)
    progress.console = progress.bar.live.console = console
    progress.on_train_start(trainer, module)
    for _ in range(2):
        clock[0] += seconds
        progress.on_train_epoch_end(trainer, module)
        trainer.current_epoch += 1
    progress.on_train_end(trainer, module)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_without_a_terminal_a_line_says_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(Console(file=io.StringIO(), width=40), monkeypatch)
    assert (
        "iteration 1/40  1 day, 15:00:00 left  reward 0.473  held-out 0.141  KL 12.30  clipped 30%  128,000 q" in said
    )
    assert "iteration 2/40  1 day, 14:00:00 left" in said


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_keeps_the_time_left(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    last = [line for line in shown(console, monkeypatch, seconds=60.0).splitlines() if "2/40" in line][-1]
    assert re.search(r"PPO .*2/40 0:38:00 left reward 0.473", last), last
