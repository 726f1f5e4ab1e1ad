"""pgdlab.yaml in the working directory: words that are put before those of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pgdlab.config.groups import Slot, paragraph, parse_one
from pgdlab.config.schema import ConfigError
from pgdlab.config.targets import is_node

FILE = Path("pgdlab.yaml")
WHOLE = ("sweep", "compare", "molecules", "certify")  # tasks whose runs are stated elsewhere, or that have none


def with_defaults(overrides: Sequence[str], known: Mapping[str, Slot], file: Path = FILE) -> list[str]:
    """The file's words, then the overrides. Without those that the command line replaces: the same key, a key inside a node that
    it picks anew. The file is not read where a run is resumed, which is stated whole, nor for a task in WHOLE."""
    named = dict(parse_one(text) for text in overrides) if file.is_file() else {}
    if not file.is_file() or "resume" in named or named.get("task") in WHOLE:
        return list(overrides)
    keys = [next((name for name, slot in known.items() if key == slot.group), key) for key in named]
    picked = [key for key in keys if key in known]
    own = dict(words(file))
    kept = [t for key, t in own.items() if key not in keys and not any(key.startswith(f"{p}.") for p in picked)]
    return [*kept, *overrides]


def words(file: Path) -> list[tuple[str, str]]:
    """(key, word of a command line) of everything that the file sets. Raises ConfigError where it is no mapping of YAML."""
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {paragraph(error)}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file} must be a mapping, such as `experiment: digits/ppo`")
    return [(key, f"{key}={word(value)}") for key, value in flat(found, "")]


def flat(tree: Mapping[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    """(a.b, value) of a nested mapping; a node with a `_target_` is a value."""
    for name, value in tree.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and value and not is_node(value):
            yield from flat(value, f"{key}.")
        else:
            yield key, value


def word(value: Any) -> str:
    """A value in the grammar of the command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{word(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(word, value))}]"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", value) and parse_one(f"k={value}") == ("k", value):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), value)
    return f"'{escaped}'"
