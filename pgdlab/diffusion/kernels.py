"""Kernels: the Gaussian of one denoising step, as coefficients of x_t and the x0 estimate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.schedules import Schedule

SMALLEST = 1e-3  # of eta or level: below it the rounding of fp32 states is seen in their log-probabilities
QUIET = 0.1  # on a flow: steps that end below this sigma decide nothing, and would have nearly all of the KL
ROUNDING = 1e-6  # of a grid's sigmas
Coefficients = tuple[Float[Tensor, " H"], Float[Tensor, " H"], Float[Tensor, " H"]]


class Kernel(ABC):
    """p(x_s | x_t) = N(from_x x_t + from_x0 x0(x_t), std^2), s after t. One code path serves sampling and replay."""

    @abstractmethod
    def coefficients(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        """(from_x, from_x0, std) of the steps t -> s, each (H,), fp64. Raises ValueError where the kernel is not defined on the
        schedule."""


@dataclass(frozen=True, kw_only=True)
class Noisy(Kernel):
    """A kernel that can leave noise out near the data.

    quiet: a step that ends at a smaller sigma has no noise; it is then the step of the ODE, DDIM's at eta 0. None: 0.1 on a flow,
    0 (all noise is kept) elsewhere.
    """

    quiet: float | None = None

    def __post_init__(self) -> None:
        if self.quiet is not None and not self.quiet >= 0:
            raise ValueError(f"quiet is {self.quiet}; it must be a sigma, 0 or above")

    @abstractmethod
    def noisy(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        """The coefficients of steps with all their noise."""

    def coefficients(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        quiet = (QUIET if schedule.straight else 0.0) if self.quiet is None else self.quiet
        noisy = self.noisy(schedule, t, s)
        if not quiet:
            return noisy
        return with_noise(schedule.sigma(s) > quiet - ROUNDING, noisy, schedule, t, s)


def with_noise(where: Tensor, noisy: Coefficients, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
    """Coefficients of steps t -> s: the noisy ones where (H,) is true, those of the ODE elsewhere."""
    from_x, from_x0, std = (
        torch.where(where, a, b)
        for a, b in zip(noisy, coupled(schedule, t, s, torch.zeros_like(noisy[2])), strict=True)
    )
    return from_x, from_x0, std


def coupled(schedule: Schedule, t: Tensor, s: Tensor, std: Float[Tensor, " H"]) -> Coefficients:
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) (x_t - alpha_t x_0) / sigma_t + std z, for any std up to sigma_s: given x_0 the
    marginals are those of the schedule   (Song et al. 2021, arXiv:2010.02502, eq. 7)."""
    from_x = (schedule.sigma(s) ** 2 - std**2).clamp(min=0).sqrt() / schedule.sigma(t)
    return from_x, schedule.alpha(s) - from_x * schedule.alpha(t), std


def euler_maruyama(schedule: Schedule, t: Tensor, s: Tensor, variance: Float[Tensor, " H"]) -> Coefficients:
    """One step of dx = [(x - x_0) / sigma + g^2 (x - alpha x_0) / (2 sigma^2)] dsigma + g dW, backwards on a flow; variance: g^2.
    The mean given x_0 is the schedule's; its variance is exceeded by d^2 (q + q^2 / 4), d the step, q = g^2 / sigma."""
    if not schedule.straight:
        raise ValueError(
            f"the kernel is the SDE of a flow, and the schedule ({type(schedule).__name__}) is none: take "
            "pgdlab.diffusion.kernels.DDIM or CPS"
        )
    sigma = schedule.sigma(t)
    d = sigma - schedule.sigma(s)
    pull = variance * d / (2 * sigma**2)
    return 1 - d / sigma - pull, d / sigma + pull * schedule.alpha(t), (variance * d).sqrt()


