"""The command line: environment, help, errors as one paragraph, and the task that the configuration names."""

from __future__ import annotations

import ast
import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from pgdlab.config.compose import Config, draft, finish, load_run
from pgdlab.config.groups import CONFIGS, options, parse_one, slots
from pgdlab.config.runs import as_yaml
from pgdlab.config.schema import ConfigError, nearest

TASKS = Path(__file__).parent / "tasks"

EXAMPLES = """\
Examples:
  python run.py                                        the quickstart
  python run.py experiment=NAME trainer.KEY=VALUE      another experiment, one setting of it changed
  python run.py trainer=NAME                           another trainer: its whole node is replaced
  python run.py heldout=NAME plan.iterations=10 seed=3
  python run.py resume=runs/NAME plan.iterations=80    go on where a run stopped
  python run.py --help trainer=NAME                    every key and its value, after these overrides
Flags: --help, --cfg job (the resolved configuration as YAML), --cfg job --raw (as the files state it).
PGDLAB_DEBUG=1 shows tracebacks."""


def main(argv: Sequence[str], imported: Callable[[], object] = lambda: None) -> int:
    """Runs a task. Returns the exit code: 0, 2 after a mistake that the user can mend, 130 after Ctrl-C.

    imported: called when the task's modules are there.
    """
    prepare_environment()
    if list(argv) == ["--serve"]:
        from pgdlab.sweep.worker import serve

        imported()
        return serve(main)
    try:
        return dispatch(argv, imported)
    except KeyboardInterrupt as stop:
        print(" ".join(["interrupted;", *str(stop).split()]).strip(";"), file=sys.stderr)
        return 130
    except user_errors() as error:
        if os.environ.get("PGDLAB_DEBUG") == "1":
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def prepare_environment() -> None:
    """Sets what has to be set before torch is imported; whatever the user has set stays.

    Spinning OpenMP threads on a shared 2-core machine made a forward pass 12 times slower than passive ones.
    OpenMP counts the cores it may run on, but not a container's share of them: only a smaller share is written down,
    since Lightning divides the cores among processes only where OMP_NUM_THREADS is unset.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    share = container_cores(Path("/sys/fs/cgroup/cpu.max"))
    if share is not None and share < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(share))


def container_cores(file: Path) -> int | None:
    """Whole cores of a cgroup's quota (`quota period` in microseconds), at least 1; None where there is no limit."""
    try:
        quota, period = file.read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None


def user_errors() -> tuple[type[Exception], ...]:
    """The errors that a user can mend: ValueError says what was given and allowed, OSError is the disk; Lightning has its own."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return (ValueError, OSError, *((lightning.MisconfigurationException,) if lightning else ()))


def dispatch(argv: Sequence[str], imported: Callable[[], object]) -> int:
    """Prints what a flag asks for, or imports the task's module and calls its main(cfg)."""
    flags, overrides = read_flags(argv)
    if "--help" in flags and not overrides:
        print(help_text())
        return 0
    if "--raw" in flags:
        print(as_yaml(draft(overrides)), end="")
        return 0
    cfg = configuration(overrides)
    if flags:
        print(as_yaml(cfg), end="")
        return 0
    task = importlib.import_module(f"pgdlab.tasks.{cfg.task}")
    imported()
    return task.main(cfg) or 0


def read_flags(argv: Sequence[str]) -> tuple[set[str], list[str]]:
    """Flags, and the overrides among them."""
    words = ["--help" if word == "-h" else word for word in argv]
    if "--cfg" in words:
        after = words.index("--cfg") + 1
        if words[after : after + 1] != ["job"]:
            raise ConfigError("--cfg takes one word, job: `python run.py --cfg job`")
        del words[after]
    flags = {word for word in words if word.startswith("-")}
    for flag in flags - {"--help", "--cfg", "--raw"}:
        raise ConfigError(f"{flag} is not a flag; settings are written key=value.{nearest(flag, tasks_and_flags())}")
    return flags, [word for word in words if word not in flags]


def tasks_and_flags() -> list[str]:
    """The words that may stand in the place of a flag."""
    return ["--help", "--cfg job", "--raw", *(f"task={name}" for name in tasks())]


def configuration(overrides: Sequence[str]) -> Config:
    """The run's configuration: a saved one where `resume` is given, a new one otherwise."""
    pairs = [parse_one(text) for text in overrides]
    folder = dict(pairs).get("resume")
    if folder is not None:
        cfg = load_run(str(folder), [text for text, (key, _) in zip(overrides, pairs, strict=True) if key != "resume"])
        check_run(cfg)
        return cfg
    cfg = draft(overrides)
    check_run(cfg)  # before the classes are imported, which takes seconds
    return finish(cfg)


def check_run(cfg: Config) -> None:
    """Raises ConfigError for a task that is not a file of pgdlab/tasks, and for a seed or a name that no run can have."""
    if cfg.task not in tasks():
        raise ConfigError(f"task is {cfg.task!r}, which is not a task.{nearest(cfg.task, tasks())}")
    if not 0 <= cfg.seed < 2**63:
        raise ConfigError(f"seed is {cfg.seed}; it must be a whole number from 0 to 2^63 - 1")
    path = Path(cfg.name or "")
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"name is {cfg.name!r}; it must name a folder under runs/, without .. and no / at the start")


def tasks() -> dict[str, Path]:
    """The tasks: name -> file."""
    return {file.stem: file for file in sorted(TASKS.glob("*.py")) if not file.stem.startswith("_")}


def help_text() -> str:
    """Tasks, groups with their options, experiments with their first comment, examples. Imports no task, no torch."""
    groups = {slot: ", ".join(options(place.group)) for slot, place in slots().items() if slot != "experiment"}
    parts = [
        "pgdlab steers diffusion models with reinforcement learning.",
        "Usage: python run.py [task=NAME] [experiment=NAME] [group=OPTION ...] [key=value ...]",
        table("Tasks", {name: docstring(file).removeprefix(f"task={name}: ") for name, file in tasks().items()}),
        table("Groups", groups),
        table("Experiments", {name: comment(file) for name, file in options("experiment", CONFIGS).items()}),
        EXAMPLES,
    ]
    return "\n\n".join(parts)


def table(title: str, rows: dict[str, str]) -> str:
    """Two columns, the second wrapped."""
    width = max((len(name) for name in rows), default=0) + 2
    pad = " " * (width + 2)
    lines = [
        textwrap.fill(
            text or "(none)", 110, initial_indent=f"  {name:{width}}", subsequent_indent=pad, break_on_hyphens=False
        )
        for name, text in rows.items()
    ]
    return "\n".join([f"{title}:", *lines])


def docstring(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


def comment(file: Path) -> str:
    """The first comment of a YAML file that is not a directive."""
    lines = (line.lstrip("# ").strip() for line in file.read_text().splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("@")), "")
