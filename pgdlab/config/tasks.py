"""The settings that each task reads: an override of any other is refused, before anything is imported.

A module of pgdlab/tasks says so in constants, which are read here without importing it: READS names the nodes and keys of a new
run, RESUMES those that may be given with resume= (left out where the task resumes nothing), INSTEAD what else to do.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgdlab.config.program import program
from pgdlab.config.schema import ConfigError, is_node, nearest

TASKS = Path(__file__).resolve().parents[1] / "tasks"
ALWAYS = ("task", "resume", "trust")


@dataclass(frozen=True)
class Reads:
    """What a task reads. new: of a run that begins; resumed: with resume=, None where the task resumes nothing."""

    new: tuple[str, ...]
    resumed: tuple[str, ...] | None
    instead: str


@functools.cache
def reads(task: str) -> Reads | None:
    """The settings of a task; None for a task that is not there. Raises ValueError where its module does not say."""
    file = TASKS / f"{task}.py"
    if not file.is_file():
        return None
    said = constants(file.read_text())
    if "READS" not in said:
        raise ValueError(f"{file} does not say what it reads: READS = (...)")
    return Reads(said["READS"], said.get("RESUMES"), said.get("INSTEAD", ""))


def constants(source: str) -> dict[str, Any]:
    """The capitalised names that a module sets to a literal, or to such a name."""
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name, value = node.targets[0].id, node.value
        if isinstance(value, ast.Name):
            found |= {name: found[value.id]} if value.id in found else {}
        elif name.isupper() and isinstance(value, (ast.Tuple, ast.Constant)):
            found[name] = ast.literal_eval(value)
    return found


def require_read(task: str, overrides: Iterable[tuple[str, Any]], *, resumed: bool) -> None:
    """Raises ConfigError for an override that would change nothing, since the task reads no such key, and for a task that needs a
    run and is given none."""
    known = reads(task)
    if known is None:
        return
    if not resumed and not known.new and known.resumed:
        raise ConfigError(f"task={task} needs a run: {program()} task={task} resume=runs/<name>")
    allowed = known.resumed if resumed else known.new
    if allowed is None:
        raise ConfigError(f"task={task} resumes no run: leave resume out")
    for key in (inner for name, value in overrides for inner in stated(name.rpartition("@")[2], value)):
        if not any(f"{key}.".startswith(f"{one}.") for one in (*ALWAYS, *allowed)):
            raise ConfigError(refusal(task, key, allowed, known.instead, resumed=resumed))


def stated(key: str, value: Any) -> Iterator[str]:
    """The keys that an override sets: those of a mapping that is merged, each for itself."""
    if isinstance(value, dict) and value and not is_node(value):
        for name, child in value.items():
            yield from stated(f"{key}.{name}", child)
    else:
        yield key


def refusal(task: str, key: str, allowed: tuple[str, ...], instead: str, *, resumed: bool) -> str:
    """Which key has no effect, what has one, and what else to do."""
    why = f" has no use for it{f' ({instead})' if instead else ''}"
    names = f"it reads {', '.join(allowed)}" if allowed else "it takes no setting"
    near = nearest(key, allowed).partition(" Known:")[0] if allowed else ""
    return f"{key} is set, but task={task}{why}; {names}{' with resume=' if resumed else ''}.{near}"


def changed(now: Mapping[str, Any], before: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """What differs between two configurations: full key -> the value now, None for what is gone."""
    found: dict[str, Any] = {}
    for name in {**before, **now}:
        one, other, full = now.get(name), before.get(name), f"{key}.{name}" if key else str(name)
        if isinstance(one, dict) and isinstance(other, dict) and one.get("_target_") == other.get("_target_"):
            found |= changed(one, other, full)
        elif one != other:
            found[full] = one
    return found
