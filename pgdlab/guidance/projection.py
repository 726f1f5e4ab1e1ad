"""Hard constraints: estimates or means are projected onto a set on the way, and the sample at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.space import Dense
from pgdlab.guidance.base import Guidance, Source, Steered
from pgdlab.guidance.constraints import ROUNDING, Box, Constraint
from pgdlab.guidance.temperature import Settling
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Batch, Sampler, rollout
from pgdlab.trainers.interaction import decoded
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Projection(Guidance):
    """Samples in a set. The reward is not looked at. On the way `what` is projected: the x0 estimate of every step (of given
    pixels: inpainting), or the mean of every step, before its noise. The noise leaves the set again, so that the sample itself is
    projected last (as Christopher et al. 2024, arXiv:2402.03559, project every state); `outside`, `violation`: before that.

    then: another guidance that steers the chain whose estimates are projected, and sees the reward of those; the law is its own,
    of that chain, whose samples are projected and scored once more.

    It is not the base's law given the constraint, p(x) 1[x in C] / P(C), but where data are isotropic: a share `outside` of the
    samples ends on the border. For the conditional law take particles, and a reward that is the constraint.
    """

    constraint: Constraint = field(default_factory=Box)
    what: Literal["x0", "mean"] = "x0"
    then: Guidance | None = None

    def __post_init__(self) -> None:
        if self.then is not None and self.what != "x0":
            raise ValueError(f"what is {self.what}, and then is given: what is steered besides has its x0 projected")

    def aims_at(self, source: Source) -> str:
        if self.then is None:
            return super().aims_at(source)
        return f"{self.then.aims_at(source)}; of the chain whose estimates are in the set, and then projected"

    def asks_before(self) -> int:
        return 0 if self.then is None else self.then.asks_before()

    def settled(self, source: Source) -> tuple[Guidance, Settling]:
        if self.then is None:
            return self, Settling()
        then, costs = self.then.settled(self.projected(source))
        return replace(self, then=then), costs

    def projected(self, source: Source) -> Source:
        """The same with estimates in the set, those of the base too."""
        policy, base = inside(source.policy, self.constraint), inside(source.world.reference, self.constraint)
        world = replace(source.world, policy=policy, reference=policy if not source.tuned else base)
        return replace(source, world=world, policy=policy)

    def require(self, source: Source, queries: int) -> None:
        self.refuse(source)
        if self.then is not None:
            self.then.require(self.projected(source), queries - len(source.cond))

    def refuse(self, source: Source) -> None:
        space = source.policy.space
        if not isinstance(space, Dense):
            raise ValueError(
                f"samples of {source.world.domain.name} are no plain tables of numbers, so that no nearest point of them is known"
            )
        self.constraint.refuse(space.shape)
        if self.then is not None:
            self.then.refuse(self.projected(source))

    @torch.no_grad()
    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.require(source, queries)
        if self.then is not None:
            *_, before = self.then.steer(self.projected(source), queries - len(source.cond))
            yield self.finished(source.world, before)
            return
        loop = Projected(self)
        request = source.request(source.noise.of(0, range(len(source.cond))), source.cond, False, loop)
        found = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=source.world.capacity.rollout_batch,
            extras=request.extras, sampler=loop,
        )  # fmt: skip
        yield self.finished(source.world, Steered(found, torch.empty(0), 0, loop.evaluated))

    def finished(self, world: World, before: Steered) -> Steered:
        """With the samples in the set, and scored there."""
        found = before.trajectory
        off = self.constraint.violation(found.sample)
        kept = replace(found, sample=self.constraint.project(found.sample))
        paid = guarded(world.reward, decoded(world, kept), world.plan.max_failed)
        value = torch.where(paid.measured, paid.total, -torch.inf)
        own = {
            "outside": (off > ROUNDING).double().mean().item(), "violation": off.mean().item(),
            "violation_after": self.constraint.violation(kept.sample).mean().item(),
        }  # fmt: skip
        queries = before.queries + paid.queries
        return Steered(kept, value, queries, before.evaluations, {**before.figures, **own}, before.groups)


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


class Inside(Denoiser):
    """A denoiser whose estimates are in a set, clipped before."""

    def __init__(self, denoiser: Denoiser, constraint: Constraint) -> None:
        super().__init__()
        self.denoiser, self.constraint = denoiser, constraint
        self.schedule = denoiser.schedule

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        x0, clip = self.denoiser(x, t, cond), self.schedule.clip
        return self.constraint.project(x0 if clip is None else x0.clamp(-clip, clip))

    def frozen(self) -> Denoiser:
        return Inside(self.denoiser.frozen(), self.constraint)


def inside(policy: Policy, constraint: Constraint) -> Policy:
    """The policy with estimates in a set."""
    return Policy(Inside(policy.denoiser, constraint), policy.space, policy.initial, policy.kernel, policy.steps).to(
        policy.device
    )
