"""An environment of two states, whose values dynamic programming gives exactly, and a small world that acts in it at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pgdlab.control.environment import Copies, Environment, Seeds, Transition
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.values import ObservationValue
from pgdlab.domains.control import Control
from pgdlab.rewards.environment import Paid
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import Plan
from pgdlab.trainers.closed_loop import ClosedLoop, rows_of
from pgdlab.trainers.interaction import Collected, Request
from pgdlab.world import World

GO, STAY, END = 0.5, 0.9, 0.1  # from 0 to 1 where the action is positive; in 1; the process ends, from 1
Trouble = Callable[[int, int], str]  # (copy, its steps so far) -> "", "raises" or "nan"


@dataclass(frozen=True, kw_only=True)
class TwoStates(Environment):
    """Begins in 0; a positive action leads to 1, which pays 1 a step, half of the time. Cut off after `limit` steps."""

    limit: int = 3
    observation: int = 1
    action: int = 1
    name: str = "two_states"
    has_goal: bool = True
    trouble: Trouble = field(default=lambda copy, step: "")

    def copies(self, count: int) -> Running:
        return Running(self, count)

    def expert(self, observation: Tensor, seeds: Seeds) -> Tensor:
        return torch.from_numpy(np.stack([seed.standard_normal(1) for seed in seeds]))

    def values(self, gamma: float) -> Tensor:
        """V of both states under actions that are positive half of the time: V = P (r + gamma V), r paid for where it leads."""
        go = GO / 2
        move = torch.tensor([[1 - go, go], [1 - STAY - END, STAY]], dtype=torch.float64)
        paid = move @ torch.tensor([0.0, 1.0], dtype=torch.float64)
        return torch.linalg.solve(torch.eye(2, dtype=torch.float64) - gamma * move, paid)


class Running(Copies):
    def __init__(self, of: TwoStates, count: int) -> None:
        self.of, self.state = of, torch.zeros(count, dtype=torch.long)
        self.done, self.total = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
        self.seeds: list[np.random.Generator] = [np.random.default_rng(0)] * count

    def reset(self, rows: Tensor, seeds: Seeds) -> Tensor:
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            self.seeds[row] = seed
        self.state[rows] = 0
        self.done[rows] = 0
        return self.state[rows, None].double()

    def step(self, rows: Tensor, action: Tensor) -> Transition:
        u = torch.tensor([self.seeds[row].random() for row in rows.tolist()])
        rich = self.state[rows] == 1
        ended = rich & (u >= 1 - END)
        to = torch.where(rich, u < STAY, (u < GO) & (action[:, 0] > 0))
        trouble = [self.of.trouble(row, int(self.total[row])) for row in rows.tolist()]
        self.state[rows] = (to & ~ended).long()
        self.done[rows] += 1
        self.total[rows] += 1
        reward = (to & ~ended).double().masked_fill(torch.tensor([t == "nan" for t in trouble]), torch.nan)
        raised = torch.tensor([t == "raises" for t in trouble])
        cut = self.done[rows] >= self.of.limit
        return Transition(self.state[rows, None].double(), reward, ended, cut, to & ~ended, raised)


class Known(ObservationValue):
    """The exact value of both states."""

    def __init__(self, domain: Control, values: Tensor) -> None:
        super().__init__(domain.conditioning, 4, 1, 1.0)
        self.values = values

    def at(self, cond: Tensor) -> Tensor:
        return self.values[self.told[0].table[cond][:, 0].round().long()]


def world(environments: int, environment: TwoStates | None = None, gamma: float = 0.9, **plan: float) -> World:
    """Its policy acts with N(0, 1), whatever it sees."""
    domain = Control(environment=TwoStates(), demonstrations=5)
    object.__setattr__(domain, "environment", environment or domain.environment)  # demonstrations are without trouble
    domain.decoder.mean.zero_()
    denoiser = domain.fresh(torch.Generator().manual_seed(0))
    for p in denoiser.parameters():  # v = 0: x0 = alpha x, the exact estimate of N(0, 1)
        torch.nn.init.zeros_(p)
    space = domain.space
    initial = Standard(space=space, num_conditions=1, std=1.0)
    policy = Policy(denoiser.requires_grad_(False), space, initial, DDIM(), 2)
    made = World(
        domain=domain, policy=policy, reference=policy.reference(), reward=Paid(), noise=Noise(0),
        plan=Plan(samples=environments * domain.chunks, group=1, rollout_batch=10_000, pass_size=100, **plan),
    )  # fmt: skip
    return replace(made, critic=Known(domain, TwoStates().values(gamma)))


def collected(of: World) -> Collected:
    """An iteration's episodes."""
    rows = of.plan.samples
    assert rows == rows_of(of, rows // of.domain.chunks)
    request = Request(
        policy=of.policy, reference=of.reference, noise=of.noise.of(0, range(rows)), cond=torch.zeros(rows)
    )
    return ClosedLoop().collect(of, request)
