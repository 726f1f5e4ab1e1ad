"""A sweep of 24 tiny trials, once undisturbed and once with trials that raise, are killed and hang and a driver that is killed
in the middle of a trial: whether both end with the same bits, and what the engine costs. Run it in the checkout:
python -m benchmarks.sweeps"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import yaml

from pgdlab.config.runs import CONFIG, LAST
from pgdlab.sweep.file import read
from pgdlab.sweep.records import Record, record
from tests.training.test_resume import differences, rows, state
from tests.worlds import tiny

ROOT = Path(__file__).resolve().parent.parent
FAULTS, SEEDS = ["none", "raise", "kill", "hang"], range(6)


def write(file: Path) -> None:
    """The sweep file."""
    words = tiny("plan.iterations=12", "reward={_target_: tests.faults.Faulty}", "penalty=constraint", "heldout=null")
    space = {"reward.fault": {"values": FAULTS}, "seed": {"values": list(SEEDS)}}
    command = ["python", "${program}", *words, "${args_no_hyphens}"]
    content = {"program": "run.py", "method": "grid", "command": command, "parameters": space}
    file.write_text(yaml.safe_dump(content | {"metric": {"name": "reward_after", "goal": "maximize"}}))


def run(home: Path, environment: dict[str, str], kills: int) -> float:
    """Seconds that the sweep takes, its driver killed so many times while a trial that is not hanging is half done."""
    command = [sys.executable, str(ROOT / "run.py"), "task=sweep", "sweep=x.yaml", "engine.seconds=30"]
    some = [r for r in trials(home) if r.chosen["reward.fault"] != "hang"]
    started = time.perf_counter()
    for number in range(kills + 1):
        driver = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.DEVNULL)
        while number < kills and not (
            sum(r.summary is not None for r in some) >= 5 * (number + 1) and any(map(half_done, some))
        ):
            assert driver.poll() is None, "the sweep ended before its driver could be killed"
            time.sleep(0.01)
        if number < kills:
            driver.send_signal(signal.SIGKILL)
        code = driver.wait()
    assert code == 0, "a trial did not finish"
    return time.perf_counter() - started


def half_done(r: Record) -> bool:
    """Whether an attempt of this trial is under way and has left a checkpoint."""
    return (r.folder / LAST).is_file() and r.summary is None and r.attempts[-1]["end"] is None


def trials(home: Path) -> list[Record]:
    """All records, looked at from the sweep's directory."""
    os.chdir(home)
    sweep = read("x.yaml")
    return [record(sweep, some) for some in sweep.grid()]


def overheads(some: list[Record]) -> list[float]:
    """Of each trial, from its beginning to that of the next in the same slot, less the run's own seconds."""
    attempts = sorted((r.attempts[-1]["begun"], r.attempts[-1]["seconds"], r.summary["seconds"]) for r in some)  # type: ignore[index]
    free: list[tuple[float, float]] = []  # when a slot's last run began, and its own seconds
    found = []
    for begun, took, own in attempts:
        ready = [slot for slot in free if slot[0] + slot[1] <= begun]
        if ready:
            last = max(ready)
            free.remove(last)
            found.append(begun - last[0] - last[1])
        free.append((begun, own))
        del took
    return found


def main() -> None:
    """Prints the figures."""
    base = dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory() as calm,
        tempfile.TemporaryDirectory() as rough,
        tempfile.TemporaryDirectory() as memory,
    ):
        for home in (calm, rough):
            write(Path(home) / "x.yaml")
        seconds = run(Path(calm), base, 0)
        first = trials(Path(calm))
        runs = [r.summary["seconds"] for r in first]  # type: ignore[index]
        extra = overheads(first)
        print(
            f"{len(first)} trials undisturbed: {seconds:.0f} s in all, a run takes {statistics.median(runs):.1f} s (median)"
        )
        print(f"beyond the run, a trial in a warm process costs {statistics.median(extra):.1f} s (median)")
        calm_state = {r.name: (state(r.folder), rows(r.folder), (r.folder / CONFIG).read_text()) for r in first}
        seconds = run(Path(rough), base | {"PGDLAB_TEST_FAULTS": memory}, 2)
        second = trials(Path(rough))
        ends = [a["end"] or "the driver was killed" for r in second for a in r.attempts]
        print(f"disturbed, the driver killed twice: {seconds:.0f} s, {len(ends)} attempts, which ended so:")
        for end in sorted(set(ends)):
            print(f"  {ends.count(end)}  {end}")
        after = [b["argv"][0] for r in second for a, b in pairwise(r.attempts) if a["end"] is None]
        went_on = sum(word.startswith("resume=") for word in after)
        print(
            f"the driver's death caught {len(after)} of them; {went_on} went on from a checkpoint, the others began anew"
        )
        for r in second:
            was, table, config = calm_state[r.name]
            assert not differences(state(r.folder), was), r.name
            assert rows(r.folder) == table, r.name
            assert yaml.safe_load((r.folder / CONFIG).read_text()) == yaml.safe_load(config), r.name
        print("all checkpoints, figures and configs are bitwise those of the undisturbed sweep")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