@dataclass(frozen=True, kw_only=True)
class DDIM(Noisy):
    """std = eta sqrt(var[x_s | x_t, x_0]), the rest of the noise kept from x_t   (Song et al. 2021, arXiv:2010.02502,
    eq. 12 and 16). eta 1 is DDPM's posterior (arXiv:2006.11239, eq. 7), eta 0 the deterministic sampler. Under a schedule
    of large variance eta 1 has std sqrt(var[x_t | x_s]) on the same mean, but at time 0 (DDPM's fixed_large).
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta != 0 and not SMALLEST <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must be 0 (deterministic), or {SMALLEST} to 1 (DDPM)")

    def noisy(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        # var[x_t | x_s] = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, for any schedule
        forward_var = (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2).clamp(min=0)
        std = self.eta * (sigma_s / sigma_t) * forward_var.sqrt()
        from_x, from_x0, std = coupled(schedule, t, s, std)
        if schedule.large_variance and self.eta:
            if self.eta != 1:
                raise ValueError(f"eta is {self.eta}; under variance_type fixed_large it must be 0 or 1")
            std = forward_var.sqrt() * (t > 0)
        return from_x, from_x0, std


@dataclass(frozen=True, kw_only=True)
class CPS(Noisy):
    """std = sigma_s sin(eta pi / 2), the rest of the noise kept from x_t   (Flow-CPS: Wang & Yu 2025,
    arXiv:2509.05952). eta 1 keeps none of it (as FlowMatchEulerDiscreteScheduler's stochastic_sampling), eta 0 is the ODE. A
    step's noise does not shrink with the step: the samples of many steps are not those of few.
    """

    eta: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta != 0 and not SMALLEST <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must be 0 (deterministic), or {SMALLEST} to 1 (no noise is kept)")

    def noisy(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        return coupled(schedule, t, s, schedule.sigma(s) * math.sin(self.eta * math.pi / 2))


@dataclass(frozen=True, kw_only=True)
class SDE(Noisy):
    """A flow's SDE of the same marginals, by Euler-Maruyama. level: the size of its noise, 0 is the ODE."""

    level: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level != 0 and not SMALLEST <= self.level < math.inf:
            raise ValueError(f"level is {self.level}; it must be 0 (deterministic), or {SMALLEST} or more")

    @abstractmethod
    def variance(self, sigma_t: Float[Tensor, " H"], sigma_s: Float[Tensor, " H"]) -> Float[Tensor, " H"]:
        """g^2 of the steps, per unit of sigma."""

    def noisy(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        return euler_maruyama(schedule, t, s, self.variance(schedule.sigma(t), schedule.sigma(s)))


@dataclass(frozen=True, kw_only=True)
class FlowSDE(SDE):
    """g^2 = level^2 sigma / (1 - sigma)   (Flow-GRPO: Liu et al. 2025, arXiv:2505.05470). Where sigma is 1, to a
    hundredth of the step, 1 - sigma is that of the step's end, as in its program; std is then level. In small steps it is DDIM
    with eta = level / sqrt 2, which has no such first step.
    """

    level: float = 0.7

    def variance(self, sigma_t: Float[Tensor, " H"], sigma_s: Float[Tensor, " H"]) -> Float[Tensor, " H"]:
        singular = 1 - sigma_t < (sigma_t - sigma_s) / 100
        return self.level**2 * sigma_t / (1 - torch.where(singular, sigma_s, sigma_t))


@dataclass(frozen=True, kw_only=True)
class Dance(SDE):
    """g = level at all times   (DanceGRPO: Xue et al. 2025, arXiv:2505.07818)."""

    level: float = 0.3

    def variance(self, sigma_t: Float[Tensor, " H"], sigma_s: Float[Tensor, " H"]) -> Float[Tensor, " H"]:
        return torch.full_like(sigma_t, self.level**2)


@dataclass(frozen=True, kw_only=True)
class NoiseAt(Kernel):
    """Another kernel at some steps of a sampler, all of whose steps are asked for at once; the others are those of the ODE."""

    kernel: Kernel
    steps: tuple[int, ...]

    def coefficients(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        if not set(self.steps) <= set(range(len(t))):
            raise ValueError(f"steps are {list(self.steps)}; they must be among 0 to {len(t) - 1}")
        chosen = torch.zeros(len(t), dtype=torch.bool, device=t.device)
        chosen[list(self.steps)] = True
        return with_noise(chosen, self.kernel.coefficients(schedule, t, s), schedule, t, s)


@dataclass(frozen=True, kw_only=True)
class AtLeast(Kernel):
    """Another kernel, whose steps have a standard deviation of `std` or more; their means stay   (DPPO: Ren et al. 2024,
    arXiv:2409.00588, sec. 4.3: noise that explores). Every step is stochastic then, the last one too, which trains. For actions:
    samples of images or plans are noisy to the end.
    """

    kernel: Kernel = field(default_factory=DDIM)
    std: float = 0.1

    def __post_init__(self) -> None:
        if not SMALLEST <= self.std < math.inf:
            raise ValueError(f"std is {self.std}; it must be {SMALLEST} or more, in the units of the samples")

    def coefficients(self, schedule: Schedule, t: Tensor, s: Tensor) -> Coefficients:
        from_x, from_x0, std = self.kernel.coefficients(schedule, t, s)
        return from_x, from_x0, std.clamp(min=self.std)


@dataclass(frozen=True)
class Chain:
    """The steps of a sampler. times: (H + 1,), falling. from_x, from_x0, std: (H,), fp64, see Kernel."""

    times: Tensor
    from_x: Float[Tensor, " H"]
    from_x0: Float[Tensor, " H"]
    std: Float[Tensor, " H"]

    @classmethod
    def of(cls, schedule: Schedule, kernel: Kernel, steps: int) -> Chain:
        times = schedule.times(steps)
        return cls(times, *kernel.coefficients(schedule, times[:-1], times[1:]))
