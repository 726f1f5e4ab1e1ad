"""Noise schedules: t -> (alpha, sigma) with x_t = alpha x_0 + sigma noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Schedule(ABC):
    """x_t = alpha(t) x_0 + sigma(t) noise, in fp64. Times fall while sampling; the last one is the sample's."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Float[Tensor, " P"]:
        """Signal scale at times t (P,)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Float[Tensor, " P"]:
        """Noise scale at times t (P,)."""

    @abstractmethod
    def times(self, steps: int) -> Tensor:
        """The steps + 1 decreasing times of a sampler with that many steps; the last has (nearly) no noise."""

    @abstractmethod
    def spread(self, u: Float[Tensor, " B"]) -> Tensor:
        """Uniform numbers in [0, 1) -> the times (B,) that a denoiser is trained at."""

    @property
    @abstractmethod
    def initial_std(self) -> float:
        """Standard deviation of the noise that sampling starts from (1 for variance preserving, sigma_max for VE)."""


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), t falling evenly from where alpha is alpha_min to where sigma is
    sigma_min   (after Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17). Every step is stochastic for eta above 0.
    """

    alpha_min: float = 1e-3
    sigma_min: float = 1e-2

    def __post_init__(self) -> None:
        if not (0 < self.alpha_min < 1 and 0 < self.sigma_min < 1 and self.alpha_min**2 + self.sigma_min**2 < 1):
            raise ValueError(
                f"alpha_min {self.alpha_min} and sigma_min {self.sigma_min} must be between 0 and 1, and small"
            )

    @property
    def first(self) -> float:
        """The time at which alpha is alpha_min."""
        return math.acos(self.alpha_min) * 2 / math.pi

    @property
    def last(self) -> float:
        """The time at which sigma is sigma_min."""
        return math.asin(self.sigma_min) * 2 / math.pi

    @property
    def initial_std(self) -> float:
        return 1.0

    def alpha(self, t: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return (t.double() * math.pi / 2).cos()

    def sigma(self, t: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return (t.double() * math.pi / 2).sin()

    def times(self, steps: int) -> Float[Tensor, " H1"]:
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        return torch.linspace(self.first, self.last, steps + 1, dtype=torch.float64)

    def spread(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.last + u.double() * (self.first - self.last)


class DiffusersSchedule(Schedule):
    """The discrete variance-preserving chain of a diffusers scheduler (DDPM: Ho et al. 2020, arXiv:2006.11239, eq. 4).

    Times are the integers 0 .. num_train_timesteps - 1; -1 stands for what the scheduler calls the final alpha.
    Spacing and offsets of the sampling steps are the scheduler's own; a step leads to the next time of that grid, as in
    DDPMScheduler (DDIMScheduler goes back by T / steps, which differs where the grid is uneven: linspace).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """config: the scheduler's `scheduler_config.json`. Raises ValueError for dynamic thresholding."""
        from diffusers import DDIMScheduler

        self.scheduler = DDIMScheduler.from_config(config)
        if self.scheduler.config.thresholding:
            raise ValueError("the scheduler's config asks for thresholding; only clip_sample is implemented")
        # diffusers keeps fp32 tables; the fp64 ones are the same numbers, so that both step alike
        last = self.scheduler.final_alpha_cumprod.reshape(1)  # of time -1
        squared = torch.cat([self.scheduler.alphas_cumprod, last]).double()
        self.table = torch.stack([squared.sqrt(), (1 - squared).sqrt()])

    @property
    def prediction_type(self) -> str:
        """The quantity that the network gives out: epsilon, v_prediction or sample."""
        return str(self.scheduler.config.prediction_type)

    @property
    def clip(self) -> float | None:
        """The range to which the x0 estimate is clipped, or None."""
        c = self.scheduler.config
        return float(c.clip_sample_range) if c.clip_sample else None

    @property
    def train_times(self) -> int:
        """T: the times of training are 0 .. T - 1."""
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def initial_std(self) -> float:
        return 1.0

    def at(self, t: Int[Tensor, " P"], row: int) -> Float[Tensor, " P"]:
        """alpha (row 0) or sigma (row 1) at times t."""
        if self.table.device != t.device:
            self.table = self.table.to(t.device)  # moved once, so that no forward pass waits for a copy
        return self.table[row][t]

    def alpha(self, t: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.at(t, 0)

    def sigma(self, t: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.at(t, 1)

    def times(self, steps: int) -> Int[Tensor, " H1"]:
        if not 1 <= steps <= self.train_times:
            raise ValueError(f"steps is {steps}; it must be 1 to {self.train_times}, the times of this schedule")
        self.scheduler.set_timesteps(steps)
        return torch.cat([self.scheduler.timesteps.long(), torch.tensor([-1])])

    def spread(self, u: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        return (u * self.train_times).long()
