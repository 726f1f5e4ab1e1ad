"""Rewards: what a sample is worth. A reward sees decoded samples, never a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Score:
    """value (B,), any unit. measured (B,): False only where the scorer itself failed, never for a bad sample.

    parts: unweighted components, each (B,), for the logs.
    """

    value: Float[Tensor, " B"]
    measured: Bool[Tensor, " B"]
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Float[Tensor, " B"], **parts: Tensor) -> Score:
        """Everything measured."""
        return cls(value, torch.ones_like(value, dtype=torch.bool), parts)


@dataclass(frozen=True)
class Episode:
    """What a reward may see of B trajectories of H steps.

    sample: the decoded final samples (a batch that slices: a tensor or a list). estimate(h): the decoded x0 estimate of
    state h by the frozen reference, for h in 0..H-1. cond: (B, ...). steps: H.
    """

    sample: Any
    cond: Tensor
    steps: int
    estimate: Callable[[int], Any] | None = None

    def __len__(self) -> int:
        return len(self.cond)

    def rows(self, start: int, stop: int) -> Episode:
        """The trajectories start..stop-1."""
        estimate = self.estimate
        part = None if estimate is None else lambda h: estimate(h)[start:stop]
        return replace(self, sample=self.sample[start:stop], cond=self.cond[start:stop], estimate=part)


@dataclass(frozen=True)
class Paid:
    """Rewards of B trajectories: values[:, h] is paid for action h, that is for state h+1.

    initial: (B,) what the initial distribution earns on top of the sum of values (a reward on s_0).
    """

    values: Float[Tensor, "B H"]
    initial: Float[Tensor, " B"]
    measured: Bool[Tensor, " B"]
    parts: Mapping[str, Tensor]

    @property
    def total(self) -> Float[Tensor, " B"]:
        """The return that the initial distribution is credited with."""
        return self.values.sum(1) + self.initial


class Reward(nn.Module, ABC):
    """score() values decoded samples; forward() pays trajectories. By default the final sample is paid at the last step."""

    @abstractmethod
    def score(self, sample: Any, cond: Tensor) -> Score:
        """Values of B decoded samples under cond (B, ...)."""

    def needs_estimates(self) -> bool:
        """Whether forward() asks for x0 estimates of intermediate states."""
        return False

    def forward(self, episode: Episode) -> Paid:
        return terminal(self.score(episode.sample, episode.cond), episode.steps)


def terminal(score: Score, steps: int) -> Paid:
    """Pays the whole value for the last action."""
    value = score.value.double()
    values = value.new_zeros(len(value), steps)
    values[:, -1] = value
    return Paid(values, torch.zeros_like(value), score.measured, score.parts)


class NoReward(Reward):
    """0 for everything: for runs that are not steered."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(torch.zeros(len(cond), device=cond.device))
