"""Rules of backward induction: from E[V_{h+1}] to V_h, and the mean of the step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.oracle.grid.maximum import best_nodes, maximise
from pgdlab.oracle.grid.quadrature import REACH, expectation
from pgdlab.oracle.grid.spline import Box, Spline

# Channels that are carried backwards: the value, the path's KL in nats, and the probability of leaving the grids
VALUE, KL, LEFT = 0, 1, 2
CHANNELS = 3
TIE = 1e-7  # reward a nat, where the KL is free: decides between equally good means


@dataclass(frozen=True, eq=False)
class Table:
    """One stochastic step: the expected channels of s_{h+1}, as functions of its mean, at the nodes of a box.

    curvature, radius: of the search for the best mean, max_m value(m) - curvature/2 |m - y|^2 with |m - y| <= radius.
    """

    step: int
    std: float
    box: Box
    values: Float[Tensor, "C *N"]
    curvature: float = 0.0
    radius: float = 0.0

    @cached_property
    def spline(self) -> Spline:
        """All channels."""
        return Spline(self.box, self.values)

    @cached_property
    def value(self) -> Spline:
        """The value alone."""
        return Spline(self.box, self.values[:1])

    @cached_property
    def nodes(self) -> Int[Tensor, "*N D"]:
        """The best mean for each node, as indices. Where the penalty exceeds the value's whole range nothing is sought."""
        value, reach = self.values[VALUE], self.radius
        if self.curvature > 0:
            reach = min(reach, math.sqrt(2 * float(value.max() - value.min()) / self.curvature))
        return best_nodes(value, self.box.spacing, self.curvature, reach)

    def moved(self, m: Float[Tensor, "P D"], y: Float[Tensor, "P D"], weight: float) -> Float[Tensor, "P C"]:
        """Channels for a step of mean m where the reference's is y: |m - y|^2 / (2 std^2) is added to the path's KL, and
        weight times it taken from the value."""
        kl = (m - y).square().sum(1) / (2 * self.std**2)
        return self.spline(m) + torch.stack([-weight * kl, kl, torch.zeros_like(kl)], 1)


class Rule(ABC):
    """weight: of the path's KL within the value, which is E[reward] - weight KL."""

    weight: float

    @abstractmethod
    def reach(self, pull: float) -> float:
        """How many stds around the reference's mean matter, where the optimum moves means by up to `pull` stds."""

    @abstractmethod
    def merge(self, values: Float[Tensor, "P S C"]) -> Float[Tensor, "P C"]:
        """One row for S equally probable next states: the expectation that `table` takes."""

    @abstractmethod
    def table(self, step: int, std: float, box: Box, values: Float[Tensor, "C *M"], reach: float) -> Table:
        """From the channels of s_{h+1} at the nodes of box.padded(margin(box, std, reach))."""

    @abstractmethod
    def channels(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        """Value, path KL and leaving probability at states x, where the reference's mean is y."""

    @abstractmethod
    def mean(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        """The mean of the next state."""


class Plain(Rule):
    """A rule whose steps are Gaussians of the reference's std."""

    def reach(self, pull: float) -> float:
        return REACH

    def merge(self, values: Float[Tensor, "P S C"]) -> Float[Tensor, "P C"]:
        return values.mean(1)


@dataclass(frozen=True)
class Attainable(Plain):
    """V_h(x) = max_m E_{N(m, std^2 I)}[V_{h+1}] - lam |m - y|^2 / (2 std^2), y the reference's mean: the best of the Gaussian
    policies with the sampler's std. box: at most box * std per coordinate between m and y, inf for no bound; then lam may be
    0."""

    weight: float
    box: float = math.inf

    def table(self, step: int, std: float, box: Box, values: Float[Tensor, "C *M"], reach: float) -> Table:
        return Table(
            step, std, box, expectation(values, box, std, None, reach), max(self.weight, TIE) / std**2, self.box * std
        )

    def channels(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        return table.moved(self.mean(table, x, y), y, self.weight)

    def mean(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        with torch.no_grad():  # the value's derivative is its derivative at a fixed maximiser (envelope theorem)
            return maximise(table.value, table.nodes, y, table.curvature, table.radius)


@dataclass(frozen=True)
class Ceiling(Rule):
    """V_h(x) = lam log E_{N(y, std^2 I)}[exp(V_{h+1} / lam)], by any policy: its steps are the reference's, tilted by
    exp((V_{h+1} - V_h) / lam), with KL (E_tilted[V_{h+1}] - V_h) / lam (Todorov 2006; Levine 2018, arXiv:1805.00909, sec. 2)."""

    weight: float

    def reach(self, pull: float) -> float:
        return REACH + 1.2 * pull

    def merge(self, values: Float[Tensor, "P S C"]) -> Float[Tensor, "P C"]:
        return tilted_mean(values, self.weight, self.weight)

    def table(self, step: int, std: float, box: Box, values: Float[Tensor, "C *M"], reach: float) -> Table:
        lam = self.weight
        values = torch.stack([values[VALUE], values[KL] + values[VALUE] / lam, values[LEFT]])
        value, kl, left = expectation(values, box, std, lam, reach)
        return Table(step, std, box, torch.stack([value, kl - value / lam, left]))

    def channels(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        return table.spline(y)

    def mean(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        """y + std^2 / lam dV/dy, the mean of the tilted step (Robbins 1956; Efron 2011, "Tweedie's formula")."""
        return y + table.std**2 / self.weight * table.value.gradient(table.box.nearest(y))[:, 0]


@dataclass(frozen=True)
class Follow(Plain):
    """The stochastic steps of a given policy."""

    policy: Policy
    cond: int
    weight: float

    def table(self, step: int, std: float, box: Box, values: Float[Tensor, "C *M"], reach: float) -> Table:
        return Table(step, std, box, expectation(values, box, std, None, reach))

    def channels(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        return table.moved(self.mean(table, x, y), y, self.weight)

    def mean(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        return policy_mean(self.policy, x, table.step, self.cond)


@dataclass(frozen=True)
class Stay(Plain):
    """The reference's own steps: V_h(x) = E_{N(y, std^2 I)}[V_{h+1}]."""

    weight: float

    def table(self, step: int, std: float, box: Box, values: Float[Tensor, "C *M"], reach: float) -> Table:
        return Table(step, std, box, expectation(values, box, std, None, reach))

    def channels(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P C"]:
        return table.spline(y)

    def mean(self, table: Table, x: Float[Tensor, "P D"], y: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        return y


def tilted_mean(values: Float[Tensor, "P S C"], tilt: float, weight: float) -> Float[Tensor, "P C"]:
    """The value as tilt log mean exp(V / tilt); the KL such that the reward, V + weight KL, is averaged with weights
    exp(V / tilt)."""
    value = values[..., VALUE]
    share = (value / tilt).softmax(1)[..., None]
    merged = tilt * ((value / tilt).logsumexp(1) - math.log(value.shape[1]))
    kl, left = (share * torch.stack([values[..., KL] + value / weight, values[..., LEFT]], -1)).sum(1).unbind(1)
    return torch.stack([merged, kl - merged / weight, left], 1)


def policy_mean(policy: Policy, x: Float[Tensor, "P D"], h: int, cond: int) -> Float[Tensor, "P D"]:
    """The mean of s_{h+1} at states x of step h, 65,536 at a time."""
    return torch.cat([policy(part, torch.full((len(part),), h), torch.full((len(part),), cond)).mean
                      for part in x.split(1 << 16)])  # fmt: skip
