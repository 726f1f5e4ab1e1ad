"""Runs that can be compared: one that cannot, whatever is odd about it, becomes a failure with its reason, next to the others."""

from __future__ import annotations

from pgdlab.comparison.charts import SPREAD
from pgdlab.comparison.columns import COLUMNS, OF_INTEREST
from pgdlab.comparison.delivery import delivery
from pgdlab.comparison.folders import Failure, Found, Run
from pgdlab.comparison.methods import method_label, method_of, problem_label, problem_of
from pgdlab.comparison.validity import ODD, require_number, said

REWARDS = tuple(f"{name}{of}" for name in ("reward", "heldout") for of in ("", "_std", "_stderr"))


def sound(found: Found) -> Found:
    """What was found, with the runs that tables and charts cannot be made of among the failures."""
    runs, failures = [], list(found.failures)
    for run in found.runs:
        try:
            probe(run)
            runs.append(run)
        except ODD as error:
            failures.append(Failure(run.folder, f"it cannot be compared: {said(error)}"))
    return Found(runs, failures, found.others)


def probe(run: Run) -> None:
    """Makes of one run alone what the comparison makes of all. Raises one of ODD where that fails."""
    problem_of(run), problem_label(run), method_of(run), method_label(run)
    for table in run.evaluation:
        for name in dict.fromkeys((*REWARDS, "kl_nats", *OF_INTEREST, *SPREAD)):
            require_number(name, table.get(name), unknown=True)
    for column in COLUMNS:
        require_number(column.key, column.of(run), unknown=True)
    delivery(run)
