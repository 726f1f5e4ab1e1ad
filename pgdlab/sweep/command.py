"""The command of a sweep file: the words that every run gets, and how its parameters are written."""

from __future__ import annotations

import re
from typing import Any

from pgdlab.config.schema import ConfigError, nearest

# macros of W&B's agent that write the parameters as this program reads them -> what stands before each key=value
ARGUMENTS = {"${args_no_hyphens}": "", "${args_append_hydra}": "+", "${args_override_hydra}": "++"}
BEFORE = ("${env}", "${interpreter}", "${program}")  # macros in front of the arguments
LOGGER = re.compile(r"\+{0,2}logger[.=]")
FIRST = re.compile(r".*\.py$|(.*/)?pgdlab$")  # a program that is named, and not by its macro


def read_command(command: Any, keep_logger: bool) -> tuple[tuple[str, ...], str]:
    """The overrides in a file's command, and what stands before each parameter: nothing, + or ++.

    Raises ConfigError where W&B would hand over the parameters in another form, and for words that no run would get.
    """
    words = [str(word) for word in command or []]
    macros = [word for word in words if word in ARGUMENTS]
    if len(macros) != 1:
        raise ConfigError(
            f"its command must hold {'one of ' * bool(macros)}${{args_no_hyphens}}, since run.py takes key=value "
            "(or ${args_append_hydra} or ${args_override_hydra} for +key=value and ++key=value)"
        )
    own = [word for word in arguments(words) if word not in ARGUMENTS]
    for word in own:
        if "${" in word:
            known = [*ARGUMENTS, *BEFORE]
            raise ConfigError(f"its command has {word!r}, which is not replaced here.{nearest(word, known)}")
        if "=" not in word or word.startswith("-"):
            raise ConfigError(f"its command has {word!r}; after the program every word must be key=value")
    return tuple(word for word in own if keep_logger or not LOGGER.match(word)), ARGUMENTS[macros[0]]


def arguments(words: list[str]) -> list[str]:
    """The words after the program; before it stand variables of the environment and the interpreter."""
    if "${program}" in words:
        return words[words.index("${program}") + 1 :]
    named = [number for number, word in enumerate(words) if FIRST.match(word)]
    if not named:
        raise ConfigError("its command must name the program, ${program} or run.py")
    return words[named[0] + 1 :]
