"""Certificates: training runs measured against the exact optimum of their problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback
from scipy.stats import t as student
from torch import Tensor

from pgdlab.certificates.truth import Figures, Truth
from pgdlab.training.module import SteeringModule


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Training algorithms, and the problems on which each is measured against the optimum.

    problems, algorithms: name -> overrides of the command line; each algorithm runs on each problem. seeds: runs of each,
    every one with the problem's domain.replicas inside. measurements: how often a run is measured, evenly over its
    iterations.
    """

    name: str
    problems: dict[str, list[str]]
    algorithms: dict[str, list[str]]
    seeds: int = 1
    measurements: int = 30


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The certificate of the functions that the trainers share, on finite MDPs (oracle/tabular.py)."""

    name: str = "tables"
    seed: int = 0


class Measure(Callback):
    """Measures the raw policy exactly, evenly over the iterations."""

    def __init__(self, truth: Truth, measurements: int) -> None:
        self.truth, self.measurements = truth, measurements
        self.curve: list[tuple[int, Figures]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        done, total = int(pl_module.iterations), pl_module.world.plan.iterations
        if done * self.measurements // total > (done - 1) * self.measurements // total:
            queries = int(pl_module.queries) // len(self.truth.base.objective)
            with torch.no_grad():
                self.curve.append((queries, self.truth.measure(pl_module.policy)))


@dataclass(frozen=True)
class StudentInterval:
    """A mean with its 95 % Student interval over runs (half-width None for one run)."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> StudentInterval:
        x = torch.tensor(values, dtype=torch.float64)
        if len(x) < 2:
            return cls(x.mean().item(), None)
        return cls(x.mean().item(), float(student.ppf(0.975, len(x) - 1)) * x.std().item() / len(x) ** 0.5)


def queries_to(level: float, gaps: Float[Tensor, "M R"], queries: list[int]) -> tuple[float | None, int]:
    """Median over the replicas of the queries of the first measurement whose gap is below level, and how many got there.

    Replicas that never did are censored: the median is None where they are half or more.
    """
    reached = [next((q for q, g in zip(queries, column, strict=True) if g < level), math.inf) for column in gaps.T]
    median = float(torch.tensor(reached, dtype=torch.float64).quantile(0.5, interpolation="higher"))
    return (None if math.isinf(median) else median), sum(not math.isinf(q) for q in reached)


@dataclass(frozen=True)
class Run:
    """One training run with its replicas: the truth, and its exact figures. final: of the averaged
    weights. curve: (queries a replica, figures of the raw weights)."""

    best: Figures
    ceiling: float
    base: Figures
    final: Figures
    curve: list[tuple[int, Figures]]

    def gaps(self, figures: Figures) -> list[float]:
        """(J_best - J) / (J_best - J_base) of every replica: 0 at the optimum, 1 at the base."""
        best, base = self.best.objective[0], self.base.objective[0]
        return [(best - j) / (best - base) for j in figures.objective]

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Run:
        """The inverse of dataclasses.asdict."""
        curve = [(queries, Figures(**figures)) for queries, figures in plain["curve"]]
        named = {name: Figures(**plain[name]) for name in ("best", "base", "final")}
        return cls(ceiling=plain["ceiling"], curve=curve, **named)


@dataclass(frozen=True)
class Cell:
    """An algorithm's runs on a problem; or none, and the reason why it refused."""

    runs: list[Run]
    seconds: float
    refused: str = ""

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Cell:
        """The inverse of dataclasses.asdict."""
        return cls([Run.read(r) for r in plain["runs"]], plain["seconds"], plain["refused"])


@dataclass(frozen=True)
class Row:
    """One algorithm on one problem, over all runs' replicas; figures is None where it refused.

    gap: see Run.gaps, of the averaged weights; to_10, to_5: see queries_to. curve: (queries, the replicas' gaps) of the
    raw weights.
    """

    problem: str
    algorithm: str
    refused: str
    seconds: float
    figures: RowFigures | None = None
    gap: StudentInterval | None = None
    to_10: tuple[float | None, int] = (None, 0)
    to_5: tuple[float | None, int] = (None, 0)
    replicas: int = 0
    curve: list[tuple[int, list[float]]] = field(default_factory=list)


@dataclass(frozen=True)
class RowFigures:
    """Means over the replicas' averaged weights (objective, reward, kl), and the optimum's (best, ...)."""

    objective: float
    reward: float
    kl: float
    best: float
    best_reward: float
    best_kl: float
    base: float
    ceiling: float


def row(problem: str, algorithm: str, cell: Cell) -> Row:
    """The row of a cell."""
    if cell.refused:
        return Row(problem, algorithm, cell.refused, cell.seconds)
    first, finals = cell.runs[0], [r.final for r in cell.runs]
    queries = [q for q, _ in first.curve]
    curve = [[g for r in cell.runs for g in r.gaps(r.curve[i][1])] for i in range(len(queries))]
    gaps = torch.tensor(curve, dtype=torch.float64)
    figures = RowFigures(
        objective=fmean(j for f in finals for j in f.objective), reward=fmean(j for f in finals for j in f.reward),
        kl=fmean(a + b for f in finals for a, b in zip(f.path_kl, f.initial_kl, strict=True)),
        best=first.best.objective[0], best_reward=first.best.reward[0],
        best_kl=first.best.path_kl[0] + first.best.initial_kl[0], base=first.base.objective[0], ceiling=first.ceiling,
    )  # fmt: skip
    return Row(
        problem, algorithm, "", cell.seconds, figures, StudentInterval.of([g for r in cell.runs for g in r.gaps(r.final)]),
        queries_to(0.1, gaps, queries), queries_to(0.05, gaps, queries), gaps.shape[1],
        list(zip(queries, curve, strict=True)),
    )  # fmt: skip


@dataclass(frozen=True)
class Share:
    """The share of the ideal gain of a linear reward: of the optimal policy, and of trained ones; None where there is
    no policy gradient."""

    eta: str
    tuned: str
    optimal: float | None
    trained: StudentInterval | None

    @classmethod
    def of(cls, eta: str, tuned: str, cell: Cell, ideal: float) -> Share:
        """From a cell's runs."""
        if cell.refused:
            return cls(eta, tuned, None, None)
        base, best = cell.runs[0].base.reward[0], cell.runs[0].best.reward[0]
        shares = [(reached - base) / ideal for r in cell.runs for reached in r.final.reward]
        return cls(eta, tuned, (best - base) / ideal, StudentInterval.of(shares))
