"""The seam of environments: what can be acted in, and many copies of it that are stepped side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

Seeds = Sequence[np.random.Generator]  # one an episode: all that is random in it


@dataclass(frozen=True)
class Transition:
    """What one action has led to in R copies. observation: (R, O), before any reset. terminated: the process has ended, nothing
    comes after it; truncated: it was cut off by a time limit and would have gone on. success: a goal is reached. failed: the
    environment raised, and the other fields mean nothing. All on the CPU."""

    observation: Float[Tensor, "R O"]
    reward: Float[Tensor, " R"]
    terminated: Bool[Tensor, " R"]
    truncated: Bool[Tensor, " R"]
    success: Bool[Tensor, " R"]
    failed: Bool[Tensor, " R"]


class Copies(ABC):
    """Copies of an environment, each in an episode of its own. They do not reset themselves."""

    @abstractmethod
    def reset(self, rows: Int[Tensor, " R"], seeds: Seeds) -> Float[Tensor, "R O"]:
        """Begins an episode in these copies, each with its seed; the first observations."""

    @abstractmethod
    def step(self, rows: Int[Tensor, " R"], action: Float[Tensor, "R A"]) -> Transition:
        """Acts in these copies."""


class Environment(ABC):
    """A frozen dataclass. observation, action: how many numbers they are. limit: steps after which an episode is over, at most.
    has_goal: whether success means anything."""

    name: str
    observation: int
    action: int
    limit: int
    has_goal: bool = False

    @abstractmethod
    def copies(self, count: int) -> Copies:
        """That many, in which no episode has begun."""

    @abstractmethod
    def expert(self, observation: Float[Tensor, "R O"], seeds: Seeds) -> Float[Tensor, "R A"]:
        """Actions of the scripted controller that demonstrations are of, its noise from the seeds."""

    def best(self, observation: Float[Tensor, "R O"]) -> Float[Tensor, " R"] | None:
        """The largest expected return of an episode that begins with the observation, where it is known exactly."""
        return None

    def report(self, ways: dict[str, list[Float[Tensor, "_ O"]]], folder: Path) -> list[Path]:
        """Writes what people want to see of episodes: their observations at first and after each chunk, of policies in the same
        environments (name -> an episode each). The files; none by default."""
        return []
