"""All that is asked of a card, for when one is at hand for minutes: python -m benchmarks.on_card FOLDER --minutes 9

Steps in the order of their value, each in a process of its own with a limit: the table of benchmarks.card, the one beside the
peers, `pytest -m gpu`, `runtime=bf16` on digits, molecules and emoji, compiled passes, the larger sizes. A step that fails or is
too slow is ended, and the next one begins; none begins in the last seconds. FOLDER has what each of them says, and summary.md.
Ends with 1 where a step failed. Nothing is needed but the package's own extras and weights. cpu: the same at the smallest sizes
without a card, to try the program; the tests of a card are skipped there.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEAST = 20.0  # seconds without which no step begins
CARD = ("-m", "benchmarks.card")
LIMITS = {"compiled": 240.0} | dict.fromkeys(("digits", "molecules", "emoji"), 90.0)  # seconds; of all else 150
TESTS = ("-m", "pytest", "-m", "gpu", "-n0", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py")
EXPERIMENTS = {"digits": "digits/quickstart", "molecules": "molecules/ppo_kl", "emoji": "emoji/jpeg"}
SHORT = ("plan.iterations=3", "plan.eval_samples=16")
SMALL = ("plan.samples=4", "plan.group=4", "policy.steps=3", "plan.iterations=1", "plan.eval_samples=4")


@dataclass(frozen=True, kw_only=True)
class Step:
    """name: of its file. words: what Python is given. limit: seconds."""

    name: str
    words: tuple[str, ...]
    limit: float


def steps(cpu: bool) -> list[Step]:
    """The most valuable one first."""
    if cpu:
        tiny = (*CARD, "--size", "latent", *SMALL[:3], "domain.width=8", "trainer.minibatches=2")
        first = {"card": (*tiny, "--rounds", "1"), "peers": (*tiny, "--peers", "--seconds", "0")}
        more = {}
    else:
        card = (*CARD, "runtime=gpu", "--size")
        first = {"card": (*card, "sd", "--seconds", "30"), "peers": (*card, "sd", "--peers", "--seconds", "45")}
        more = {"compiled": (*card, "sd", "--rounds", "2", "--compiled", "default", "reduce-overhead")}
        more |= {size: (*card, size, "--seconds", "30") for size in ("sd3", "sdxl", "flux")}
    sizes = (*SMALL, "runtime=cpu") if cpu else (*SHORT, "runtime=bf16")
    runs = {name: ("run.py", f"experiment={path}", f"name={name}", *sizes) for name, path in EXPERIMENTS.items()}
    every = first | {"tests": TESTS} | runs | more
    return [Step(name=name, words=words, limit=LIMITS.get(name, 150)) for name, words in every.items()]


def ended(step: Step, folder: Path, limit: float) -> tuple[str, float]:
    """How a step went, and its seconds; what it says is in the folder, where its run is too."""
    begun = time.monotonic()
    script = step.words[0] if step.words[0] == "-m" else str(ROOT / step.words[0])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    where = ROOT if step.words[0] == "-m" else folder
    with (folder / f"{step.name}.txt").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, script, *step.words[1:]],
            cwd=where,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            how = "done" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            how = f"not done after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return how, time.monotonic() - begun


def main(folder: Path, plan: Sequence[Step], minutes: float) -> int:
    """1 where a step failed. Prints each as it ends, and writes summary.md."""
    folder.mkdir(parents=True, exist_ok=True)
    late, failed = time.monotonic() + 60 * minutes, False
    lines = ["| step | command | seconds | |", "|---|---|---|---|"]
    for step in plan:
        left = late - time.monotonic()
        how, took = ended(step, folder, min(step.limit, left)) if left >= LEAST else ("no time was left", 0.0)
        failed |= how.startswith(("exit", "not done"))
        lines.append(f"| {step.name} | `python {' '.join(step.words)}` | {took:.0f} | {how} |")
        print(lines[-1], flush=True)
        (folder / "summary.md").write_text("\n".join(lines) + "\n")
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--only", nargs="+", default=None, help="the names of steps")
    options = parser.parse_args()
    chosen = [step for step in steps(options.cpu) if options.only is None or step.name in options.only]
    sys.exit(main(options.folder.resolve(), chosen, options.minutes))
