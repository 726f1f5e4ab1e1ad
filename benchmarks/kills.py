"""Kills short runs at random moments, resumes them, and compares all that is left with a run that nobody disturbed, bit for bit.

`python -m benchmarks.kills --kills 100`: SIGKILL, uniformly over the time that the run takes; every third one is killed once
more while it is resumed. A run that has no checkpoint yet is begun anew. Weights, averages, optimizer, metrics.csv without its
seconds and summary.json without seconds must be equal. Ends with 1 where one is not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from pgdlab import cli
from pgdlab.config.runs import LAST, METRICS, SUMMARY
from pgdlab.tasks import train  # noqa: F401  imported once: a run is a fork of this process
from pgdlab.training.checkpoint import load

POINTS = (
    "experiment=oracle/linear",
    "plan.iterations=30",
    "plan.checkpoint_every=2",
    "plan.samples=64",
    "initial=diagonal",
)
STATE = (
    "state_dict",
    "current_model_state",
    "averaging_state",
    "optimizer_states",
    "lr_schedulers",
    "epoch",
    "global_step",
)
LATER = ("seconds", "training_seconds", "evaluation_seconds", "versions")


def start(words: Sequence[str], place: Path) -> int:
    """A run of its own process in a directory; its output goes to a file there."""
    child = os.fork()
    if child:
        return child
    os.chdir(place)
    os.environ.pop("PGDLAB_RUN", None)
    sys.argv = ["run.py", *words]
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        code = cli.main(words)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Waits for a process. Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(words: Sequence[str], place: Path, after: float) -> bool:
    """Starts a run and kills it so many seconds later; whether it was still at work."""
    child = start(words, place)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def words_for(place: Path, own: Sequence[str]) -> list[str]:
    """How a user goes on: resume where there is a checkpoint, else the same command anew."""
    folder = place / "runs" / "x"
    if (folder / LAST).is_file():
        return ["resume=runs/x"]
    shutil.rmtree(folder, ignore_errors=True)
    return [*own, "name=x"]


def left(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without what depends on the clock."""
    state = load(folder / LAST)
    for part in ("state_dict", "current_model_state"):
        state[part].pop("seconds")
    with (folder / METRICS).open(newline="") as file:
        rows = [{name: cell for name, cell in row.items() if "seconds" not in name} for row in csv.DictReader(file)]
    summary = {name: value for name, value in json.loads((folder / SUMMARY).read_text()).items() if name not in LATER}
    return {"checkpoint": {name: state[name] for name in STATE}, "metrics": rows, "summary": summary}


def differences(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Where two nested states differ, bitwise."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or not torch.equal(a, b):
            yield name
    elif isinstance(a, dict) and isinstance(b, dict):
        yield from (f"{name}.{key}" for key in a.keys() ^ b.keys())
        for key in a.keys() & b.keys():
            yield from differences(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{name}[{i}]")
    elif a != b:
        yield name


def one(number: int, own: Sequence[str], whole: dict[str, Any], seconds: float, home: Path, draw: random.Random) -> str:
    """A run that is killed and resumed: empty where it is equal, else what is not."""
    place = home / str(number)
    place.mkdir()
    hits = 0
    for _ in range(2 if number % 3 == 2 else 1):
        hits += killed(words_for(place, own), place, draw.uniform(0.02, 1.0) * seconds)
    code = ended(start(words_for(place, own), place))
    log = (place / "log").read_text().strip().splitlines()
    wrong = (
        [f"exit code {code}: {log[-1] if log else ''}"] if code else [*differences(left(place / "runs" / "x"), whole)]
    )
    wrong += [f"left over: {file.name}" for file in (place / "runs" / "x").rglob("*.part")] if not code else []
    shutil.rmtree(place)
    return ", ".join(wrong)


def main(arguments: Sequence[str]) -> int:
    """Prints a line for each that is not equal, and the count. Exit code 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        started = time.monotonic()
        assert ended(start([*POINTS, "name=x"], home)) == 0, (home / "log").read_text()
        seconds = time.monotonic() - started
        whole, wrong = left(home / "runs" / "x"), 0
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        for number in range(given.kills):
            found = one(number, POINTS, whole, seconds, home, draw)
            wrong += bool(found)
            if found or number % 10 == 9:
                print(f"{number + 1}/{given.kills}: {number + 1 - wrong} equal {found}", flush=True)
    print(f"{given.kills - wrong} of {given.kills} equal, bit for bit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
