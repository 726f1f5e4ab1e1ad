"""Critics: what kind of value is learned, and its regression."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.conditioning import Observations
from pgdlab.diffusion.values import ObservationValue, PerceptronValue, QuadraticValue, Value
from pgdlab.rollout.trajectory import Pairs, Trajectory, dtype_of, pick, split
from pgdlab.world import World


class Critic(ABC):
    """A kind of value that can be learned: a frozen dataclass that makes the module."""

    @abstractmethod
    def build(self, world: World) -> Value:
        """For the world's states, steps and conditions; its first weights are keyed by the run's seed."""


def sizes(world: World) -> tuple[int, int, int]:
    """Conditions ("none" included), steps, and coordinates of a state."""
    return world.domain.conditioning.size + 1, world.policy.steps, math.prod(world.policy.space.shape)


@dataclass(frozen=True, kw_only=True)
class Quadratic(Critic):
    """A quadratic of the state for every step and condition (for points; exact for linear-Gaussian problems)."""

    def build(self, world: World) -> Value:
        return QuadraticValue(*sizes(world)).to(world.device)


@dataclass(frozen=True, kw_only=True)
class Perceptron(Critic):
    """One perceptron for all steps and conditions. hidden: width; layers: how many of that width."""

    hidden: int = 128
    layers: int = 2

    def build(self, world: World) -> Value:
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws its weights from torch's global generator
            torch.manual_seed(world.noise.seed)
            value = PerceptronValue(*sizes(world), self.hidden, self.layers)
        return value.to(world.device, dtype_of(world.policy))


@dataclass(frozen=True, kw_only=True)
class Observed(Critic):
    """A perceptron on the observation: V of the environment's state. hidden: width; layers: how many of that width; scale: of
    the values, in the reward's unit."""

    hidden: int = 64
    layers: int = 2
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}; it must be above 0: about the size of a return")

    def build(self, world: World) -> Value:
        told = world.domain.conditioning
        if not isinstance(told, Observations):
            raise ValueError("a critic of observations goes with an environment, and this domain has none")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(world.noise.seed)
            value = ObservationValue(told, self.hidden, self.layers, self.scale)
        return value.to(world.device, dtype_of(world.policy))


def at_pairs(value: Value, trajectory: Trajectory, pairs: Pairs) -> Float[Tensor, " P"]:
    """The values of the states before the pairs' actions."""
    return value(trajectory.at(pairs.state), pairs.step, pairs.cond)


@torch.no_grad()
def at_trained(value: Value, trajectory: Trajectory, size: int) -> Float[Tensor, "B K"]:
    """The values of all states before trained actions, `size` pairs at a time. fp64."""
    rows, trained = len(trajectory.cond), len(trajectory.trained)
    indices = torch.arange(rows * trained, device=trajectory.states.device)
    parts = (trajectory.pairs(some) for some in split(indices, size))
    return torch.cat([at_pairs(value, trajectory, some).double() for some in parts]).reshape(rows, trained)


def fit_loss(
    value: Value, trajectory: Trajectory, targets: Float[Tensor, "B K"], pairs: Pairs
) -> tuple[Float[Tensor, ""], dict[str, tuple[Tensor, float]]]:
    """Sum over the pairs of (V - target)^2 / 2, targets constant   (Sutton & Barto 2018, sec. 9.3 and 12.2)."""
    off = at_pairs(value, trajectory, pairs).double() - pick(targets, pairs.index)
    loss = off.square().sum() / 2
    return loss, {"critic_loss": (2 * loss.detach(), float(len(off)))}


def fit_at_rows(
    value: Value, trajectory: Trajectory, targets: Float[Tensor, "B T"], rows: Int[Tensor, " R"]
) -> tuple[Float[Tensor, ""], dict[str, tuple[Tensor, float]]]:
    """The same sum for one target a trajectory, at its initial state: where no step is trained."""
    at = torch.zeros_like(rows)
    off = value(trajectory.initial[rows], at, trajectory.cond[rows]).double() - targets[rows, 0]
    return off.square().sum() / 2, {"critic_loss": (off.detach().square().sum(), float(len(rows)))}
