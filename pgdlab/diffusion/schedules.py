"""Noise schedules: t -> (alpha, sigma) with x_t = alpha x_0 + sigma noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
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

    @property
    @abstractmethod
    def initial_std(self) -> float:
        """Standard deviation of the noise that sampling starts from (1 for variance preserving, sigma_max for VE)."""


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
        self.table = torch.cat([self.scheduler.alphas_cumprod, self.scheduler.final_alpha_cumprod.reshape(1)]).double()

    @property
    def prediction_type(self) -> str:
        return str(self.scheduler.config.prediction_type)

    @property
    def clip(self) -> float | None:
        """The range to which the x0 estimate is clipped, or None."""
        c = self.scheduler.config
        return float(c.clip_sample_range) if c.clip_sample else None

    @property
    def train_times(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def initial_std(self) -> float:
        return 1.0

    def alpha_squared(self, t: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Cumulative product of 1 - beta; index -1 is the last row, the final alpha."""
        if self.table.device != t.device:
            self.table = self.table.to(t.device)  # moved once, so that no forward pass waits for a copy
        return self.table[t]

    def alpha(self, t: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.alpha_squared(t).sqrt()

    def sigma(self, t: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        return (1 - self.alpha_squared(t)).sqrt()

    def times(self, steps: int) -> Int[Tensor, " H1"]:
        if not 1 <= steps <= self.train_times:
            raise ValueError(f"steps is {steps}; this schedule allows 1 to {self.train_times}")
        self.scheduler.set_timesteps(steps)
        return torch.cat([self.scheduler.timesteps.long(), torch.tensor([-1])])
