"""How the cost of training grows: python -m benchmarks.scaling

An iteration of the `latent` item (benchmarks/items.py) at several sizes, one of which varies at a time: samples, steps, width of
the network, fraction of the steps that is trained. Beside the processor seconds (less reward and optimiser) the operations of its
network passes, which torch's FlopCounterMode counts in one forward and one backward of a row. A line is fitted to seconds against
operations: its constant as a share of the largest, and how far the points are from it. Then peak memory against the steps, and
two processes against one (wall time, all of it). One thread in each process; medians over the rounds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.items import ITEMS, LATENT
from benchmarks.loop import Rounds, measure
from benchmarks.passes import Call

ROOT = Path(__file__).resolve().parent.parent
FRACTION = "plan.trained_steps={{_target_: pgdlab.rollout.plan.RandomSteps, fraction: {}}}"
AXES: dict[str, tuple[str, tuple[Any, ...]]] = {  # what varies: its override, and its values
    "samples": ("plan.samples={}", (16, 32, 48, 64)),
    "steps": ("policy.steps={}", (5, 10, 15, 20)),
    "width": ("domain.width={}", (24, 40, 56, 72)),
    "fraction": (FRACTION, (0.25, 0.5, 0.75, 1.0)),
}
USUAL = {"samples": 32, "steps": 10, "width": 56, "fraction": 1.0}


def words(**sizes: Any) -> tuple[str, ...]:
    """A run of these sizes."""
    return (*LATENT, *(AXES[name][0].format(value) for name, value in (USUAL | sizes).items()), "plan.group=4")


class Alone(Rounds):
    """Iterations only: no bare passes between them."""

    def between(self) -> None: ...


def seconds(result: Rounds) -> float:
    """Processor seconds of an iteration, less reward and optimiser."""
    return float(np.median([row["all"][1] - row["reward"][1] - row["optimiser"][1] for row in result.parts]))


def operations(result: Rounds) -> float:
    """Of an iteration's network passes, in units of 1e9."""
    sampled, trained = (sum(c.rows for c in calls) for calls in (result.sampling, result.training))
    return (sampled * flops(result.sampling[0]) + trained * flops(result.training[0])) / 1e9


def flops(call: Call) -> float:
    """Of a pass, a row."""
    with FlopCounterMode(display=False) as counted:
        call.bare()
    return counted.get_total_flops() / call.rows


def sweep(name: str, rounds: int) -> None:
    """Prints an axis, and the line through its points."""
    runs = [measure(words(**{name: value}), Alone(rounds))[1] for value in AXES[name][1]]
    took, counted = [seconds(run) for run in runs], [operations(run) for run in runs]
    slope, constant = np.polyfit(counted, took, 1)
    off = max(abs(constant + slope * x - y) / y for x, y in zip(counted, took, strict=True))
    print(f"{name}:")
    for value, x, y in zip(AXES[name][1], counted, took, strict=True):
        print(f"  {value:6} {x:9.2f} G operations {y:8.3f} s {x / y:8.1f} G/s")
    print(
        f"  line: {1 / slope:.1f} G/s, constant {constant / max(took):+.1%} of the largest, points at most {off:.1%} off it",
        flush=True,
    )


def memory() -> None:
    """Prints what is held against the steps; eight weights in the place of a network, so that trajectories are all there is."""
    for steps in (10, 20, 40, 80):
        module, result = measure((*ITEMS["stub"], f"policy.steps={steps}"), Alone(1))
        copy = 4 * module.world.plan.samples * (steps + 1) * int(np.prod(module.policy.space.shape))
        print(
            f"memory: {steps:3} steps {result.memory / 2**20:7.2f} MiB, {result.memory / copy:.2f} trajectory copies",
            flush=True,
        )


def processes(rounds: int) -> None:
    """Prints wall seconds an iteration of one process and of two."""
    plan = [f"plan.iterations={rounds + 1}", f"plan.checkpoint_every={rounds + 1}", "plan.eval_samples=2"]
    found = []
    for runtime in ("cpu", "ddp_cpu"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(ROOT / "run.py"), *words(samples=64), *plan, f"runtime={runtime}", "name=x"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            rows = (Path(folder) / "runs" / "x" / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("seconds")
        found.append(float(np.median(np.diff([float(row.split(",")[column]) for row in rows[1:]]))))
    print(
        f"processes: {found[0]:.2f} s an iteration with one, {found[1]:.2f} s with two: {found[0] / found[1]:.2f} times as fast"
    )


def main(rounds: int) -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    for name in AXES:
        sweep(name, rounds)
    memory()
    processes(rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
