"""The mistakes, a list a file: `MUTANTS: list[Mutant]` in every module of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A mistake: in pgdlab/<file>, old becomes new; tests/<test>, narrowed by the -k expression, must fail."""

    what: str
    file: str
    old: str
    new: str
    test: str
    only: str = ""


def listed() -> list[Mutant]:
    """The lists of all modules, by the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [mutant for name in names for mutant in importlib.import_module(f"{__name__}.{name}").MUTANTS]
