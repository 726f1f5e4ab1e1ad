"""Rewards: what a sample is worth. A reward sees decoded samples, never a model."""

from __future__ import annotations

import functools
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pgdlab.control.episodes import Episodes
from pgdlab.diffusion.conditioning import Conditioning

PART = re.compile(r"[\w+\-.]+(/[\w+\-.]+)*")  # names of parts: of columns of metrics.csv, and keys of loggers


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
        """Everything measured. Raises ShapeError for what is no tensor."""
        given: dict[str, Any] = {"values": value, **parts}
        for name, x in given.items():
            if not isinstance(x, Tensor):
                what = type(x).__name__
                raise ShapeError(f"Score.of was given {name} as a {what}; it takes tensors: torch.as_tensor({name})")
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
        return self._of(lambda batch: batch[start:stop])

    def some(self, rows: Sequence[int]) -> Outcome:
        """These trajectories, in this order."""
        return self._of(lambda batch: joined([batch[i : i + 1] for i in rows]))

    def _of(self, part: Callable[[Any], Any]) -> Outcome:
        estimate = self.estimate
        seen = None if estimate is None else lambda h: part(estimate(h))
        return replace(self, sample=part(self.sample), cond=part(self.cond), estimate=seen)


def joined(parts: list[Any]) -> Any:
    """Decoded batches as one: tensors, or what can be added up as lists can."""
    return torch.cat(parts) if isinstance(parts[0], Tensor) else functools.reduce(operator.add, parts)


@dataclass(frozen=True)
class StepRewards:
    """Rewards of B trajectories: values[:, h] is paid for action h, that is for state h+1.

    initial: (B,) what the initial distribution earns on top of the sum of values (a reward on s_0). queries: the rows that
    were scored for it, filled in by guarded(). episodes: where an environment has paid.
    """

    values: Float[Tensor, "B H"]
    initial: Float[Tensor, " B"]
    measured: Bool[Tensor, " B"]
    parts: Mapping[str, Tensor]
    queries: int = 0
    episodes: Episodes | None = None

    def to(self, device: torch.device) -> StepRewards:
        """The same on another device."""
        values, initial, measured = (x.to(device) for x in (self.values, self.initial, self.measured))
        return StepRewards(values, initial, measured, {n: p.to(device) for n, p in self.parts.items()}, self.queries)

    def rows(self, rows: Tensor) -> StepRewards:
        """Of the trajectories of these numbers."""
        parts = {name: part[rows] for name, part in self.parts.items()}
        return StepRewards(self.values[rows], self.initial[rows], self.measured[rows], parts, self.queries)

    @property
    def total(self) -> Float[Tensor, " B"]:
        """The return that the initial distribution is credited with."""
        return self.values.sum(1) + self.initial

    @property
    def judged(self) -> tuple[Tensor, Tensor]:
        """What policies are compared by, and whether it is measured: a sample's return, in a closed loop an episode's."""
        e, device = self.episodes, self.values.device
        return (self.total, self.measured) if e is None else (e.returns.to(device), e.whole.to(device))


def part_mean(part: Float[Tensor, " B"], measured: Bool[Tensor, " B"]) -> float | None:
    """Mean over the measured samples of which the part is known (finite: behind a closed gate it may not be), or None."""
    known = part.double()[measured & part.isfinite()]
    return known.mean().item() if len(known) else None


class RewardError(ValueError):
    """Too many samples of an iteration could not be scored."""


class ShapeError(RewardError):
    """A reward does not return what a reward returns, or does what no reward may: no sample is at fault."""


def require_shape(reward: Reward, given: Mapping[str, Any], *shape: int) -> None:
    """Raises ShapeError where one of the tensors that a reward returned is not of this shape, or holds no real numbers."""
    for name, x in given.items():
        found = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"as a {type(x).__name__}"
        if found != f"of shape {shape}":
            squeeze = ": leave the last dimension out" if found == f"of shape {(*shape, 1)}" else ""
            raise ShapeError(f"reward {reward.called} returned {name} {found}, expected {shape}{squeeze}")
        if x.is_complex():
            raise ShapeError(f"reward {reward.called} returned complex {name}: take the real part, or the modulus")


def require_measured(reward: Reward, measured: Tensor) -> None:
    """Raises ShapeError where it does not say yes or no of every sample."""
    if measured.dtype != torch.bool:
        raise ShapeError(f"reward {reward.called} returned measured as {measured.dtype}, expected torch.bool")


def require_names(reward: Reward, names: Iterable[object]) -> None:
    """Raises ShapeError for a name of a part that no column can have."""
    for name in names:
        if not (isinstance(name, str) and PART.fullmatch(name)):
            raise ShapeError(
                f"reward {reward.called} returned a part named {name!r}; a name is made of letters, digits, _ - + . and /"
            )


class Reward(nn.Module, ABC):
    """score() values decoded samples; forward() pays trajectories. By default the final sample is paid at the last step.

    cache_misses: answers that were not in the reward's cache, so far in this process; None without a cache. batch: samples
    that score() is given at once, so that a large network fits in memory; 0 for all of them, as a reward needs that
    compares samples. takes: what kind its samples have to be, in the words of Decoder.gives; None for any. differentiable:
    whether the values of score() carry gradients to samples that do.
    """

    cache_misses: int | None = None
    batch: int = 0
    takes: str | None = None
    differentiable: bool = False

    @abstractmethod
    def score(self, sample: Any, cond: Tensor) -> Score:
        """Values of B decoded samples under cond (B, ...)."""

    def needs_estimates(self) -> bool:
        """Whether forward() asks for x0 estimates of intermediate states."""
        return False

    def compares(self) -> bool:
        """Whether what a sample is worth depends on the others of its batch: of this reward or of one in it."""
        return any(part is not self and isinstance(part, Reward) and part.compares() for part in self.modules())

    def meet(self, conditioning: Conditioning) -> None:
        """Hears what the numbers of cond stand for (Conditioning.texts), once, when the run is built. Ignored by default; each
        reward inside another is asked for itself."""

    @property
    def called(self) -> str:
        """Its name in messages."""
        return type(self).__name__

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
        score: Any = self.score(lent(sample), lent(cond))
        if not isinstance(score, Score):
            what = type(score).__name__
            raise ShapeError(f"reward {self.called} returned a {what}: return Score.of(values), a value a sample")
        require_names(self, score.parts)
        require_shape(self, {"values": score.value, "measured": score.measured, **score.parts}, len(cond))
        require_measured(self, score.measured)
        return score

    def forward(self, outcome: Outcome) -> StepRewards:
        return terminal(self.scored(outcome.sample, outcome.cond), outcome.steps)


def lent(batch: Any) -> Any:
    """What a reward is handed: a copy of a tensor, since others look at the same samples. Molecules are not changed in place."""
    return batch.clone() if isinstance(batch, Tensor) else batch


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
