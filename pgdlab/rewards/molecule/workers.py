"""Slow or dangerous oracles in processes of their own, each molecule with a time limit."""

from __future__ import annotations

import multiprocessing
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pgdlab.molecules.batch import Molecule, Molecules
from pgdlab.rewards.base import Prefetch
from pgdlab.rewards.molecule.base import REMEMBERED, CachedReward, PerMolecule

BIRTHS = 3  # times that processes may die without work before they are given up
STILLBORN = (
    "the worker processes die before their first molecule: take the reward out of Workers to see why. A script of your own "
    'must keep what it runs under `if __name__ == "__main__":`'
)

_served: PerMolecule | None = None  # in a worker: the reward that it computes


def serve(reward: PerMolecule) -> None:
    """Begins a worker's life. One thread each: workers are there to fill the cores."""
    global _served
    os.environ["OMP_NUM_THREADS"] = "1"  # before a library that reads it is loaded by the first call
    _served = reward


def quantity(smiles: str) -> float:
    """In a worker: of one molecule."""
    assert _served is not None
    return float(_served.of(Molecules.from_smiles([smiles])[0]))


def processes(workers: int, reward: PerMolecule) -> Any:
    """A pool whose processes never were forks of this one, with its threads: of a server that has the modules loaded, where
    the system can, so that a new worker is there in milliseconds."""
    from pebble import ProcessPool

    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([__name__, type(reward).__module__])
    return ProcessPool(max_workers=workers, initializer=serve, initargs=(reward,), context=context)


def retire(pool: Any) -> None:
    """Ends a pool's processes, whatever they do."""
    pool.stop()
    pool.join()


class Workers(CachedReward, Prefetch):
    """reward in `workers` processes, `seconds` at most for a molecule. Worth and part are the reward's.

    A call that raises, takes longer, or takes its process down is not measured; its worker is replaced, and the other
    molecules do not notice. Molecules go there as SMILES. What submit() is given is begun at once and collected by
    score(): a rollout submits each of its batches while it samples the next. The processes start with the first
    molecule and end with the reward.
    """

    def __init__(
        self, *, reward: PerMolecule, workers: int = 2, seconds: float = 30.0, remembered: int = REMEMBERED
    ) -> None:
        super().__init__(remembered=remembered)
        if workers < 1 or seconds <= 0:
            raise ValueError(f"workers is {workers}, seconds {seconds}; workers must be at least 1, seconds above 0")
        self.reward, self.workers, self.seconds, self.part = reward, workers, seconds, reward.part
        self.pool: Any = None
        self.retire: Callable[[], Any] = lambda: None
        self.pending: dict[str, Future[float]] = {}
        self.stillborn = False

    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.reward.worth(quantity)

    def submitted(self, smiles: str) -> Future[float]:
        """The call for a molecule, begun."""
        if self.stillborn:
            raise RuntimeError(STILLBORN)
        if self.pool is None or not self.pool.active:
            self.retire()
            self.pool = processes(self.workers, self.reward)
            self.retire = weakref.finalize(self, retire, self.pool)
        future: Future[float] = self.pool.schedule(quantity, args=[smiles], timeout=self.seconds)
        return future

    def submit(self, sample: Molecules, cond: Tensor) -> None:
        for smiles in dict.fromkeys(str(m.smiles) for m in sample if m.valid):
            if smiles not in self.answers and smiles not in self.pending:
                self.pending[smiles] = self.submitted(smiles)

    def ask(self, molecules: Sequence[Molecule]) -> list[float]:
        names = [str(m.smiles) for m in molecules]
        begun = [self.pending.pop(s) if s in self.pending else self.submitted(s) for s in names]
        return [self.result(m, future) for m, future in zip(molecules, begun, strict=True)]

    def result(self, molecule: Molecule, future: Future[float]) -> float:
        """The quantity that a call found, NaN where it failed."""
        for _ in range(BIRTHS):
            try:
                return future.result()
            except BrokenProcessPool:  # processes died without work: what waited is asked of new ones
                future = self.submitted(str(molecule.smiles))
            except Exception as error:  # raised there, a TimeoutError, or pebble's ProcessExpired
                return self.failure(molecule, error)
        self.stillborn = True
        raise RuntimeError(STILLBORN)
