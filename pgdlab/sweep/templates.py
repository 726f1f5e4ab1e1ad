"""The sweep files that come with the program: `sweep=quick` is sweeps/quick.yaml of the checkout, or of the package."""

from __future__ import annotations

from pathlib import Path

from pgdlab.config.commands import files
from pgdlab.config.program import SWEEPS
from pgdlab.config.schema import ConfigError, nearest


def found(name: str) -> str:
    """The path of a sweep file: a file of the user's, or a template, by its name or as sweeps/NAME.yaml.

    Raises ConfigError where there is neither.
    """
    templates = files(SWEEPS)
    for file in (Path(name), templates.get(name), SWEEPS.parent / name):
        if file is not None and file.is_file():
            return str(file)
    own = [str(file) for file in sorted(Path("sweeps").glob("*.yaml"))] if Path("sweeps").resolve() != SWEEPS else []
    raise ConfigError(
        f"sweep is {name!r}: there is no such file, and no such template.{nearest(name, [*templates, *own])}"
    )
