"""Would prompts drawn where rewards vary save queries? At most how many: python -m benchmarks.prompts runs/a runs/b

Of run folders with several samples a prompt (plan.group). The gradient of n samples, prompts drawn evenly, has a variance of
mean(s_c^2) / n within prompts, s_c the standard deviation of a prompt's rewards. Drawn in proportion to s_c, and weighted so that
the objective stays, it has mean(s_c)^2 / n (Neyman's allocation; scores are taken to be alike for all prompts). The ratio is the
share of the queries that would do. It is a bound: s_c would have to be known beforehand, and what prompts differ by in their
means is not made less. Errors of s_c make it look better still: it is stated for the first and the last half of a run as well,
each prompt's s_c from one half and weighed by the other.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pgdlab.training.prompt_table import PROMPTS

Row = dict[str, str]


def spreads(rows: Iterable[Row]) -> dict[str, float]:
    """Prompt -> the standard deviation of its rewards about the mean of their iteration, pooled over iterations."""
    squares, freedom = defaultdict[str, float](float), defaultdict[str, int](int)
    for row in rows:
        if row["reward_std"]:
            count = int(row["samples"]) - 1
            squares[row["number"]] += count * float(row["reward_std"]) ** 2
            freedom[row["number"]] += count
    return {number: (total / freedom[number]) ** 0.5 for number, total in squares.items()}


def share(truth: dict[str, float], known: dict[str, float]) -> float:
    """Variance where prompts are drawn by `known`, over that of even draws, of prompts in both whose spreads are `truth`."""
    both = [(truth[n], known[n]) for n in truth.keys() & known.keys() if known[n] > 0]
    total = sum(k for _, k in both)
    even = sum(s * s for s, _ in both) / len(both)
    return sum(s * s / k for s, k in both) * total / len(both) ** 2 / even


def main(folders: list[Path]) -> None:
    """Prints a table in markdown."""
    print("| run | prompts | smallest and largest spread | share of the queries, at best | by the other half |")
    print("|---|---|---|---|---|")
    for folder in folders:
        with (folder / PROMPTS).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        middle = max(int(row["iteration"]) for row in rows) / 2
        every, *halves = (
            spreads(row for row in rows if low <= int(row["iteration"]) - middle < high)
            for low, high in ((-middle, middle + 1), (-middle, 0.5), (0.5, middle + 1))
        )
        if not every:
            raise SystemExit(f"error: {folder / PROMPTS} has one sample a prompt: no spread is known; set plan.group")
        across = (share(*halves) + share(*reversed(halves))) / 2 if all(halves) else float("nan")
        print(
            f"| {folder.name} | {len(every)} | {min(every.values()):.3g}, {max(every.values()):.3g} | "
            f"{share(every, every):.0%} | {across:.0%} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders")
    main(parser.parse_args().folders)
