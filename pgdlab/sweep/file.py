"""W&B sweep files: the runs of a sweep, and how they are chosen."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pgdlab.config.schema import ConfigError, nearest
from pgdlab.sweep.command import read_command
from pgdlab.sweep.parameters import Parameter, read_parameter

KEYS = (
    "program", "command", "name", "description", "project", "entity", "method", "metric", "parameters", "early_terminate",
    "run_cap",
)  # fmt: skip
METHODS = ("grid", "random", "bayes")
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The contents of a sweep file.

    words: overrides that its command gives every run. space: parameters that vary; constants: those with one value. order:
    all names as the file orders them. metric, goal: the figure for bayes and early termination, and "max" or "min". cap: the
    most runs there will be. early: the file's early_terminate. prefix: what its command writes before a parameter, + or ++.
    """

    name: str
    method: str
    words: tuple[str, ...]
    space: dict[str, Parameter]
    constants: Parameters
    order: tuple[str, ...]
    metric: str | None = None
    goal: str = "max"
    cap: int | None = None
    early: dict[str, Any] | None = None
    prefix: str = ""

    def grid(self) -> list[Parameters]:
        """Every combination, the last parameter varying fastest; with a cap the first so many."""
        names = list(self.space)
        every = itertools.product(*(self.space[name].settings["values"] for name in names))
        return [dict(zip(names, values, strict=True)) for values in itertools.islice(every, self.cap)]

    def probes(self) -> list[Parameters]:
        """A few runs to be checked before anything starts: with every value that the file lists, and of a range with those at
        both ends and in the middle, as trials would get them."""
        listed = {name: p.probes for name, p in self.space.items()}
        if self.method == "grid" and (self.cap or math.prod(map(len, listed.values()))) <= PROBED:
            return self.grid()
        most = max(map(len, listed.values()), default=1)
        return [{name: values[i % len(values)] for name, values in listed.items()} for i in range(most)]

    def values(self, drawn: Mapping[str, Any]) -> Parameters:
        """A trial's values, of what Ray Tune drew for it: a combination of a grid, or a draw for each parameter."""
        if "grid" in drawn:
            return dict(drawn["grid"])
        return {name: p.value(drawn[name]) for name, p in self.space.items()}

    def overrides(self, chosen: Mapping[str, Any]) -> list[str]:
        """A run's overrides: as `wandb agent` writes them for the macro of the command."""
        values = {**self.constants, **chosen}
        return [*self.words, *(f"{self.prefix}{name}={values[name]}" for name in self.order)]


PROBED = 16
GOALS = {"maximize": "max", "minimize": "min"}
KINDS: dict[str, tuple[type, str]] = {  # of the keys that are given: their type, and its name
    "program": (str, "string"), "name": (str, "string"), "description": (str, "string"), "project": (str, "string"),
    "entity": (str, "string"), "command": (list, "list"), "metric": (dict, "mapping"), "early_terminate": (dict, "mapping"),
    "run_cap": (int, "whole number"),
}  # fmt: skip
METRIC = ("name", "goal", "target", "impute", "impute_while_running")
HYPERBAND = ("type", "min_iter", "max_iter", "s", "eta", "strict")


