"""Guidance by a value: every step's mean is shifted by std^2 grad V / lambda."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.guidance.base import Guidance, Law, Potential, Source, Steered, require_temperature
from pgdlab.guidance.learned import LearnedValue
from pgdlab.guidance.shift import Shift, Shifted
from pgdlab.rollout.sampler import Batch
from pgdlab.rollout.trajectory import initial_kl
from pgdlab.trainers.interaction import OneShot

Form = Literal["tilted", "next", "own"]


@dataclass(frozen=True, kw_only=True)
class ValueGuidance(Guidance):
    """m + std^2 grad V / lam, the mean of a step moved along the gradient of a value of states, psi = V / lam. form says where it
    is taken:

        tilted   E[grad psi_h+1(y) e^psi_h+1(y)] / E[e^psi_h+1(y)], y ~ N(m, std^2): the mean of the step tilted by e^psi (Stein)
        next     grad psi_h+1(m), its first order
        own      grad psi_h(s_h), as in DPS and TDS: short by the slope of the mean

    With the soft value of this lambda `tilted` comes near the best chain of Gaussian steps. A step that leads to the sample has
    no value after it and, but for `own`, stays. bound: the largest shift, in std. draws: of y.
    """

    lam: float = 0.1
    potential: Potential = field(default_factory=LearnedValue)
    form: Form = "tilted"
    bound: float = 2.0
    draws: int = 16

    def __post_init__(self) -> None:
        for name in ("lam", "bound"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.draws < 2 or self.draws % 2:
            raise ValueError(
                f"draws is {self.draws}; it must be an even number, 2 at least: they come in pairs of z and -z"
            )

    @property
    def law(self) -> Law:
        return "none" if self.potential.temperature() is None else "attainable"

    def law_for(self, source: Source) -> Law:
        return "none" if source.tuned else self.law

    def aims_at(self, source: Source) -> str:
        if source.tuned:
            return "no law that is known: the value is the base's, and a tuned policy makes the samples"
        return super().aims_at(source)

    def refuse(self, source: Source) -> None:
        self.potential.refuse(source.world)
        self.potential.refuse_slope(source.world)
        require_temperature(self.potential, self.lam)
        if self.potential.through:
            raise ValueError("guidance=value follows a value of states: guidance.potential must be a LearnedValue")
        if not source.policy.stochastic_steps:
            raise ValueError(
                "a step without noise (eta 0) has no mean to be shifted by std^2: set policy.kernel.eta above 0"
            )

    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.refuse(source)
        loop = Uphill(self, source)
        request = source.request(source.noise.of(0, range(len(source.cond))), source.cond, True, loop)
        request = replace(request, extras=request.extras._replace(reference=True))
        with torch.no_grad():
            found = OneShot().collect(source.world, request)
        value = found.rewards.total.masked_fill(~found.rewards.measured, -torch.inf)
        rho = initial_kl(source.policy, source.world.reference, source.cond)
        kl = (found.trajectory.kl.sum(1) + rho.double()).mean().item()
        figures = {"kl_kind": "path", **loop.figures()}
        yield Steered(found.trajectory, value, found.rewards.queries, loop.evaluated, figures, kl_nats=kl)


class Uphill(Shifted):
    """The loop of a rollout whose means follow the value."""

    def __init__(self, how: ValueGuidance, source: Source) -> None:
        policy = source.policy
        last = policy.steps - (how.form != "own")  # what is ahead of the last step has no value
        super().__init__(policy.space, how.bound, [h for h in policy.stochastic_steps if h < last])
        self.how, self.source = how, source

    def shift(self, batch: Batch, x: Float[Tensor, "B *D"], h: int) -> Shift:
        std = batch.policy.std[h].item()
        x0 = batch.estimate(x, h, batch.cond)
        if self.how.form == "own":
            return Shift(x0, std**2 * self.slope(x, x0, h, batch.cond)[1], std)
        mean = batch.policy.step(x, x0, torch.full((len(x),), h, device=x.device)).mean
        if self.how.form == "next":
            return Shift(x0, std**2 * self.slope(mean, x0, h + 1, batch.cond)[1], std)
        return Shift(x0, std**2 * self.tilted(mean, x0, std, h + 1, batch.cond), std)

    def tilted(
        self, mean: Float[Tensor, "B *D"], x0: Float[Tensor, "B *D"], std: float, h: int, cond: Tensor
    ) -> Float[Tensor, "B *D"]:
        """The gradient of log E[e^psi(mean + std z)], over the same antithetic z for all states: the step stays a Gaussian whose
        mean is a function of the state."""
        generator = self.source.noise.generator(h, PURPOSE)
        z = torch.randn(self.how.draws // 2, *mean.shape[1:], generator=generator, dtype=torch.float64).to(mean)
        each = [self.slope(mean + std * one, x0, h, cond) for one in self.projected(torch.cat([z, -z]), cond)]
        weight = torch.stack([psi for psi, _ in each]).softmax(0).to(mean)
        return torch.einsum("kb,kb...->b...", weight, torch.stack([gradient for _, gradient in each]))

    def projected(self, z: Float[Tensor, "K *D"], cond: Tensor) -> Iterator[Float[Tensor, "B *D"]]:
        """Each draw as noise of all rows."""
        return (self.space.project(one.expand(len(cond), *one.shape), cond) for one in z)

    def slope(
        self, x: Float[Tensor, "B *D"], x0: Float[Tensor, "B *D"], h: int, cond: Tensor
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B *D"]]:
        """psi_h = V_h / lam and its gradient."""
        with torch.enable_grad():
            found = self.how.potential.slope(self.source.world, x.detach().clone().requires_grad_(), x0, h, cond)
        found = found.times(1 / self.how.lam)
        assert found.gradient is not None
        return found.value, found.gradient.detach().to(x)


PURPOSE = 7  # of the numbers that the value is averaged over
