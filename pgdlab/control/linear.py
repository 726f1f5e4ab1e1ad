"""A linear-quadratic regulator with Gaussian noise as an environment: its optimum is exact (pgdlab.oracle.regulator)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.control.environment import Copies, Environment, Seeds, Transition
from pgdlab.oracle.regulator import Regulator, matrix

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class LinearQuadratic(Environment):
    """x' = A x + B a + w, w ~ N(0, noise^2 I), x_0 ~ N(0, start^2 I); reward -(x'^T Q x' + a^T R a), Q and R diagonal. By default
    a mass on a line, pushed for 0.5 s a step.

    ends: terminated, the process is over after `limit` steps, and the observation holds the share of them that is done beside
    x, since the optimum depends on it; truncated, it would go on for ever and is cut off there. expert_gain, expert_noise:
    the scripted controller, a ~ N(gain x, noise^2 I).
    """

    a: Rows = ((1.0, 0.5), (0.0, 1.0))
    b: Rows = ((0.125,), (0.5,))
    q: tuple[float, ...] = (1.0, 0.1)
    r: tuple[float, ...] = (0.1,)
    noise: float = 0.05
    start: float = 1.0
    limit: int = 10
    ends: Literal["terminated", "truncated"] = "terminated"
    expert_gain: Rows = ((-0.3, -0.9),)
    expert_noise: float = 0.3
    name: str = "lqr"

    def __post_init__(self) -> None:
        states, actions = len(self.a), len(self.r)
        shapes = {"a": (states, states), "b": (states, actions), "expert_gain": (actions, states)}
        for what, shape in shapes.items():
            rows = getattr(self, what)
            if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
                raise ValueError(f"{what} is {rows}; it must have {shape[0]} rows of {shape[1]} numbers")
        if len(self.q) != states or min(self.q) < 0 or min(self.r) <= 0:
            raise ValueError(f"q is {self.q} and r {self.r}; q must be {states} numbers of at least 0, r above 0")
        if self.limit < 1 or min(self.noise, self.start, self.expert_noise) <= 0:
            raise ValueError("limit must be at least 1; noise, start and expert_noise above 0")

    @property
    def observation(self) -> int:  # type: ignore[override]
        return len(self.a) + (self.ends == "terminated")

    @property
    def action(self) -> int:  # type: ignore[override]
        return len(self.r)

    def regulator(self, gamma: float = 1.0) -> Regulator:
        """The problem whose cost is minus the return. gamma: of the process that goes on; where it ends, any."""
        eye = torch.eye(len(self.a), dtype=torch.float64)
        q, r = (torch.tensor(x, dtype=torch.float64).diag() for x in (self.q, self.r))
        horizon = self.limit if self.ends == "terminated" else None
        return Regulator(matrix(self.a), matrix(self.b), q, r, self.noise**2 * eye, horizon, gamma)

    @property
    def initial(self) -> Float[Tensor, "S S"]:
        """The covariance of x_0."""
        return self.start**2 * torch.eye(len(self.a), dtype=torch.float64)

    def best(self, observation: Float[Tensor, "R O"]) -> Float[Tensor, " R"]:
        """Of all policies there are; where episodes are cut off, of those that look no further than the cut."""
        whole = replace(self.regulator(0.0), horizon=self.limit, gamma=1.0)
        return -whole.optimum().cost_from(observation[:, : len(self.a)])

    def copies(self, count: int) -> LinearCopies:
        return LinearCopies(self, count)

    def expert(self, observation: Float[Tensor, "R O"], seeds: Seeds) -> Float[Tensor, "R A"]:
        state = observation[:, : len(self.a)]
        return state @ matrix(self.expert_gain).T + self.expert_noise * normal(seeds, self.action)


class LinearCopies(Copies):
    """Copies of a LinearQuadratic, fp64."""

    def __init__(self, environment: LinearQuadratic, count: int) -> None:
        self.of = environment
        self.x = torch.zeros(count, len(environment.a), dtype=torch.float64)
        self.done = torch.zeros(count, dtype=torch.long)
        self.seeds: list[np.random.Generator] = [np.random.default_rng(0)] * count

    def reset(self, rows: Int[Tensor, " R"], seeds: Seeds) -> Float[Tensor, "R O"]:
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            self.seeds[row] = seed
        self.x[rows] = self.of.start * normal(seeds, self.x.shape[1])
        self.done[rows] = 0
        return self.observed(rows)

    def observed(self, rows: Int[Tensor, " R"]) -> Float[Tensor, "R O"]:
        """x, and the share of the steps that is done where they end."""
        share = self.done[rows, None].double() / self.of.limit
        return torch.cat([self.x[rows], share], 1) if self.of.ends == "terminated" else self.x[rows]

    def step(self, rows: Int[Tensor, " R"], action: Float[Tensor, "R A"]) -> Transition:
        of, action = self.of, action.double()
        noise = of.noise * normal([self.seeds[row] for row in rows.tolist()], self.x.shape[1])
        self.x[rows] = self.x[rows] @ matrix(of.a).T + action @ matrix(of.b).T + noise
        self.done[rows] += 1
        cost = (self.x[rows].square() * torch.tensor(of.q, dtype=torch.float64)).sum(1)
        cost = cost + (action.square() * torch.tensor(of.r, dtype=torch.float64)).sum(1)
        over, never = self.done[rows] >= of.limit, torch.zeros(len(rows), dtype=torch.bool)
        ended, cut = (over, never) if of.ends == "terminated" else (never, over)
        return Transition(self.observed(rows), -cost, ended, cut, never, never)


def normal(seeds: Seeds, size: int) -> Float[Tensor, "R D"]:
    """Standard normal numbers, a row from each seed, fp64."""
    return torch.from_numpy(np.stack([seed.standard_normal(size) for seed in seeds]))
