"""The command line: environment, help, errors as one paragraph, and the task that the configuration names."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pgdlab.config import trust
from pgdlab.config.commands import COMMANDS, comment, node_help, table
from pgdlab.config.compose import Config, draft, finish, load_run
from pgdlab.config.defaults import with_defaults
from pgdlab.config.groups import CONFIGS, OWN, once, options, parse_one, slots, use_folder
from pgdlab.config.heldout import note, require_judge
from pgdlab.config.launch import require_alone
from pgdlab.config.program import program
from pgdlab.config.runs import as_yaml
from pgdlab.config.schema import ConfigError, nearest
from pgdlab.config.signals import Stopped, hearing
from pgdlab.config.tasks import reads, require_read

TASKS = Path(__file__).parent / "tasks"

EXAMPLES = """\
Examples:
  pgdlab                                               the quickstart
  pgdlab experiment=NAME trainer.KEY=VALUE             another experiment, one setting of it changed
  pgdlab experiment=NAME trainer=NAME                  another trainer: its whole node is replaced
  pgdlab heldout=NAME plan.iterations=10 seed=3
  pgdlab resume=runs/NAME plan.iterations=80           go on where a run stopped
  pgdlab resume=runs/NAME trust=my_module              ... with the code of yours that it names: docs/security.md
  pgdlab --help trainer=NAME                           that node, then every key and its value, after these overrides
Commands: ls (experiments), ls GROUP (its options), cp EXPERIMENT FILE.yaml (to change; then experiment=FILE.yaml),
  env (versions, devices, what is missing).
Flags: --help, --cfg job (the resolved configuration as YAML), --cfg job --raw (as the files state it), --config-dir DIR
  (more options: the same groups as folders), --no-defaults (leave pgdlab.yaml of this folder out).
PGDLAB_DEBUG=1 shows tracebacks."""
FLAGS = ("--help", "--cfg", "--raw", "--no-defaults")


def main(argv: Sequence[str], imported: Callable[[], object] = lambda: None) -> int:
    """Runs a task. Returns the exit code: 0, 2 after a mistake that the user can mend, 130 after Ctrl-C, 143 after SIGTERM.

    imported: called when the task's modules are there.
    """
    prepare_environment()
    if list(argv) == ["--serve"]:
        from pgdlab.sweep.worker import serve

        imported()
        return serve(main)
    try:
        with hearing():
            return dispatch(argv, imported)
    except KeyboardInterrupt as stop:
        print(" ".join(["interrupted;", *str(stop).split()]).strip(";"), file=sys.stderr)
        return Stopped.of(stop).code
    except user_errors() as error:
        if os.environ.get("PGDLAB_DEBUG") == "1":
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if os.environ.get("PGDLAB_DEBUG") == "1" or not out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        print(
            f"error: memory has run out ({said}): smaller plan.samples, plan.eval_samples or policy.steps need less",
            file=sys.stderr,
        )
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


def out_of_memory(error: Exception) -> bool:
    """Whether an error is about memory, of this machine or of a GPU."""
    lightning = sys.modules.get("lightning.pytorch.utilities.memory")
    return isinstance(error, MemoryError) or (lightning is not None and lightning.is_oom_error(error))


def dispatch(argv: Sequence[str], imported: Callable[[], object]) -> int:
    """Prints what a flag asks for, or imports the task's module and calls its main(cfg)."""
    words = without_folder(argv)
    if words and words[0] in COMMANDS:
        return say(COMMANDS[words[0]](words[1:]))
    flags, given = read_flags(words)
    if "--help" in flags and not given:
        return say(help_text())
    overrides = given if "--no-defaults" in flags else with_defaults(given, slots())
    if overrides != given:
        record(argv, overrides[: len(overrides) - len(given)])
    if "--raw" in flags:
        once(overrides, slots())
        return say(as_yaml(draft(overrides)).rstrip())
    cfg = configuration(overrides)
    if flags - {"--no-defaults"}:
        return say(described(cfg, given if "--help" in flags else ()).rstrip())
    require_alone(cfg.task)
    task = importlib.import_module(f"pgdlab.tasks.{cfg.task}")
    imported()
    return task.main(cfg) or 0


