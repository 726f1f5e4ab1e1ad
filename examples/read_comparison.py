"""Two methods, three seeds each, and what the comparison says: as a page, and as data."""

from __future__ import annotations

import sys

import pgdlab


def main(overrides: list[str]) -> pgdlab.Page:
    """Trains six runs of the same size, compares them, and prints the rows."""
    methods = {"ppo": ["trainer=ppo"], "reinforce": ["trainer=reinforce"]}
    runs = [
        pgdlab.train("digits/quickstart", overrides=[f"name={method}", f"seed={seed}", *words, *overrides])
        for method, words in methods.items()
        for seed in range(3)
    ]
    page = pgdlab.compare([run.folder for run in runs], name="two-methods")
    for row in page.methods:
        print(
            f"{row['method']:>16}  reward {row['reward after']:.3f}  KL {row['KL']:.2f}  {row['queries']:,.0f} queries"
        )
    print(f"{len(page.runs)} rows of single runs; the page is {page.path}")
    return page


if __name__ == "__main__":
    main(sys.argv[1:])
