"""Steps whose mean is shifted along the gradient of a potential, std^2 grad psi, and how far."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.space import Space
from pgdlab.functional.gaussian import expand
from pgdlab.guidance.base import Potential, Valued
from pgdlab.rollout.sampler import Batch, Sampler
from pgdlab.world import World


def bounded(
    shift: Float[Tensor, "P *D"], std: float, bound: float, space: Space, cond: Tensor
) -> Float[Tensor, "P *D"]:
    """Shifts inside the space, their norm at most `bound` standard deviations of the step. Raises ValueError for what is no
    number."""
    shift = space.project(shift, cond)
    length = space.squared_distance(shift, torch.zeros_like(shift), cond).sqrt()
    if not length.isfinite().all():
        raise ValueError(
            "the gradient of the potential is not finite: the value, or the reward, gives out what is no number"
        )
    return shift * expand((bound * std / length.clamp(min=1e-30)).clamp(max=1), shift)


def sloped(
    potential: Potential, world: World, batch: Batch, x: Float[Tensor, "P *D"], h: int
) -> tuple[Float[Tensor, "P *D"], Valued]:
    """The x0 estimates of states, which the step is taken with, and their values with gradients: 0 where not measured."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        with torch.set_grad_enabled(potential.through):
            x0 = batch.estimate(leaf, h, batch.cond)
        found = potential.slope(world, leaf, x0, h, batch.cond)
    assert found.gradient is not None
    known = expand(found.measured, x).bool()
    return x0.detach(), found._replace(gradient=torch.where(known, found.gradient, 0.0).to(x))


class Shifted(Sampler, ABC):
    """The loop of a rollout whose means are shifted, within `bound` standard deviations; where a step has no noise it is the
    policy's. evaluated: network rows; taken, shortened: shifts, and those of them that the bound has shortened."""

    def __init__(self, space: Space, bound: float) -> None:
        self.space, self.bound = space, bound
        self.evaluated = self.taken = self.shortened = 0

    @abstractmethod
    def shift(self, batch: Batch, x: Float[Tensor, "B *D"], x0: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """Of the mean of step h, which has noise."""

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        x0 = batch.estimate(states, h, batch.cond)
        shift = None
        if h in batch.policy.stochastic_steps:
            std = batch.policy.std[h].item()
            wanted = self.shift(batch, states, x0, h)
            shift = bounded(wanted, std, self.bound, self.space, batch.cond)
            self.taken += len(shift)
            self.shortened += int((shift != self.space.project(wanted, batch.cond)).flatten(1).any(1).sum())
        after = batch.step(states, h, x0, shift)
        if h == batch.policy.steps - 1:
            self.evaluated += batch.evaluated
        return after
