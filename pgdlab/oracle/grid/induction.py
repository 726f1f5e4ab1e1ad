"""Backward induction along a denoising chain, with tables of one step each, and the grids it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import Gaussian
from pgdlab.oracle.grid.quadrature import margin, sampled
from pgdlab.oracle.grid.rules import CHANNELS, KL, LEFT, VALUE, Rule, Table, policy_mean
from pgdlab.oracle.grid.spline import Box

Score = Callable[[Tensor], Tensor]  # states (P, D) -> rewards (P,)
PATHS = 2048  # simulated to place the grids
DENSE = {1: 16, 2: 4}  # nodes a std wanted at the default number of points
DEFAULT_POINTS = {1: 1000, 2: 100}
MOST = {1: 40, 2: 2}  # times `points` nodes an axis, where a step's std is small


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """max E[sum_h r_h(s_{h+1})] - lam path KL - lam0 KL(rho || rho_pre), on a frozen 1-D or 2-D reference.

    reward: of the sample s_H, any function of states (P, D) -> (P,), also a discontinuous one. running: r_h by step h, paid for
    s_{h+1}. lam0: default lam. trains_denoiser, trains_initial: what the optimum may change. Steps with std 0 are the
    reference's. cond: the condition that the policies get. points: nodes an axis (default 1000 in 1-D, 100 in 2-D).
    tolerance: the largest error of objective and reward; a result with a larger one raises.
    """

    reference: Policy
    reward: Score
    lam: float
    lam0: float | None = None
    running: Mapping[int, Score] = field(default_factory=dict)
    trains_denoiser: bool = True
    trains_initial: bool = False
    cond: int = 0
    points: int | None = None
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        shape, steps = self.reference.space.shape, self.reference.steps
        if shape not in ((1,), (2,)):
            raise ValueError(f"samples have shape {shape}; for the grid oracle it must be (1,) or (2,)")
        if self.lam <= 0 or self.start_weight <= 0:
            raise ValueError(f"lam is {self.lam} and lam0 {self.lam0}; they must be above 0 (bounded() needs no KL)")
        if wrong := [h for h in self.running if not 0 <= h < steps]:
            raise ValueError(f"running rewards are at steps {wrong}; they must be at steps 0 to {steps - 1}")

    @property
    def start_weight(self) -> float:
        """lambda_0."""
        return self.lam if self.lam0 is None else self.lam0

    @property
    def nodes(self) -> int:
        """Nodes an axis."""
        return DEFAULT_POINTS[self.reference.space.shape[0]] if self.points is None else self.points

    def mean(self, x: Float[Tensor, "P D"], h: int) -> Float[Tensor, "P D"]:
        """The reference's."""
        return policy_mean(self.reference, x, h, self.cond)

    def prior(self) -> Gaussian:
        """rho_pre, one row."""
        return start_of(self.reference, self.cond)

    def paid(self, z: Float[Tensor, "P D"], h: int) -> Float[Tensor, " P"]:
        """The reward of action h for leading to z."""
        parts = [self.running[h]] if h in self.running else []
        parts += [self.reward] if h == self.reference.steps - 1 else []
        return torch.stack([part(z).double() for part in parts]).sum(0) if parts else torch.zeros(len(z)).double()


def start_of(policy: Policy, cond: int) -> Gaussian:
    """rho of a policy, one row, fp64."""
    rho = policy.initial(torch.tensor([cond]))
    return Gaussian(rho.mean.double(), rho.std.double().expand_as(rho.mean))


