"""W&B sweep files: the runs of a sweep, and how they are chosen."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pgdlab.config.schema import ConfigError, nearest

KEYS = (
    "program", "command", "name", "description", "project", "entity", "method", "metric", "parameters", "early_terminate",
    "run_cap",
)  # fmt: skip
METHODS = ("grid", "random", "bayes")
ARGUMENTS = "${args_no_hyphens}"
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The contents of a sweep file.

    words: overrides that its command gives every run. space: parameters that vary, as the file states them; constants: those
    with one value. order: all names as the file orders them. metric, goal: the figure for bayes and early termination, and "max"
    or "min". cap: the most runs there will be. early: the file's early_terminate.
    """

    name: str
    method: str
    words: tuple[str, ...]
    space: dict[str, dict[str, Any]]
    constants: Parameters
    order: tuple[str, ...]
    metric: str | None = None
    goal: str = "max"
    cap: int | None = None
    early: dict[str, Any] | None = None

    def grid(self) -> list[Parameters]:
        """Every combination, the last parameter varying fastest; with a cap the first so many."""
        names = list(self.space)
        every = itertools.product(*(self.space[name]["values"] for name in names))
        return [dict(zip(names, values, strict=True)) for values in itertools.islice(every, self.cap)]

    def probes(self) -> list[Parameters]:
        """A few runs in which every value that the file lists occurs, to be checked before anything starts."""
        if self.method == "grid" and (self.cap or math.prod(len(p["values"]) for p in self.space.values())) <= PROBED:
            return self.grid()
        listed = {name: p["values"] if "values" in p else [p["min"], p["max"]] for name, p in self.space.items()}
        most = max(map(len, listed.values()), default=1)
        return [{name: values[i % len(values)] for name, values in listed.items()} for i in range(most)]

    def overrides(self, chosen: Mapping[str, Any]) -> list[str]:
        """A run's overrides: as `wandb agent` writes them for ${args_no_hyphens}."""
        values = {**self.constants, **chosen}
        return [*self.words, *(f"{name}={values[name]}" for name in self.order)]


PROBED = 16
GOALS = {"maximize": "max", "minimize": "min"}
NOUNS = {dict: "mapping", int: "whole number", list: "list"}
WORDS = ("values", "value", "min", "max", "q", "distribution")


def read(path: str | Path, *, keep_logger: bool = False) -> Sweep:
    """A sweep file. keep_logger: whether `logger=` words of its command are kept. Raises ConfigError for another file, and for
    settings that are not offered."""
    try:
        found = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        known = [str(file) for file in sorted(Path("sweeps").glob("*.yaml"))]
        raise ConfigError(f"sweep is {str(path)!r}: {error.strerror}.{nearest(str(path), known)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not isinstance(found.get("parameters"), dict):
        raise ConfigError(f"{path} is not a sweep file: it has no mapping `parameters`")
    for key in found.keys() - {*KEYS}:
        raise ConfigError(f"{path}: {key} is not a key of a sweep file.{nearest(str(key), KEYS)}")
    try:
        return sweep_of(found, Path(path).stem, keep_logger)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def sweep_of(found: dict[str, Any], stem: str, keep_logger: bool) -> Sweep:
    """The sweep of a file's content."""
    method, parameters = (
        found.get("method"),
        {str(name): parameter(str(name), p) for name, p in found["parameters"].items()},
    )
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}.{nearest(str(method), METHODS)}")
    for key, kind in {"metric": dict, "early_terminate": dict, "run_cap": int, "command": list}.items():
        if found.get(key) is not None and not isinstance(found[key], kind):
            raise ConfigError(f"{key} is {found[key]!r}; it must be a {NOUNS[kind]}")
    constants = {name: p["value"] for name, p in parameters.items() if "value" in p}
    space = {name: checked(name, p, method) for name, p in parameters.items() if "value" not in p}
    metric, cap, early = found.get("metric") or {}, found.get("run_cap"), found.get("early_terminate")
    if method != "grid" and not cap:
        raise ConfigError(f"method {method} never ends by itself: it must have run_cap, the number of runs")
    if (method == "bayes" or early) and not metric.get("name"):
        raise ConfigError(
            "bayes and early_terminate need metric.name: a column of metrics.csv, or for bayes a key of summary.json"
        )
    if early and (early.get("type") != "hyperband" or not ("min_iter" in early or {"s", "max_iter"} <= early.keys())):
        raise ConfigError(
            "early_terminate must be of type: hyperband with min_iter (and eta), or with max_iter, s (and eta)"
        )
    goal = GOALS.get(metric.get("goal", "minimize"))  # W&B's default
    if goal is None:
        raise ConfigError(f"metric.goal is {metric['goal']!r}.{nearest(str(metric['goal']), GOALS)}")
    name = re.sub(r"[^\w.-]+", "-", str(found.get("name") or stem)).strip("-.")
    return Sweep(
        name or stem, method, words_of(found.get("command"), keep_logger), space, constants,
        tuple(parameters), metric.get("name"), goal, cap, early,
    )  # fmt: skip