class Once(yaml.SafeLoader):
    """YAML in which a key stands once: the later of two would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read(path: str | Path, *, keep_logger: bool = False) -> Sweep:
    """A sweep file. keep_logger: whether `logger=` words of its command are kept. Raises ConfigError for another file, and for
    settings that are not offered."""
    try:
        found = yaml.load(Path(path).read_text(), Once)
    except OSError as error:
        known = [str(file) for file in sorted(Path("sweeps").glob("*.yaml"))]
        raise ConfigError(f"sweep is {str(path)!r}: {error.strerror}.{nearest(str(path), known)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not isinstance(found.get("parameters"), dict):
        raise ConfigError(f"{path} is not a sweep file: it has no mapping `parameters`")
    try:
        return sweep_of(found, Path(path).stem, keep_logger)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def sweep_of(found: dict[str, Any], stem: str, keep_logger: bool) -> Sweep:
    """The sweep of a file's content."""
    require_keys(found, KEYS, "", "a sweep file")
    method = found.get("method")
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}.{nearest(str(method), METHODS)}")
    for key, (kind, noun) in KINDS.items():
        if found.get(key) is not None and type(found[key]) is not kind:
            raise ConfigError(f"{key} is {found[key]!r}; it must be a {noun}")
    parameters = {str(name): read_parameter(str(name), p, method) for name, p in found["parameters"].items()}
    constants = {name: p["value"] for name, p in parameters.items() if isinstance(p, dict)}
    space = {name: p for name, p in parameters.items() if isinstance(p, Parameter)}
    metric, goal = read_metric(found.get("metric") or {})
    cap, early = found.get("run_cap"), read_early(found.get("early_terminate"))
    if cap is not None and cap < 1:
        raise ConfigError(f"run_cap is {cap}; it must be at least 1")
    if method != "grid" and not cap:
        raise ConfigError(f"method {method} never ends by itself: it must have run_cap, the number of runs")
    if (method == "bayes" or early) and metric is None:
        raise ConfigError(
            "bayes and early_terminate need metric.name: a column of metrics.csv, or for bayes a key of summary.json"
        )
    words, prefix = read_command(found.get("command"), keep_logger)
    name = re.sub(r"[^\w.-]+", "-", str(found.get("name") or stem)).strip("-.")
    return Sweep(
        name or stem, method, words, space, constants, tuple(parameters), metric, goal, cap, early, prefix
    )  # fmt: skip


def require_keys(given: Mapping[Any, Any], known: Iterable[str], prefix: str, what: str) -> None:
    """Raises ConfigError for a key that is not known."""
    for key in given.keys() - {*known}:
        raise ConfigError(f"{prefix}{key} is not a key of {what}.{nearest(str(key), known)}")


def read_metric(given: dict[str, Any]) -> tuple[str | None, str]:
    """The metric's name, and "max" or "min" (W&B's default). Raises ConfigError for what is not honoured."""
    require_keys(given, METRIC, "metric.", "metric")
    name, goal = given.get("name"), given.get("goal", "minimize")
    if given and (not isinstance(name, str) or not name):
        raise ConfigError(f"metric.name is {name!r}; it must be a column of metrics.csv or a key of summary.json")
    if goal not in GOALS:
        raise ConfigError(f"metric.goal is {goal!r}.{nearest(str(goal), GOALS)}")
    for key, why in {
        "target": "a sweep runs all its trials, whatever they reach; run_cap limits them",
        "impute": "a trial that failed tells bayes nothing",
        "impute_while_running": "a trial that runs tells bayes nothing",
    }.items():
        if given.get(key, False) not in (False, "false"):
            raise ConfigError(f"metric.{key} is not offered: {why}. Leave it out")
    return name, GOALS[goal]


def read_early(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The file's early_terminate. Raises ConfigError for what successive halving cannot do."""
    if given is None:
        return None
    require_keys(given, HYPERBAND, "early_terminate.", "early_terminate")
    ways = ("min_iter" in given, {"s", "max_iter"} <= given.keys())
    if given.get("type") != "hyperband" or sum(ways) != 1 or ("min_iter" in given and given.keys() & {"s", "max_iter"}):
        raise ConfigError(
            "early_terminate must be of type: hyperband with min_iter (and eta), or with max_iter, s (and eta)"
        )
    for key in given.keys() & {"min_iter", "max_iter", "s"}:
        if type(given[key]) is not int or given[key] < 1:
            raise ConfigError(f"early_terminate.{key} is {given[key]!r}; it must be a whole number of at least 1")
    eta = given.get("eta", 3)
    if type(eta) not in (int, float) or not 1 < eta < math.inf:
        raise ConfigError(f"early_terminate.eta is {eta!r}; it must be a number above 1")
    if given.get("strict", False) is not False:
        raise ConfigError("early_terminate.strict is not offered: trials are halved as they come (ASHA). Leave it out")
    return dict(given)
