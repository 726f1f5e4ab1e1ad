"""Files of a run as they must be to be compared: a damaged one, or one that no run has written, is told in a sentence."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# what code raises that meets a file of another make: the run is a failure, and the others are compared
ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, OSError, csv.Error)
LARGEST = 1e100  # squares of larger figures are no floats
NEEDED = ("reward_before", "reward_after", "seed")
COUNTS = (
    "samples",
    "candidates",
    "evaluation_samples",
    "iterations",
    "reward_queries",
    "training_queries",
    "training_evaluations",
)  # of which an older run lacks some
MEASURED = (
    "kl_nats",
    "reward_gain",
    "reward_gain_stderr",
    "network_evaluations",
    "training_seconds",
)  # null: not known
NODES = ("domain", "reward", "policy")
SLOTS = ("trainer", "initial", "penalty", "plan")


@contextmanager
def usable(file: str) -> Iterator[None]:
    """Raises ValueError that names a file where what is done with it fails, whatever is odd about it."""
    try:
        yield
    except ODD as error:
        raise ValueError(f"{file} cannot be used: {said(error)}") from error


def said(error: BaseException) -> str:
    """An error as the end of a sentence."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"


def require_number(name: str, value: Any, unknown: bool = False) -> None:
    """Raises ValueError for what is no finite number. unknown: whether None is one too."""
    if value is None and unknown:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {brief(value)}; it must be a number" + " or null" * unknown)
    if not abs(value) <= LARGEST:
        raise ValueError(f"{name} is not finite or above {LARGEST:g}")


def require_summary(summary: Any) -> None:
    """Raises ValueError where a summary lacks what all runs are compared by, or has a figure that is none."""
    if not isinstance(summary, dict):
        raise ValueError(f"it holds {brief(summary)}; it must hold the figures of a run by name")
    for name in NEEDED:
        if name not in summary:
            raise ValueError(f"it has no {name}")
    for name in (*NEEDED, *COUNTS, *MEASURED):
        if name in summary:
            require_number(name, summary[name], unknown=name in MEASURED)
    if summary["seed"] != int(summary["seed"]):
        raise ValueError(f"seed is {summary['seed']}; it must be a whole number")
    if not isinstance(summary.get("evaluations"), dict):
        raise ValueError(f"evaluations is {brief(summary.get('evaluations'))}; it must hold a table for every policy")
    for name, table in summary["evaluations"].items():
        if not isinstance(table, dict):
            raise ValueError(f"evaluations has {name} {brief(table)}; it must hold figures by name")


def require_config(config: dict[str, Any]) -> None:
    """Raises ValueError where a part that all trained runs have is none."""
    for name in NODES:
        node = config.get(name)
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            raise ValueError(f"{name} is {brief(node)}; it must have a _target_")
    for name in SLOTS:
        if not isinstance(config.get(name), (dict, type(None))):
            raise ValueError(f"{name} is {brief(config[name])}; it must be a mapping")
    trainer = config.get("trainer")
    if config["task"] == "train" and not isinstance((trainer or {}).get("_target_"), str):
        raise ValueError(f"trainer is {brief(trainer)}; it must have a _target_")


def brief(value: Any) -> str:
    """A value to read, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