def words_of(command: Any, keep_logger: bool) -> tuple[str, ...]:
    """The overrides in a file's command. Raises ConfigError where W&B would hand over the parameters with hyphens."""
    words = [str(word) for word in command or []]
    if ARGUMENTS not in words:
        raise ConfigError(f"its command must hold {ARGUMENTS}, since run.py takes key=value")
    program = words.index("${program}") if "${program}" in words else -1  # before it stand variables of the environment
    own = [word for word in words[program + 1 :] if "=" in word and not word.startswith(("$", "-"))]
    return tuple(word for word in own if keep_logger or not word.startswith("logger"))


def parameter(name: str, p: Any) -> dict[str, Any]:
    """A parameter as it stands in the file. Raises ConfigError where W&B would refuse or misread it."""
    if not isinstance(p, dict):
        raise ConfigError(f"{name} is {p!r}; it must have values: [...], value: ..., or min: and max:")
    if "parameters" in p:
        raise ConfigError(f"{name} is nested; it must be a dotted key, as in optimizer.lr")
    for key in p.keys() - {*WORDS}:
        raise ConfigError(f"{name}.{key} is not offered.{nearest(str(key), WORDS)}")
    if "values" in p and not (isinstance(p["values"], list) and p["values"]):
        raise ConfigError(f"{name}.values is {p['values']!r}; it must be a list of one value or more")
    for key in ("min", "max", "q"):
        if key in p and type(p[key]) not in (int, float):
            raise ConfigError(f"{name}.{key} is {p[key]!r}, which must be a number (in YAML: 1.0e-4)")
    return dict(p)


def checked(name: str, p: dict[str, Any], method: str) -> dict[str, Any]:
    """A parameter that varies, its distribution named. Raises ConfigError for a distribution that is not offered."""
    usual = "int_uniform" if type(p.get("min")) is type(p.get("max")) is int else "uniform"
    kind = p.get("distribution") or ("categorical" if "values" in p else usual)
    needs = DISTRIBUTIONS.get(kind)
    if needs is None:
        raise ConfigError(f"{name} has distribution {kind!r}.{nearest(kind, DISTRIBUTIONS)}")
    if not {*needs} <= p.keys():
        raise ConfigError(f"{name} is {kind}, which needs {', '.join(needs)}")
    if kind == "q_log_uniform_values" and method == "bayes":
        raise ConfigError(f"{name} is {kind}; with bayes it must be another, such as q_uniform or log_uniform_values")
    if kind == "q_uniform" and any(abs(math.remainder(p[end], p["q"])) > 1e-9 * abs(p["q"]) for end in ("min", "max")):
        raise ConfigError(f"{name}.min and max must be multiples of q, {p['q']}")
    if method == "grid" and kind != "categorical":
        raise ConfigError(f"{name} must have values in a grid")
    return {**p, "distribution": kind}


DISTRIBUTIONS = {
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "q"),
}
