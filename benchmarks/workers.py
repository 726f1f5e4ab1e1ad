"""Slow rewards in processes, in threads and in line, and what overlapping them with sampling saves: python -m benchmarks.workers

First molecules per second of QM9's test molecules, none of which the reward has seen: in line, on two threads, in two worker
processes. Then the seconds that an iteration of experiment=molecules/ppo takes to collect, scored by `strain` in one worker
process: all samples in one batch, which are then scored, and in the four batches of the default. One thread in each process; wall
time; medians over the rounds, quartiles in brackets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from pgdlab.config.compose import compose
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.known import test_sample
from pgdlab.rewards.molecule.base import PerMolecule
from pgdlab.rewards.molecule.energy import Strain
from pgdlab.rewards.molecule.properties import QED
from pgdlab.rewards.molecule.workers import Workers
from pgdlab.training.build import build_module

BATCH = 256
COLLECT = (
    "experiment=molecules/ppo", "plan.samples=128",
    "reward={_target_: pgdlab.rewards.molecule.workers.Workers, workers: 1, "
    "reward: {_target_: pgdlab.rewards.molecule.energy.Strain}}",
)  # fmt: skip


def seconds(call: Callable[..., Any], *given: Any) -> float:
    """Wall time of a call."""
    begun = time.perf_counter()
    call(*given)
    return time.perf_counter() - begun


def batch(number: int) -> Sequence[str]:
    """SMILES of another batch each time."""
    smiles = test_sample()
    start = number * BATCH % (len(smiles) - BATCH)
    return smiles[start : start + BATCH]


def rates(make: Callable[[], PerMolecule], rounds: int) -> dict[str, list[float]]:
    """Way -> molecules per second, by round."""
    reward, two, pool = make(), ThreadPoolExecutor(2), Workers(reward=make(), workers=2)
    ways: dict[str, Callable[[Molecules], Any]] = {
        "in line": lambda some: [reward.of(m) for m in some],
        "2 threads": lambda some: list(two.map(reward.of, some)),
        "2 processes": lambda some: pool.score(some, torch.zeros(len(some), dtype=torch.long)),
    }
    pool.score(Molecules.from_smiles(["C"]), torch.zeros(1, dtype=torch.long))  # starts the processes
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            found[name].append(BATCH / seconds(way, Molecules.from_smiles(batch(number))))
    pool.retire()
    return found


def collecting(rounds: int) -> dict[str, list[float]]:
    """Way -> seconds, by round."""
    modules = {name: build_module(compose([*COLLECT, *more])) for name, more in
               {"one batch": ["plan.rollout_batch=128"], "default": []}.items()}  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in modules}
    for number in range(rounds + 1):
        for name, module in modules.items():
            took = seconds(module.algorithm.collect, module.world, number)
            if number:
                found[name].append(took)
    return found


def cell(values: list[float]) -> str:
    """Median and quartiles."""
    middle, low, high = np.quantile(values, (0.5, 0.25, 0.75))
    return f"{middle:10.2f} ({low:.2f} to {high:.2f})"


def main(rounds: int) -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    for name, make in {"strain": Strain, "qed": QED}.items():
        for way, values in rates(make, rounds).items():
            print(f"{name:8} {way:12} {cell(values)} molecules/s", flush=True)
    found = collecting(rounds)
    for way, values in found.items():
        print(f"collect  {way:12} {cell(values)} s")
    print(f"         default / one batch {cell(list(np.divide(found['default'], found['one batch'])))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    main(parser.parse_args().rounds)
