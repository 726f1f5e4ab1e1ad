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
class Outcome:
    """The part of B trajectories of H steps that a reward may see.

    sample: the decoded final samples (a batch that slices: a tensor or a list). estimate(h): the decoded x0 estimate of
    state h by the frozen reference, for h in 0..H-1. cond: (B, ...). steps: H.
    """

    sample: Any
    cond: Tensor
    steps: int
    estimate: Callable[[int], Any] | None = None

    def __len__(self) -> int:
        return len(self.cond)

    def rows(self, start: int, stop: int) -> Outcome:
        """The trajectories start..stop-1."""
        estimate = self.estimate
        part = None if estimate is None else lambda h: estimate(h)[start:stop]
        return replace(self, sample=self.sample[start:stop], cond=self.cond[start:stop], estimate=part)


@dataclass(frozen=True)
class StepRewards:
    """Rewards of B trajectories: values[:, h] is paid for action h, that is for state h+1.

    initial: (B,) what the initial distribution earns on top of the sum of values (a reward on s_0). queries: the rows that
    were scored for it, filled in by guarded().
    """

    values: Float[Tensor, "B H"]
    initial: Float[Tensor, " B"]
    measured: Bool[Tensor, " B"]
    parts: Mapping[str, Tensor]
    queries: int = 0

    def to(self, device: torch.device) -> StepRewards:
        """The same on another device."""
        values, initial, measured = (x.to(device) for x in (self.values, self.initial, self.measured))
        return StepRewards(values, initial, measured, {n: p.to(device) for n, p in self.parts.items()}, self.queries)

    @property
    def total(self) -> Float[Tensor, " B"]:
        """The return that the initial distribution is credited with."""
        return self.values.sum(1) + self.initial


def part_mean(part: Float[Tensor, " B"], measured: Bool[Tensor, " B"]) -> float | None:
    """Mean over the measured samples of which the part is known (finite: behind a closed gate it may not be), or None."""
    known = part.double()[measured & part.isfinite()]
    return known.mean().item() if len(known) else None


class RewardError(ValueError):
    """Too many samples of an iteration could not be scored."""


class ShapeError(RewardError):
    """A reward does not return what a reward returns: no sample is at fault."""


def require_shape(reward: Reward, given: Mapping[str, Any], *shape: int) -> None:
    """Raises ShapeError where one of the tensors that a reward returned is not of this shape."""
    for name, x in given.items():
        found = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"as a {type(x).__name__}"
        if found != f"of shape {shape}":
            raise ShapeError(f"reward {type(reward).__name__} returned {name} {found}, expected {shape}")


class Reward(nn.Module, ABC):
    """score() values decoded samples; forward() pays trajectories. By default the final sample is paid at the last step.

    cache_misses: answers that were not in the reward's cache, so far in this process; None without a cache. batch: samples
    that score() is given at once, so that a large network fits in memory; 0 for all of them, as a reward needs that
    compares samples.
    """

    cache_misses: int | None = None
    batch: int = 0

    @abstractmethod
    def score(self, sample: Any, cond: Tensor) -> Score:
        """Values of B decoded samples under cond (B, ...)."""

    def needs_estimates(self) -> bool:
        """Whether forward() asks for x0 estimates of intermediate states."""
        return False

    def unique_queries(self) -> int | None:
        """The largest `cache_misses` of this reward and those in it: a sample that several look at counts once."""
        counts = [
            part.cache_misses for part in self.modules() if isinstance(part, Reward) and part.cache_misses is not None
        ]
        return max(counts, default=None)

    def scored(self, sample: Any, cond: Tensor) -> Score:
        """score(), `batch` samples at a time. Raises ShapeError where it does not have one value a sample."""
        if not 0 < self.batch < len(cond):
            return self._checked(sample, cond)
        starts = range(0, len(cond), self.batch)
        parts = [self._checked(sample[i : i + self.batch], cond[i : i + self.batch]) for i in starts]
        value, measured = (torch.cat([getattr(p, name) for p in parts]) for name in ("value", "measured"))
        return Score(value, measured, {name: torch.cat([p.parts[name] for p in parts]) for name in parts[0].parts})

    def _checked(self, sample: Any, cond: Tensor) -> Score:
        score: Any = self.score(sample, cond)
        if not isinstance(score, Score):
            what = type(score).__name__
            raise ShapeError(
                f"reward {type(self).__name__} returned a {what}: return Score.of(values), a value a sample"
            )
        require_shape(self, {"values": score.value, "measured": score.measured, **score.parts}, len(cond))
        return score

    def forward(self, outcome: Outcome) -> StepRewards:
        return terminal(self.scored(outcome.sample, outcome.cond), outcome.steps)


class Prefetch(Reward):
    """A slow reward, computed in other processes: submit() begins with samples early, score() collects the results."""

    @abstractmethod
    def submit(self, sample: Any, cond: Tensor) -> None:
        """Begins with decoded samples that score() will be given, and returns at once."""


def prefetching(reward: Reward) -> list[Prefetch]:
    """The rewards in a reward, itself among them, that take samples early."""
    return [part for part in reward.modules() if isinstance(part, Prefetch)]


def terminal(score: Score, steps: int) -> StepRewards:
    """Pays the whole value for the last action."""
    value = score.value.double()
    values = value.new_zeros(len(value), steps)
    values[:, -1] = value
    return StepRewards(values, torch.zeros_like(value), score.measured, score.parts)


class NoReward(Reward):
    """0 for everything: for runs that are not steered."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(torch.zeros(len(cond), device=cond.device))
