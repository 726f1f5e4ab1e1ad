"""The plan: how many iterations, samples and steps, and how much of it at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch


class Steps(ABC):
    """Which stochastic steps of a rollout are trained and trained."""

    @abstractmethod
    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        """A sorted, non-empty part of the stochastic steps."""

    def scale(self, stochastic: int, trained: int) -> float:
        """The factor of the sum over trained steps."""
        return stochastic / trained


@dataclass(frozen=True, kw_only=True)
class AllSteps(Steps):
    """Every stochastic step."""

    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        return stochastic


@dataclass(frozen=True, kw_only=True)
class RandomSteps(Steps):
    """A random fraction of the steps, drawn anew each iteration; unbiased, because the sum is scaled up."""

    fraction: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it must be above 0 and at most 1")

    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        trained = max(1, round(self.fraction * len(stochastic)))
        order = torch.randperm(len(stochastic), generator=generator)[:trained].tolist()
        return sorted(stochastic[i] for i in order)


@dataclass(frozen=True, kw_only=True)
class Window(Steps):
    """The steps start <= h < stop only: a biased choice (the other steps are never trained), so nothing is scaled."""

    start: int = 0
    stop: int = 10

    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        trained = [h for h in stochastic if self.start <= h < self.stop]
        if not trained:
            raise ValueError(f"the window {self.start}..{self.stop} holds none of the stochastic steps {stochastic}")
        return trained

    def scale(self, stochastic: int, trained: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes, the same for every trainer.

    iterations: rollouts, each followed by its updates. samples: trajectories an iteration, over all processes.
    group: consecutive samples that share a condition. trained_steps: which steps are trained. rollout_batch: rows of a sampling
    pass; pass_size: (state, step) pairs of a training pass, which changes memory, not the gradient; 0: as many as fit in
    memory, see pgdlab.rollout.memory. eval_samples: fresh
    trajectories of the evaluation before and after. checkpoint_every: iterations between checkpoints. max_failed: share
    of an iteration's samples that the reward may fail to measure before the run stops.
    """

    iterations: int = 40
    samples: int = 128
    group: int = 8
    trained_steps: Steps = field(default_factory=AllSteps)
    rollout_batch: int = 0
    pass_size: int = 0
    eval_samples: int = 256
    checkpoint_every: int = 5
    max_failed: float = 0.25

    def __post_init__(self) -> None:
        least = {"iterations": 1, "samples": 1, "group": 1, "rollout_batch": 0, "pass_size": 0, "checkpoint_every": 1}
        for name, limit in (least | {"eval_samples": 2}).items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {limit}")
        if not 0 <= self.max_failed < 1:
            raise ValueError(f"max_failed is {self.max_failed}; it must be a share, from 0 to below 1")
        if self.samples % self.group:
            raise ValueError(
                f"samples ({self.samples}) must be a multiple of group ({self.group}): groups are complete"
            )
