"""Where the figures come from: versions and commands of the runs, the settings that differ, and how those were chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pgdlab.comparison.columns import Table
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import Run
from pgdlab.comparison.methods import method_of
from pgdlab.config.runs import COMMAND

VARIES = "varies"


def origins(problem: Problem) -> Table:
    """A line a method: the versions of its runs, and the command and folder of the first seed's."""
    lines = []
    for method in problem.ordered:
        seed, run = next(iter(method.runs.items()))
        made = sorted({version(r) for r in method.runs.values()})
        lines.append([method.label, "; ".join(made), str(seed), command(run), str(run.folder)])
    return ["method", "made with", "seed", "command", "folder"], lines


def version(run: Run) -> str:
    """pgdlab, its commit and torch, as the run's summary has them."""
    found = run.summary.get("versions")
    known = found if isinstance(found, dict) else {}
    names = ("pgdlab", "commit", "torch")
    return ", ".join(f"{name} {known[name]}" for name in names if name in known) or "not recorded"


def command(run: Run) -> str:
    """The line that made the run; a certificate's and an older run's is not known."""
    file = run.folder / COMMAND
    return (
        " ".join(file.read_text(errors="replace").split())
        if file.is_file() and not file.is_symlink()
        else "not recorded"
    )


def mixed(problem: Problem) -> list[str]:
    """A note where runs of a problem were made with different versions."""
    made = sorted({version(run) for m in problem.methods for run in m.runs.values()})
    return [f"runs were made with different versions: {'; '.join(made)}"] if len(made) > 1 else []


def settings(problem: Problem) -> Table:
    """The settings in which the methods differ, a line each. Best-of-n has none: it does not train."""
    trained = [m for m in problem.ordered if method_keys(m)]
    every = {m.label: method_keys(m) for m in trained}
    names = sorted({key for keys in every.values() for key in keys})
    cells = {name: [told(every[m.label], name) for m in trained] for name in names}
    lines = [[name, *row] for name, row in cells.items() if len(set(row)) > 1 or VARIES in row]
    return ["setting", *(m.label for m in trained)], lines if len(trained) > 1 else []


def method_keys(method: Method) -> dict[str, Any]:
    """The settings of a method's runs, flat; "varies" where its seeds differ."""
    found = [method_of(run) for run in method.runs.values()]
    keys: dict[str, Any] = {}
    for name in {name for one in found for name in one}:
        values = {json.dumps(one.get(name), default=str) for one in found}
        keys[name] = found[0].get(name) if len(values) == 1 else VARIES
    return keys


def told(keys: Mapping[str, Any], name: str) -> str:
    """A setting to read: the class's name for a node, "-" where the method has no such setting."""
    if name not in keys:
        return "-"
    value = keys[name]
    return str(value).rpartition(".")[2] if name.endswith("_target_") else "null" if value is None else str(value)


def tuning(problem: Problem, tried: Mapping[str, int]) -> str:
    """How the settings of the methods were chosen, as compare.tuned declares it: label -> settings that were tried."""
    labels = [m.label for m in problem.methods if method_keys(m)]
    known = {label: tried[label] for label in labels if label in tried}
    if not known:
        return "How settings were chosen is not declared (compare.tuned): a method that was tuned more looks better than it is."
    said = ", ".join(f"“{label}” {n:,}" for label, n in known.items())
    missing = [label for label in labels if label not in known]
    if missing:
        return (
            f"Not tuned alike, as far as is declared: settings tried for {said}; not declared for {', '.join(missing)}."
        )
    if len(set(known.values())) > 1:
        return f"Not tuned alike: settings tried for {said}."
    return f"Tuned alike: {next(iter(known.values())):,} settings tried for each, as declared."
