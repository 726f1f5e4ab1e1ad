"""Steps whose mean is shifted along a gradient, and how far: of a reward, of a value, of the proposals of particles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.space import Space
from pgdlab.functional.gaussian import expand
from pgdlab.guidance.base import Potential, Valued
from pgdlab.rollout.sampler import Batch, Sampler
from pgdlab.world import World


def bounded(
    shift: Float[Tensor, "P *D"], unit: float, bound: float | None, space: Space, cond: Tensor
) -> tuple[Float[Tensor, "P *D"], Float[Tensor, " P"]]:
    """Shifts inside the space, their length at most `bound` units (None: any), and in units how long they were before. Raises
    ValueError for what is no number."""
    shift = space.project(shift, cond)
    length = space.squared_distance(shift, torch.zeros_like(shift), cond).sqrt() / unit
    if not length.isfinite().all():
        raise ValueError(
            "the gradient of the potential is not finite: the value, or the reward, gives out what is no number"
        )
    if bound is None:
        return shift, length
    return shift * expand((bound / length.clamp(min=1e-30)).clamp(max=1), shift), length


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


class Shift(NamedTuple):
    """The x0 estimates that a step is taken with, by how much its mean is to be moved, and the length that is counted as 1."""

    x0: Float[Tensor, "B *D"]
    of_mean: Float[Tensor, "B *D"]
    unit: float


class Shifted(Sampler, ABC):
    """The loop of a rollout whose means are shifted at the steps `guided`, at most `bound` units; all other steps are the
    policy's. evaluated: network rows; slots: rows of the batches before; lengths: of all shifts, in units, before the bound."""

    def __init__(self, space: Space, bound: float | None, guided: Sequence[int]) -> None:
        self.space, self.bound, self.guided = space, bound, guided
        self.evaluated = self.slots = 0
        self.lengths: list[Tensor] = []

    @abstractmethod
    def shift(self, batch: Batch, x: Float[Tensor, "B *D"], h: int) -> Shift:
        """Of step h, which is guided."""

    def again(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """The states that guided step h is taken from; by default those that are there."""
        return states

    def moved(self, batch: Batch, x: Float[Tensor, "B *D"], h: int) -> tuple[Tensor, Tensor]:
        """The x0 estimates and the shift that guided step h is taken with."""
        x0, wanted, unit = self.shift(batch, x, h)
        shift, length = bounded(wanted, unit, self.bound, self.space, batch.cond)
        self.lengths.append(length)
        return x0, shift

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        if h in self.guided:
            states = self.again(batch, states, h)
            after = batch.step(states, h, *self.moved(batch, states, h))
        else:
            after = batch.step(states, h, batch.estimate(states, h, batch.cond))
        if h == batch.policy.steps - 1:
            self.slots += len(states)
            self.evaluated += batch.evaluated
        return after

    def figures(self) -> dict[str, Any]:
        """Of summary.json; None where nothing was shifted, or has no bound."""
        if not self.lengths:
            return {"shift_length": None, "shifts_shortened": None}
        length = torch.cat(self.lengths).double()
        shortened = None if self.bound is None else (length > self.bound).double().mean().item()
        return {"shift_length": length.mean().item(), "shifts_shortened": shortened}
