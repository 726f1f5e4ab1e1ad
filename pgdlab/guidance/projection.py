"""Hard constraints: estimates or means are projected onto a set on the way, and the sample at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.space import Dense
from pgdlab.guidance.base import Guidance, Source, Steered
from pgdlab.guidance.constraints import ROUNDING, Box, Constraint
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Batch, Sampler, rollout
from pgdlab.trainers.interaction import decoded


@dataclass(frozen=True, kw_only=True)
class Projection(Guidance):
    """Samples in a set. The reward is not looked at. On the way `what` is projected: the x0 estimate of every step (of given
    pixels: inpainting), or the mean of every step, before its noise. The noise leaves the set again, so that the sample itself is
    projected last (as Christopher et al. 2024, arXiv:2402.03559, project every state); `outside`, `violation`: before that.

    It is not the base's law given the constraint, p(x) 1[x in C] / P(C), but where data are isotropic: a share `outside` of the
    samples ends on the border. For the conditional law take particles, and a reward that is the constraint.
    """

    constraint: Constraint = field(default_factory=Box)
    what: Literal["x0", "mean"] = "x0"

    def refuse(self, source: Source) -> None:
        space = source.policy.space
        if not isinstance(space, Dense):
            raise ValueError(
                f"samples of {source.world.domain.name} are no plain tables of numbers, so that no nearest point of them is known"
            )
        self.constraint.refuse(space.shape)

    @torch.no_grad()
    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.require(source, queries)
        world, loop = source.world, Projected(self)
        request = source.request(source.noise.of(0, range(len(source.cond))), source.cond, False, loop)
        found = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=world.capacity.rollout_batch,
            extras=request.extras, sampler=loop,
        )  # fmt: skip
        off = self.constraint.violation(found.sample)
        inside = replace(found, sample=self.constraint.project(found.sample))
        paid = guarded(world.reward, decoded(world, inside), world.plan.max_failed)
        value = torch.where(paid.measured, paid.total, -torch.inf)
        figures = {
            "outside": (off > ROUNDING).double().mean().item(), "violation": off.mean().item(),
            "violation_after": self.constraint.violation(inside.sample).mean().item(),
        }  # fmt: skip
        yield Steered(inside, value, paid.queries, loop.evaluated, figures)


class Projected(Sampler):
    """The loop of a rollout that projects before the noise."""

    def __init__(self, how: Projection) -> None:
        self.how, self.evaluated = how, 0

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        project, policy = self.how.constraint.project, batch.policy
        x0 = batch.estimate(states, h, batch.cond)
        if self.how.what == "x0":
            x0 = project(x0)
        else:
            mean = policy.step(states, x0, torch.full((len(states),), h, device=states.device)).mean
            x0 = x0 + (project(mean) - mean) / policy.from_x0[h].to(x0)
        after = batch.step(states, h, x0)
        if h == policy.steps - 1:
            self.evaluated += batch.evaluated
        return after
