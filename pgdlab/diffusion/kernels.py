"""Kernels: the Gaussian of one denoising step, as coefficients of x_t and the x0 estimate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.schedules import Schedule


class Kernel(ABC):
    """p(x_s | x_t) = N(from_x x_t + from_x0 x0(x_t), std^2), s after t. One code path serves sampling and replay."""

    @abstractmethod
    def coefficients(
        self, schedule: Schedule, t: Tensor, s: Tensor
    ) -> tuple[Float[Tensor, " H"], Float[Tensor, " H"], Float[Tensor, " H"]]:
        """(from_x, from_x0, std) of the steps t -> s, each (H,), fp64."""


@dataclass(frozen=True, kw_only=True)
class DDIM(Kernel):
    """std = eta sqrt(var[x_s | x_t, x_0]), the rest of the noise kept from x_t   (Song et al. 2021, arXiv:2010.02502,
    eq. 12 and 16). eta 1 is DDPM's posterior (arXiv:2006.11239, eq. 7), eta 0 the deterministic sampler.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must be 0 (deterministic) to 1 (DDPM)")

    def coefficients(
        self, schedule: Schedule, t: Tensor, s: Tensor
    ) -> tuple[Float[Tensor, " H"], Float[Tensor, " H"], Float[Tensor, " H"]]:
        alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        # var[x_t | x_s] = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, for any schedule
        forward_var = (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2).clamp(min=0)
        std = self.eta * (sigma_s / sigma_t) * forward_var.sqrt()
        from_x = (sigma_s**2 - std**2).clamp(min=0).sqrt() / sigma_t
        return from_x, alpha_s - from_x * alpha_t, std


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
