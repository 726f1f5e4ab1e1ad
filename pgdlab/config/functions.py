"""The functions that a configuration names, `file.py:name`: found from any folder, known again, and not called by mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pgdlab.config import fingerprint, renamed
from pgdlab.config.configuration import Config
from pgdlab.config.schema import ConfigError, children

FUNCTION = "pgdlab.rewards.function.Function"
DIFFERS = "the function differs from the one that the run began with: put that one back, or begin a new run"


def anchored(value: Any, key: str = "") -> Any:
    """With the files of functions, with their digests, and the data of a domain as absolute paths. Raises ConfigError where a
    function's file is not there."""
    if isinstance(value, list):
        return [anchored(child, f"{key}[{i}]") for i, child in enumerate(value)]
    if not isinstance(value, dict):
        return value
    found = {name: anchored(child, f"{key}.{name}" if key else str(name)) for name, child in value.items()}
    path = value.get("path")  # of a domain: data of the user's
    if key == "domain" and isinstance(path, str) and Path(path).expanduser().exists():
        found["path"] = str(Path(path).expanduser().resolve())
    place, colon, name = str(value.get("function")).rpartition(":")
    if value.get("_target_") == FUNCTION and place.endswith(".py"):
        file = Path(place).expanduser().resolve()
        if not file.is_file():
            raise ConfigError(f"{key}.function is {value['function']!r}, but there is no file {file}")
        found["function"] = f"{file}{colon}{name}"
    if value.get("_target_") == FUNCTION and isinstance(value.get("function"), str):
        found["digest"] = fingerprint.named(found["function"])
    return found


def require_same(now: Any, saved: Any) -> None:
    """Raises ConfigError where a function that a configuration names is not what it was when that was saved."""
    for key, function in edited(now, saved):
        raise ConfigError(f"{key} is {function!r}, but {DIFFERS}")


def edited(now: Any, saved: Any) -> Iterator[tuple[str, str]]:
    """(full key, function) of what a configuration names that does something else than when that was saved."""
    before = dict(functions(saved))
    for key, node in functions(now):
        was, digest = before.get(key, {}).get("digest"), node.get("digest")
        if node.get("function") and was and digest and was != digest:
            yield f"{key}.function", node["function"]


def edited_since(cfg: Config) -> dict[str, Any]:
    """What a summary says of a run that there is and whose functions were edited since it began: the keys of those that it
    still names, nothing where there are none. Says so on stderr: the figures are not those that it was trained on."""
    if not cfg.resume:
        return {}
    saved = renamed.run(yaml.safe_load((Path(cfg.resume) / "config.yaml").read_text()))
    before = {key: node.get("function") for key, node in functions(saved)}
    found = {
        key: name for key, name in edited(dict(cfg.nodes), saved) if before.get(key.removesuffix(".function")) == name
    }
    for key, name in found.items():
        print(
            f"{key} is {name!r}, which was edited since the run began: these are figures of the new one",
            file=sys.stderr,
        )
    return {"edited": [*found]} if found else {}


def functions(value: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(full key, node) of every function inside."""
    if isinstance(value, dict) and value.get("_target_") == FUNCTION:
        yield key, value
    for _, child, full in children(value, key):
        yield from functions(child, full)


def again(saved: Any, key: str, value: Any) -> bool:
    """Whether an override names the function that a saved configuration has at this key."""
    *path, last = key.split(".")
    for name in path:
        saved = saved.get(name) if isinstance(saved, dict) else None
    if last != "function" or not isinstance(saved, dict) or saved.get("_target_") != FUNCTION:
        return False
    place, colon, name = str(value).rpartition(":")
    named = f"{Path(place).expanduser().resolve()}{colon}{name}" if place.endswith(".py") else value
    return bool(saved.get("function") == named)


def disarmed(value: Any) -> Any:
    """With every function in words alone: what a run folder names is not called unless it is given again."""
    if isinstance(value, list):
        return [disarmed(child) for child in value]
    if not isinstance(value, dict):
        return value
    found = {name: disarmed(child) for name, child in value.items()}
    if value.get("_target_") == FUNCTION and isinstance(value.get("function"), str):
        place, _, name = value["function"].rpartition(":")
        found |= {"function": None, "recorded": f"{name} of {place}"}
    return found