def say(text: str) -> int:
    """Prints what was asked for. Returns exit code 0, also where the reader has seen enough (`| head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
    return 0


def record(argv: Sequence[str], defaults: Sequence[str]) -> None:
    """Says what pgdlab.yaml adds, and puts it into this process's arguments: command.txt and the processes that the run starts
    get the whole, and do not read the file again."""
    print(f"pgdlab.yaml: {' '.join(defaults)}", file=sys.stderr)
    if sys.argv[1:] == list(argv):  # not where a program of another name calls main()
        sys.argv[1:] = ["--no-defaults", *defaults, *argv]


def without_folder(argv: Sequence[str]) -> list[str]:
    """The words without --config-dir, whose folder is put to use."""
    words, folder = list(argv), os.environ.get(OWN) or None
    while found := [word for word in words if word.partition("=")[0] == "--config-dir"]:
        at = words.index(found[0])
        _, given, folder = found[0].partition("=")
        if not given:
            folder = "".join(words.pop(at + 1) for _ in words[at + 1 : at + 2])
        del words[at]
    if folder is not None:
        use_folder(folder)
    return words


def read_flags(argv: Sequence[str]) -> tuple[set[str], list[str]]:
    """Flags, and the overrides among them."""
    words = ["--help" if word == "-h" else word for word in argv]
    if "--cfg" in words:
        after = words.index("--cfg") + 1
        if words[after : after + 1] != ["job"]:
            raise ConfigError(f"--cfg takes one word, job: `{program()} --cfg job`")
        del words[after]
    flags = {word for word in words if word.startswith("-")}
    for flag in flags - {*FLAGS}:
        if flag in ("-m", "--multirun"):
            raise ConfigError(f"{flag} is Hydra's: many runs are a sweep here, {program()} task=sweep sweep=quick")
        raise ConfigError(f"{flag} is not a flag; settings are written key=value.{nearest(flag, tasks_and_flags())}")
    return flags, [word for word in words if word not in flags]


def tasks_and_flags() -> list[str]:
    """The words that may stand in the place of a flag."""
    return ["--help", "--cfg job", "--raw", "--config-dir", "--no-defaults", *(f"task={name}" for name in tasks())]


def configuration(overrides: Sequence[str]) -> Config:
    """The run's configuration: a saved one where `resume` is given, a new one otherwise."""
    once(overrides, slots())
    pairs = [parse_one(text) for text in overrides]
    folder = dict(pairs).get("resume")
    if folder is None:
        cfg = draft(overrides)
        check_run(cfg)  # before the classes are imported, which takes seconds
        require_read(cfg.task, pairs, resumed=False)
        return judged(finish(cfg), pairs)
    require_read(str(dict(pairs).get("task")), pairs, resumed=True)
    cfg = load_run(str(folder), [text for text, (key, _) in zip(overrides, pairs, strict=True) if key != "resume"])
    trust.require_addresses(cfg.nodes, folder)
    check_run(cfg)
    require_read(cfg.task, pairs, resumed=True)
    return judged(cfg, pairs)


def judged(cfg: Config, pairs: Sequence[tuple[str, Any]]) -> Config:
    """The same. Says what became of the held-out reward; raises ConfigError where it judges something else than the reward."""
    reward, heldout = cfg.nodes["reward"], cfg.nodes["heldout"]
    touched = any(key.rpartition("@")[2].split(".")[0] in ("reward", "heldout") for key, _ in pairs)
    if touched or not cfg.resume:  # a run that there is stays as it was
        require_judge(reward, heldout)
    if said := note(pairs, heldout):
        print(said, file=sys.stderr)
    return cfg


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
        f"Usage: {program()} [task=NAME] [experiment=NAME] [group=OPTION ...] [key=value ...]",
        table("Tasks", {name: docstring(file).removeprefix(f"task={name}: ") for name, file in tasks().items()}),
        table("Tasks read", {name: task_reads(name) for name in tasks()}),
        table("Groups", groups),
        table("Experiments", {name: comment(file) for name, file in options("experiment", CONFIGS).items()}),
        EXAMPLES.replace("\n  pgdlab", f"\n  {program()}"),
    ]
    return "\n\n".join(parts)


def described(cfg: Config, given: Sequence[str]) -> str:
    """The whole configuration as YAML; before it the nodes that the words are about."""
    keys = [parse_one(text)[0].rpartition("@")[2].partition(".")[0] for text in given]
    nodes = [text for key in dict.fromkeys(keys) if key in cfg.nodes and (text := node_help(cfg, key))]
    return "\n\n".join([*nodes, "# the whole configuration\n" + as_yaml(cfg)]) if nodes else as_yaml(cfg)


def task_reads(name: str) -> str:
    """The settings that a task reads."""
    known = reads(name)
    assert known is not None
    new, resumed = ", ".join(known.new) or "nothing", known.resumed
    same = resumed is None or resumed == known.new
    return new if same else f"{new}; with resume=: {', '.join(resumed or ()) or 'nothing'}"


def docstring(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
