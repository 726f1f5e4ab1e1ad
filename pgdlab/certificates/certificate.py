"""Certificates: training runs measured against the exact optimum of their problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback
from scipy.stats import t as student
from torch import Tensor

from pgdlab.certificates.truth import Figures, Truth
from pgdlab.training.module import SteeringModule

Law = Literal["attainable", "tilt"]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Training algorithms, and the problems on which each is measured against the optimum.

    problems, algorithms: name -> overrides of the command line; each algorithm runs on each problem. seeds: runs of each,
    from first_seed on, every one with the problem's domain.replicas inside. measurements: how often a run is measured, evenly
    over its iterations. tilt: the algorithms that aim at the tilt of the final samples, and are held against it with the KL of
    those; the others against the attainable optimum with the path's.
    """

    name: str
    problems: dict[str, list[str]]
    algorithms: dict[str, list[str]]
    seeds: int = 1
    first_seed: int = 0
    measurements: int = 30
    tilt: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if wrong := [name for name in self.tilt if name not in self.algorithms]:
            raise ValueError(f"tilt names {wrong[0]}, which is none of the algorithms")

    def every_seed(self) -> range:
        """Those of its runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def law(self, algorithm: str) -> Law:
        """What an algorithm is held against."""
        return "tilt" if algorithm in self.tilt else "attainable"


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
    tilt: Figures | None = None

    def gaps(self, figures: Figures, law: Law = "attainable") -> list[float]:
        """(J_best - J) / (J_best - J_base) of every replica: 0 at the optimum, 1 at the base; J with the path's KL, or with that
        of the final samples."""
        if law == "tilt":
            assert self.tilt is not None, "Cell.read() and cells.run() see to it"
            best, base, values = self.tilt.final_objective[0], self.base.final_objective[0], figures.final_objective
        else:
            best, base, values = self.best.objective[0], self.base.objective[0], figures.objective
        return [(best - j) / (best - base) for j in values]

    def reached(self, figures: Figures, law: Law) -> tuple[list[float], list[float]]:
        """J and KL of every replica, by the law's KL."""
        if law == "tilt":
            return figures.final_objective, figures.final_kl
        return figures.objective, [a + b for a, b in zip(figures.path_kl, figures.initial_kl, strict=True)]

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Run:
        """The inverse of dataclasses.asdict."""
        curve = [(queries, Figures(**figures)) for queries, figures in plain["curve"]]
        named = {name: Figures(**plain[name]) for name in ("best", "base", "final", "tilt") if plain.get(name)}
        return cls(ceiling=plain["ceiling"], curve=curve, **named)


@dataclass(frozen=True)
class Cell:
    """An algorithm's runs on a problem, and the law that they are held against; or none, and the reason why it refused."""

    runs: list[Run]
    seconds: float
    refused: str = ""
    law: Law = "attainable"

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Cell:
        """The inverse of dataclasses.asdict."""
        return cls(
            [Run.read(r) for r in plain["runs"]], plain["seconds"], plain["refused"], plain.get("law", "attainable")
        )


@dataclass(frozen=True)
class Row:
    """One algorithm on one problem, over all runs' replicas; figures is None where it refused.

    gap: see Run.gaps, of the averaged weights; to_10, to_5: see queries_to. curve: (queries, the replicas' gaps) of the
    raw weights. law: what it is held against, which says whose KL is in all of them.
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
    law: Law = "attainable"
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
        return Row(problem, algorithm, cell.refused, cell.seconds, law=cell.law)
    first, law = cell.runs[0], cell.law
    queries = [q for q, _ in first.curve]
    curve = [[g for r in cell.runs for g in r.gaps(r.curve[i][1], law)] for i in range(len(queries))]
    gaps = torch.tensor(curve, dtype=torch.float64)
    objective, kl = zip(*(r.reached(r.final, law) for r in cell.runs), strict=True)
    best = first.tilt if law == "tilt" and first.tilt else first.best
    top, top_kl = first.reached(best, law)
    figures = RowFigures(
        objective=fmean(j for some in objective for j in some), reward=fmean(x for r in cell.runs for x in r.final.reward),
        kl=fmean(x for some in kl for x in some), best=top[0], best_reward=best.reward[0], best_kl=top_kl[0],
        base=first.reached(first.base, law)[0][0], ceiling=top[0] if law == "tilt" else first.ceiling,
    )  # fmt: skip
    return Row(
        problem, algorithm, "", cell.seconds, figures,
        StudentInterval.of([g for r in cell.runs for g in r.gaps(r.final, law)]),
        queries_to(0.1, gaps, queries), queries_to(0.05, gaps, queries), gaps.shape[1], law,
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