class Induction:
    """The channels of every state under a rule: from the last step to the first, one table a stochastic step.

    boxes: for each h = 0 .. H where s_h is likely to be; their nodes are chosen here, about `points` an axis. reach: how
    many stds are integrated over on each side.
    """

    def __init__(self, problem: Problem, rule: Rule, boxes: list[Box], points: int, reach: float) -> None:
        self.problem, self.rule, self.boxes, self.reach = problem, rule, boxes, reach
        self.tables: dict[int, Table] = {}
        steps = problem.reference.steps
        for h in reversed(range(steps)):
            std = float(problem.reference.std[h])
            if std > 0:
                box = spaced(boxes[h + 1], std, points)
                wide = box.padded(margin(box, std, reach))
                ahead = sampled(partial(self.after, h=h), wide, self.watched, rule.merge)
                self.tables[h] = rule.table(h, std, box, ahead, reach)

    def after(self, z: Float[Tensor, "P D"], h: int) -> Float[Tensor, "P C"]:
        """Channels of what follows action h that led to z, its reward included."""
        ahead = self.channels(z, h + 1)
        paid = self.problem.paid(z, h)
        left = torch.maximum(ahead[:, LEFT], self.boxes[h + 1].outside(z).double())
        return torch.stack([ahead[:, VALUE] + paid, ahead[:, KL], left], 1)

    def channels(self, x: Float[Tensor, "P D"], h: int) -> Float[Tensor, "P C"]:
        """Channels at states x of step h, before action h."""
        if h == self.problem.reference.steps:
            return torch.zeros(len(x), CHANNELS, dtype=x.dtype)
        y = self.problem.mean(x, h)
        return self.rule.channels(self.tables[h], x, y) if h in self.tables else self.after(y, h)

    def mean(self, x: Float[Tensor, "P D"], h: int) -> Float[Tensor, "P D"]:
        """The mean of s_{h+1} under the rule."""
        y = self.problem.mean(x, h)
        return self.rule.mean(self.tables[h], x, y) if h in self.tables else y

    @property
    def watched(self) -> int:
        """The channels whose jumps matter: the KL's only where it is paid for."""
        return LEFT if self.rule.weight > 0 else KL

    @torch.no_grad()
    def pull(self, states: list[Float[Tensor, "P D"]]) -> float:
        """By how many stds the rule moves a coordinate of the mean at most, over these states s_0 .. s_H."""
        moves = [
            (self.mean(states[h], h) - self.problem.mean(states[h], h)).abs().max() / table.std
            for h, table in self.tables.items()
        ]
        return max(map(float, moves), default=0.0)


def walk(rho: Gaussian, mean: Callable[[Tensor, int], Tensor], policy: Policy) -> list[Float[Tensor, "P D"]]:
    """States s_0 .. s_H of PATHS paths with the given means and the policy's std; the same noise at every call."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(policy.steps + 1, PATHS, policy.space.shape[0], generator=g, dtype=torch.float64)
    states = [rho.sample(noise[0])]
    for h in range(policy.steps):
        states.append(mean(states[-1], h) + policy.std[h] * noise[h + 1])
    return states


def around(states: list[Float[Tensor, "P D"]], sides: float = 3.0) -> list[Box]:
    """For each h a box (of two nodes an axis) with all paths in it, and `sides` of their std more on each side."""
    boxes = []
    for s in states:
        more = sides * s.std(0) + 1e-6
        low, high = s.amin(0) - more, s.amax(0) + more
        boxes.append(Box(low, high - low, (2,) * s.shape[1]))
    return boxes


def union(one: list[Box], other: list[Box]) -> list[Box]:
    """For each h the smallest box around both."""
    low = [torch.minimum(a.low, b.low) for a, b in zip(one, other, strict=True)]
    high = [torch.maximum(a.high, b.high) for a, b in zip(one, other, strict=True)]
    return [Box(a, b - a, box.shape) for a, b, box in zip(low, high, one, strict=True)]


def within(inner: list[Box], outer: list[Box], slack: float = 0.1) -> bool:
    """Whether every inner box lies in its outer one, widened by `slack` of its width."""
    return all(
        bool(((i.low >= o.low - slack * (o.high - o.low)) & (i.high <= o.high + slack * (o.high - o.low))).all())
        for i, o in zip(inner, outer, strict=True)
    )


def spaced(box: Box, std: float, points: int) -> Box:
    """The box with `points` nodes an axis, or more where that is coarse against the step's std."""
    d = len(box.shape)
    width, wanted = box.high - box.low, std / DENSE[d] * DEFAULT_POINTS[d] / points
    shape = tuple(min(max(points, math.ceil(float(w) / wanted)), MOST[d] * points) for w in width)
    return Box(box.low, width / (torch.tensor(shape) - 1), shape)
