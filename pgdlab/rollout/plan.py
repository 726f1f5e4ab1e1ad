"""The plan: how many iterations, samples and steps, and how much of it at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch


class Steps(ABC):
    """Which stochastic steps of a rollout are trained. noise_elsewhere: whether the others have their noise too; if not, they are
    steps of the ODE, taken by the network as it is."""

    noise_elsewhere: ClassVar[bool] = True

    def of(self, iteration: int, stochastic: list[int], generator: torch.Generator) -> list[int]:
        """Those of an iteration."""
        return self.select(stochastic, generator)

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
class Last(Steps):
    """The last `count` stochastic steps; None draws their number anew each iteration, 1 to all of them. Nothing is scaled."""

    count: int | None = 1

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1, or null")

    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        count = self.count or int(torch.randint(len(stochastic), (), generator=generator)) + 1
        if count > len(stochastic):
            raise ValueError(f"the last {count} steps are asked for, and {len(stochastic)} have noise: {stochastic}")
        return stochastic[-count:]

    def scale(self, stochastic: int, trained: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class OneOf(Steps):
    """One stochastic step, drawn anew each iteration, of those after the share `start` of them. Nothing is scaled."""

    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"start is {self.start}; it must be a share of the steps, from 0 to below 1")

    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        late = stochastic[int(self.start * len(stochastic)) :]
        return [late[int(torch.randint(len(late), (), generator=generator))]]

    def scale(self, stochastic: int, trained: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class NoiseWindow(Steps):
    """`size` consecutive steps have noise and are trained, all others are steps of the ODE, by the network as it is; nothing is
    scaled. The window lies in start <= h < stop (None: the end). every: 0 puts it anywhere, anew each iteration
    (Flow-GRPO-Fast); above 0 it moves on by `stride` after that many iterations, from the start again after the end
    (MixGRPO: Li et al. 2025, arXiv:2507.21802, where it is 25). A range as long as the window holds it where it is.
    """

    noise_elsewhere: ClassVar[bool] = False
    size: int = 4
    start: int = 0
    stop: int | None = None
    every: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        for name, least in {"size": 1, "start": 0, "every": 0, "stride": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def places(self, stochastic: list[int]) -> list[list[int]]:
        """All windows, the first one first. Raises ValueError where there is none."""
        inside = [h for h in stochastic if self.start <= h and (self.stop is None or h < self.stop)]
        if len(inside) < self.size:
            end = "the end" if self.stop is None else self.stop
            raise ValueError(
                f"size is {self.size}, and from {self.start} to {end} are {len(inside)} of the stochastic steps {stochastic}"
            )
        return [inside[i : i + self.size] for i in range(len(inside) - self.size + 1)]

    def of(self, iteration: int, stochastic: list[int], generator: torch.Generator) -> list[int]:
        if not self.every:
            return self.select(stochastic, generator)
        places = self.places(stochastic)
        return places[iteration // self.every * self.stride % len(places)]

    def select(self, stochastic: list[int], generator: torch.Generator) -> list[int]:
        places = self.places(stochastic)
        return places[int(torch.randint(len(places), (), generator=generator))]

    def scale(self, stochastic: int, trained: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes, the same for every trainer.

    iterations: rollouts, each followed by its updates. samples: trajectories an iteration, over all processes.
    group: consecutive samples that share a condition. trained_steps: which steps are trained. rollout_batch: rows of a sampling
    pass; pass_size: (state, step) pairs of a training pass, which changes memory, not the gradient; 0: as many as fit in
    memory, see pgdlab.rollout.memory. eval_samples: fresh
    trajectories of the evaluation before and after. checkpoint_every: iterations between checkpoints. sheet_every:
    iterations between contact sheets of images, 0 for none. max_failed: share
    of an iteration's samples that the reward may fail to measure before the run stops. offload: whether decoder and rewards
    rest on the CPU while they do not work; the figures are the same. bf16_states: whether the states before and after trained
    steps are rounded to bf16 as they are drawn, and kept so: see pgdlab.rollout.sampler.Extras.
    """

    iterations: int = 40
    samples: int = 128
    group: int = 8
    trained_steps: Steps = field(default_factory=AllSteps)
    rollout_batch: int = 0
    pass_size: int = 0
    eval_samples: int = 256
    checkpoint_every: int = 5
    sheet_every: int = 0
    max_failed: float = 0.25
    offload: bool = False
    bf16_states: bool = False

    def __post_init__(self) -> None:
        least = {"iterations": 1, "samples": 1, "group": 1, "rollout_batch": 0, "pass_size": 0, "checkpoint_every": 1}
        for name, limit in (least | {"eval_samples": 2, "sheet_every": 0}).items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {limit}")
        if not 0 <= self.max_failed < 1:
            raise ValueError(f"max_failed is {self.max_failed}; it must be a share, from 0 to below 1")
        if self.samples % self.group:
            raise ValueError(
                f"samples ({self.samples}) must be a multiple of group ({self.group}): groups are complete"
            )
