"""Seconds from the command to the first training step: python -m benchmarks.startup --rounds 5 experiment=digits/quickstart

Does what `python run.py` does with the words that follow, in an empty folder, until the first training step. The first round may
have to read files that the later ones find in memory; medians of these. docs/performance.md says what the lines mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.profilers import Profiler

ROOT = Path(__file__).resolve().parent.parent
CLOCK = "runtime.profiler={_target_: benchmarks.startup.FirstStep}"
SPENT: dict[str, float] = {}  # of this process


class FirstStep(Profiler):
    """Ends the process at its first training step."""

    def start(self, action_name: str) -> None:
        if action_name == "[LightningModule]SteeringModule.on_train_epoch_start":
            self.collecting = time.time()
        if action_name.endswith(".training_step"):
            SPENT["first rollout"] = time.time() - self.collecting
            SPENT["first training step"] = time.time() - float(os.environ["BEGUN"])
            print(json.dumps(SPENT), flush=True)
            os._exit(0)

    def stop(self, action_name: str) -> None: ...


def watched() -> None:
    """Does what run.py does, in a process that run() starts."""
    from pgdlab.cli import main

    sys.exit(main(sys.argv[1:], imported))


def imported() -> None:
    """Called when all modules of the task are there."""
    from pgdlab.tasks import train

    SPENT["imports"] = time.time() - float(os.environ["BEGUN"])
    examine = train.examine

    def timed(*given: Any) -> Any:
        begun = time.time()
        found = examine(*given)
        SPENT["doctor"] = time.time() - begun
        return found

    train.examine = timed


def run(words: list[str]) -> dict[str, float]:
    """Part -> seconds, of one process."""
    call = "from benchmarks.startup import watched; watched()"
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "BEGUN": str(time.time())}
        command = [sys.executable, "-c", call, CLOCK, *words]
        out = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def main(rounds: int, words: list[str]) -> None:
    """Prints the table."""
    rows = [run(words) for _ in range(rounds)]
    print(f"{'seconds':22}{'first':>8}{'later':>8}")
    for name in rows[0]:
        print(f"{name:22}{rows[0][name]:8.1f}{statistics.median(r[name] for r in rows[1:]):8.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options, rest = parser.parse_known_args()
    main(options.rounds, rest)
