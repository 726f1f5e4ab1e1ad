"""Reward queries that it takes to get somewhere: python -m benchmarks.efficiency runs/study-* runs/certify-affine

Of the run folders, folders of them or patterns that are named, as task=compare takes them. Where the optimum is known exactly (a
certificate's runs, `python run.py task=certify certificate=affine`), the way from the base to it: --score. Else the mean reward
of an iteration: --reward. It counts at the end of the first iteration (for a certificate: measurement) that reaches it. Medians
over the runs; in brackets how many of them got there. "-": half of them or more did not.
"""

from __future__ import annotations

import argparse
import math
import statistics

from pgdlab.comparison.folders import Run, read
from pgdlab.comparison.methods import grouped, method_label, problem_label, problem_of


def reached(run: Run, column: str, level: float) -> float:
    """Queries; infinite where it did not."""
    return next((row["queries"] for row in run.curve if row.get(column, -math.inf) >= level), math.inf)


def cell(runs: list[Run], column: str, level: float) -> str:
    """Of the runs of a method."""
    queries = [reached(run, column, level) for run in runs]
    middle = statistics.median_high(queries)
    there = sum(map(math.isfinite, queries))
    return f"{'-' if math.isinf(middle) else f'{middle:,.0f}'} ({there} of {len(runs)})"


def main(folders: list[str], scores: list[float], rewards: list[float]) -> None:
    """Prints a table in markdown for every problem."""
    runs = [run for run in read(folders).runs if run.curve]
    for of_problem in grouped(runs, problem_of).values():
        problem, methods = problem_label(of_problem[0]), grouped(of_problem, lambda run: {"": method_label(run)})
        exact = all("score" in run.curve[0] for run in of_problem)
        column, levels = ("score", scores) if exact else ("reward", rewards)
        shown = [f"{level:.0%} of the optimum" if exact else f"reward {level:g}" for level in levels]
        print(f"\n### {problem}\n\n| method | {' | '.join(shown)} |\n|{'---|' * (1 + len(levels))}")
        for some in methods.values():
            print(f"| {method_label(some[0])} | {' | '.join(cell(some, column, level) for level in levels)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--score", nargs="+", type=float, default=[0.9, 0.99])
    parser.add_argument("--reward", nargs="+", type=float, default=[0.5, 0.8])
    options = parser.parse_args()
    main(options.folders, options.score, options.reward)
