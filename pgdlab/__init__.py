"""pgdlab: steer diffusion models toward measurable goals with reinforcement learning, and compare the ways honestly."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgdlab.api import compare, load, train
    from pgdlab.config.schema import ConfigError
    from pgdlab.results import Page, Run
    from pgdlab.rewards.base import Reward, Score

try:
    __version__ = version("pgdlab")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["ConfigError", "Page", "Reward", "Run", "Score", "__version__", "compare", "load", "train"]

# name -> where it is: imported when it is first asked for, because torch and Lightning take seconds
_HOMES = {
    "ConfigError": "pgdlab.config.schema",
    "Page": "pgdlab.results",
    "Reward": "pgdlab.rewards.base",
    "Run": "pgdlab.results",
    "Score": "pgdlab.rewards.base",
    "compare": "pgdlab.api",
    "load": "pgdlab.api",
    "train": "pgdlab.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
