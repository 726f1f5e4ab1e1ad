"""Noise schedules: t -> (alpha, sigma) with x_t = alpha x_0 + sigma noise."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.scheduler_config import OWN_TIMES, VARIANCES, SchedulerConfig


class Schedule(ABC):
    """x_t = alpha(t) x_0 + sigma(t) noise, in fp64. Times fall while sampling; the last one is the sample's.

    clip: the range to which the estimate of x0 is clipped, after everything else that changes it; None for none.
    large_variance: whether a step at full noise has the variance of x_t | x_s (DDPM's fixed_large), not the posterior's.
    straight: whether alpha is 1 - sigma, on a straight line from noise to data.
    """

    clip: float | None = None
    large_variance: bool = False
    straight: ClassVar[bool] = False

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


SMALLEST_SIGMA = 1e-3  # that a flow is trained at: an error of v is read off x0, divided by sigma


@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    """x_t = (1 - sigma) x_0 + sigma noise, on the straight line between the two (Liu et al. 2023, arXiv:2209.03003; Lipman et
    al. 2023, arXiv:2210.02747). Times are sigma itself, from 1 to 0.

    sigmas: the grid of a sampler, such as that of a pipeline's own call, from 1 at most to 0; no other number of steps can be
    taken then. None: even, then shifted. shift: sigma -> shift sigma / (1 + (shift - 1) sigma), of an even grid and of the
    times of training; above 1 more of them are noisy (Esser et al. 2024, arXiv:2403.03206, eq. 23).
    """

    straight: ClassVar[bool] = True
    sigmas: Sequence[float] | None = None
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift is {self.shift}; it must be above 0")
        if self.sigmas is None:
            return
        grid = tuple(float(sigma) for sigma in self.sigmas)
        object.__setattr__(self, "sigmas", grid)
        falling = all(a > b for a, b in itertools.pairwise(grid))
        if len(grid) < 2 or not falling or not (grid[0] <= 1 and grid[-1] == 0):
            raise ValueError(f"sigmas are {list(grid)}; they must fall from 1 at most to 0, at least 2 of them")

    @property
    def prediction_type(self) -> str:
        """The quantity that a network for it gives out, see pgdlab.diffusion.predictions."""
        return "flow_prediction"

    @property
    def initial_std(self) -> float:
        return 1.0

    def alpha(self, t: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return 1 - t.double()

    def sigma(self, t: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return t.double()

    def shifted(self, sigma: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Even sigmas as the sampler has them; 0 and 1 stay."""
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def times(self, steps: int) -> Float[Tensor, " H1"]:
        if self.sigmas is None:
            if steps < 1:
                raise ValueError(f"steps is {steps}; it must be at least 1")
            return self.shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        if steps != len(self.sigmas) - 1:
            raise ValueError(f"steps is {steps}; the grid of sigmas that was handed over has {len(self.sigmas) - 1}")
        return torch.tensor(self.sigmas, dtype=torch.float64)

    def spread(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.shifted(SMALLEST_SIGMA + (1 - SMALLEST_SIGMA) * u.double())


class DiffusersSchedule(Schedule):
    """The discrete variance-preserving chain of a diffusers scheduler (DDPM: Ho et al. 2020, arXiv:2006.11239, eq. 4).

    Times are the integers 0 .. num_train_timesteps - 1; -1 stands for what the scheduler calls the final alpha.
    Spacing and offsets of the sampling steps are the scheduler's own; a step leads to the next time of that grid, as in
    DDPMScheduler (DDIMScheduler goes back by T // steps, which differs where the grid is uneven: linspace, and trailing
    where steps does not divide T). Multistep and Euler schedulers give their grid; the steps on it are the kernel's.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: the scheduler's `scheduler_config.json`. Raises ValueError where it asks for what cannot be followed."""
        self.config = SchedulerConfig.read(config)
        own = self.config.build()
        self.scheduler = self.config.as_ddim(own)
        self.grid = own if self.config.kind in OWN_TIMES else self.scheduler
        fields = self.config.fields
        self.clip = float(fields["clip_sample_range"]) if fields.get("clip_sample") else None
        self.large_variance = VARIANCES[fields.get("variance_type")]
        # diffusers keeps fp32 tables; the fp64 ones are the same numbers, so that both step alike
        last = self.config.final(own).reshape(1)  # of time -1
        squared = torch.cat([own.alphas_cumprod, last]).double()
        self.table = torch.stack([squared.sqrt(), (1 - squared).sqrt()])

    @property
    def has_own_times(self) -> bool:
        """Whether the times of a sampler are not those of a DDIMScheduler."""
        return self.grid is not self.scheduler

    @property
    def prediction_type(self) -> str:
        """The quantity that the network gives out: epsilon, v_prediction or sample."""
        return str(self.config.fields["prediction_type"])

    @property
    def train_times(self) -> int:
        """T: the times of training are 0 .. T - 1."""
        return int(self.config.fields["num_train_timesteps"])

    @property
    def initial_std(self) -> float:
        if self.config.kind.startswith("Euler") and self.grid.config.timestep_spacing != "leading":
            return float(
                self.table[1, self.train_times - 1]
            )  # Euler's noise is that of the last time, without its signal
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
        self.grid.set_timesteps(steps)
        times = self.grid.timesteps.double()
        if not (len(times) == steps and (times == times.round()).all() and (times.diff() < 0).all()):
            raise ValueError(f"{steps} steps do not lie on {steps} whole times of this schedule; choose another number")
        if times[0] >= self.train_times or times[-1] < 0:
            raise ValueError(
                f"{steps} steps reach from time {int(times[0])} to {int(times[-1])} (steps_offset "
                f"{self.grid.config.steps_offset}); the schedule has 0 to {self.train_times - 1}: take fewer steps"
            )
        return torch.cat([times.long(), torch.tensor([-1])])

    def spread(self, u: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        return (u * self.train_times).long().clamp_max(self.train_times - 1)  # in fp32 u is rounded to 1 at times
