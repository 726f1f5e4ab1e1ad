"""Offline: the denoiser is fitted to a table of samples, weighted by their rewards; no reward is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.config.launch import rank
from pgdlab.domains.table import Table
from pgdlab.functional.returns import effective_size, temperature_for
from pgdlab.trainers.denoising import DenoisingAlgorithm, Samples
from pgdlab.trainers.own_samples import refuse_path_terms
from pgdlab.world import World

LEAST = 2.0  # rows that the weights must be the spread of, under every condition


@dataclass(frozen=True, kw_only=True)
class Offline(DenoisingAlgorithm):
    """Minimises sum_i w_i denoising_loss(x_i) over the rows of a table, w = softmax(r / T) under each condition: its minimum is
    the denoiser of p exp(r / T), p the law of the table's samples (advantage-weighted regression, Peng et al. 2019,
    arXiv:1910.00177, of samples instead of actions). Zero reward queries.

    table: the file, see pgdlab.domains.table. temperature: T, reward units; null: under each condition the one whose weights are
    the spread of `share` of its rows.
    """

    table: str
    temperature: float | None = None
    share: float = 0.1
    updates: int = 20
    batch: int = 128
    drop: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0, in reward units, or null")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; it must be between 0 and 1, a share of the rows")

    def refuse(self, world: World) -> None:
        super().refuse(world)
        refuse_path_terms(world)
        self.read(world)

    def equip(self, world: World) -> World:
        """The same world; says what the table can tell, and what the weights take of it."""
        _, weight = self.read(world)
        rows, size = len(weight), effective_size(weight)
        if rank() == 0:
            print(
                f"{self.table}: {rows:,} rows, of which weights leave {size:,.0f} effective ones; they tell {told(weight):.2f}"
                f" nats from the table's law, and so many rows at most {math.log(rows / size):.2f}"
            )
        return world

    def read(self, world: World) -> tuple[Table, Float[Tensor, " N"]]:
        """The table and its weights, which sum to its rows. Raises ValueError where it does not fit, or one row has it all."""
        path = Path(self.table)
        table = Table.read(path)
        table.require(world.domain, path)
        weight = torch.zeros_like(table.reward)
        for c in table.cond.unique().tolist():
            rows = table.cond == c
            weight[rows] = self.weights(table.reward[rows], f"{path}, condition {c}")
        return table, weight

    def weights(self, reward: Float[Tensor, " B"], where: str) -> Float[Tensor, " B"]:
        """Of the rows of one condition; they sum to their number."""
        try:
            t = self.temperature or temperature_for(reward, max(self.share * len(reward), LEAST))
        except ValueError as error:
            raise ValueError(f"{where}: {error}: give a temperature, or rows with other rewards") from error
        weight = ((reward - reward.max()) / t).softmax(0) * len(reward)
        if len(reward) > 1 and effective_size(weight) < LEAST - 0.1:
            raise ValueError(
                f"{where}: one of {len(reward):,} rows has (nearly) all the weight, so that the policy would copy it: raise "
                f"trainer.temperature (now {t:.3g}), or set it to null"
            )
        return weight

    def collect(self, world: World, iteration: int) -> Samples:
        table, weight = self.read(world)
        size, x0 = effective_size(weight), table.sample.to(world.device)
        logs = {
            "effective_samples": size,
            "largest_weight": float(weight.max()) / len(weight),
            "table_nats": told(weight),
        }
        logs["table_nats_limit"] = math.log(len(weight) / size)
        return Samples(x0, table.cond.to(world.device), weight.to(x0), iteration, logs)


def told(weight: Float[Tensor, " N"]) -> float:
    """KL of the weighted rows to the rows: log N less the entropy, in nats; never above log(N / effective size)."""
    p = weight.double() / weight.double().sum()
    return (math.log(len(p)) + torch.special.xlogy(p, p).sum()).item()
