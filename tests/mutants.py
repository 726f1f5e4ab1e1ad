"""One-line mistakes that the tests must notice: `python -m tests.mutants`.

Each is applied to a temporary copy of the package, in a process of its own, and the named tests must fail; on the copy
as it is they must pass. Ends with 1 if a mistake goes unnoticed or its old text is not found exactly once. A word as
argument runs only the mistakes whose description contains it, `--part 3/10` every tenth, starting with the third.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.mistakes import Mutant, listed

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300  # seconds that one may take
PROCESSES = 2


MUTANTS = listed()


def applied(mutant: Mutant, root: Path) -> str:
    """The mutated text of the file. Raises ValueError where the old text is not there exactly once."""
    text = (root / "pgdlab" / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.what}: {mutant.old!r} is {text.count(mutant.old)} times in pgdlab/{mutant.file}, not once"
        )
    return text.replace(mutant.old, mutant.new)


def start(copy: Path, test: str, only: str, log: Path) -> int:
    """Begins pytest in a forked process, which has torch and diffusers loaded but nothing of pgdlab; its number."""
    child = os.fork()
    if child:
        return child
    signal.alarm(LIMIT)
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(copy)
    sys.path[:] = [str(copy), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests"))]
    sys.dont_write_bytecode = True
    for name in [n for n in sys.modules if n.split(".")[0] == "tests"]:  # of `python -m tests.mutants`
        del sys.modules[name]
    import pytest

    narrowed = ["-k", only] if only else []
    code = int(pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", f"tests/{test}", *narrowed]))
    loaded = Path(sys.modules["pgdlab"].__file__ or "")
    sys.stdout.flush()
    os._exit(code if loaded.is_relative_to(copy) else 99)


def codes(mutants: Sequence[Mutant], copies: Sequence[Path]) -> Iterator[tuple[Mutant, int, str]]:
    """(mutant, pytest's exit code, output) as they end, one at a time in each copy, whose file is put back afterwards."""
    waiting, free = list(mutants), list(copies)
    running: dict[int, tuple[Mutant, Path, str]] = {}
    while waiting or running:
        if waiting and free:
            mutant, copy = waiting.pop(0), free.pop()
            file = copy / "pgdlab" / mutant.file
            clean = file.read_text()
            file.write_text(applied(mutant, copy) if mutant.old else clean)
            running[start(copy, mutant.test, mutant.only, copy / "log")] = mutant, copy, clean
            continue
        child, status = os.wait()
        mutant, copy, clean = running.pop(child)
        (copy / "pgdlab" / mutant.file).write_text(clean)
        free.append(copy)
        yield mutant, os.waitstatus_to_exitcode(status), (copy / "log").read_text()


def copied(folder: Path) -> Path:
    """What the tests need of the checkout, in the folder."""
    for part in ("pgdlab", "tests", "configs", "benchmarks", "docs", "sweeps", "examples", "results"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "run.py", "README.md"):
        shutil.copy(ROOT / file, folder)
    return folder


def chosen(word: str, part: str) -> list[Mutant]:
    """Those whose description contains the word; of these every n-th for a part "k/n", starting with the k-th."""
    first, _, step = part.partition("/")
    if not (first.isdigit() and step.isdigit() and 1 <= int(first) <= int(step)):
        raise SystemExit(f"--part is {part}; it must be k/n with k from 1 to n, such as 3/10")
    return [m for m in MUTANTS if word in m.what][int(first) - 1 :: int(step)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if anything is wrong. A crash, or no test found, is not a catch."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("word", nargs="?", default="", help="only mistakes whose description contains it")
    parser.add_argument("--part", default="1/1", help="k/n: every n-th, starting with the k-th")
    given = parser.parse_args(arguments)
    mutants = chosen(given.word, given.part)
    if not mutants:
        raise SystemExit(f"no mistake's description contains {given.word!r}")
    import diffusers.models.unets.unet_2d
    import diffusers.schedulers.scheduling_ddim
    import diffusers.schedulers.scheduling_ddpm  # noqa: F401
    import peft  # noqa: F401

    bad, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pgdlab-mutants-") as folder:
        copies = [copied(Path(folder).resolve() / str(i)) for i in range(PROCESSES)]
        clean = {(m.test, m.only): replace(m, old="", new="") for m in mutants}
        for mutant, code, output in codes(list(clean.values()), copies):
            bad += code != 0
            if code:
                print(f"tests/{mutant.test} -k {mutant.only!r} fails without any mistake:\n{output[-3000:]}")
        if bad:
            return 1
        for mutant, code, output in codes(mutants, copies):
            verdict = {0: "SURVIVED", 1: "caught"}.get(code, f"BROKEN (pytest ended with {code})")
            bad += code != 1
            print(f"{verdict:10} {mutant.what:40} pgdlab/{mutant.file:28} tests/{mutant.test}", flush=True)
            if code != 1:
                print(output[-2000:])
    print(f"{len(mutants) - bad} of {len(mutants)} mistakes caught in {time.perf_counter() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
