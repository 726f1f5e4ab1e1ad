"""The interaction of trainers that differentiate the reward: a sample is decoded, scored and differentiated in one query."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.processes import Processes
from pgdlab.rewards.base import Outcome, Reward, RewardError, Score, ShapeError, StepRewards
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.interaction import Collected, OneShot, Request, evaluations, outcome_of, require_finite
from pgdlab.world import World


@dataclass(frozen=True)
class Differentiated(Collected):
    """With the gradient of every sample's reward in the sample as the policy makes it; 0 where it was not measured."""

    gradient: Float[Tensor, "B *D"] = field(kw_only=True)


class Slope(Reward):
    """A reward of samples that are not decoded yet, by their numbers (B,): values and, kept in `gradient`, their gradients
    through decoder and reward. decoded: what the reward has seen. Rows do not see each other, and come a part at a time."""

    def __init__(self, world: World, sample: Float[Tensor, "B *D"]) -> None:
        super().__init__()
        self.reward, self.decoder, self.sample = world.reward, world.domain.decoder, sample
        self.batch = min(n for n in (self.decoder.chunk, self.reward.batch, world.capacity.rollout_batch) if n)
        self.gradient, self.decoded = torch.zeros_like(sample), torch.empty(0)

    def scored_by(self, world: World, trajectory: Trajectory, processes: Processes) -> StepRewards:
        """The rewards of all samples. Raises RewardError where too many failed, or where no sample has a gradient."""
        numbers = torch.arange(len(self.sample), device=self.sample.device)
        asked = Outcome(numbers, trajectory.cond, trajectory.steps)
        rewards = guarded(self, asked, world.plan.max_failed, processes.gather)
        require_slope(self.reward, processes.gather(self.gradient.flatten(1).any(1)))
        return rewards

    @property
    def called(self) -> str:
        return self.reward.called

    def score(self, sample: Int[Tensor, " B"], cond: Tensor) -> Score:
        with torch.enable_grad():
            x = self.sample[sample].requires_grad_()
            seen = self.decoder(x)
            score = self.reward.scored(seen, cond)
            gradient = self.of(score.value, x)
        if not len(self.decoded):
            self.decoded = seen.new_zeros(len(self.sample), *seen.shape[1:])
        self.decoded[sample] = seen.detach()
        finite = gradient.flatten(1).isfinite().all(1)
        self.gradient[sample] = gradient.where(shaped(finite & score.measured, gradient), 0.0)
        parts = {name: part.detach() for name, part in score.parts.items()}
        return Score(score.value.detach(), score.measured & finite, parts)

    def of(self, value: Float[Tensor, " B"], x: Float[Tensor, "B *D"]) -> Float[Tensor, "B *D"]:
        """The gradient of each value in its row. Raises ShapeError where the values have none."""
        (found,) = torch.autograd.grad(value.sum(), x, allow_unused=True) if value.requires_grad else (None,)
        if found is None:
            raise ShapeError(
                f"reward {self.called} says that it is differentiable, but its values carry no gradient to the samples: it "
                "computes without torch, rounds, or runs under torch.no_grad. Mend it, or take trainer=ppo"
            )
        return found


def shaped(rows: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1)."""
    return rows.reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class WithGradient(OneShot):
    """One chain a condition, one reward a chain, with its gradient."""

    def collect(self, world: World, request: Request) -> Differentiated:
        trajectory = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=world.capacity.rollout_batch,
            trained=request.trained, extras=request.extras,
            watch=lambda batch: require_finite(batch, request.policy, request.reference), fewer=world.capacity.sample_fewer,
        )  # fmt: skip
        started, slope = time.perf_counter(), Slope(world, trajectory.sample)
        rewards = slope.scored_by(world, trajectory, request.processes)
        return Differentiated(
            trajectory, outcome_of(world, trajectory, slope.decoded), rewards, evaluations(request),
            time.perf_counter() - started, gradient=slope.gradient,
        )  # fmt: skip


def require_slope(reward: Reward, sloping: Tensor) -> None:
    """Raises RewardError where no sample's reward has a gradient: nothing would be trained."""
    if not sloping.any():
        raise RewardError(
            f"the gradient of reward {reward.called} is 0 at all {len(sloping)} samples: it is flat there, or its values are "
            "rounded. Take another reward, or trainer=ppo, which needs no gradient"
        )


WITH_GRADIENT = ("target", "any_class", "prompt_class", "quality", "red", "quadratic", "clip_score", "pick_score")


def refuse_flat(world: World, whose: str = "this trainer", instead: str = "trainer=ppo, which needs") -> None:
    """Raises ValueError where rewards have no gradient in the samples that the policy makes. whose: who follows it; instead: what
    does without."""
    reward, decoder, domain = world.reward, world.domain.decoder, world.domain.name
    if world.plan.offload:
        raise ValueError(
            "plan.offload is true, but this trainer carries gradients back through decoder and reward, whose weights would be "
            "elsewhere by then: leave it false"
        )
    if not reward.differentiable:
        raise ValueError(
            f"reward {reward.called} is not differentiable, and {whose} follows its gradient: take a reward that is "
            f"({', '.join(WITH_GRADIENT)}; docs/rewards.md names all), or {instead} values alone"
        )
    if not decoder.differentiable:
        raise ValueError(
            f"what domain {domain} decodes has no gradient, and {whose} follows it back to the samples: take "
            f"{instead} values alone"
        )
    if reward.compares():
        raise ValueError(
            f"reward {reward.called} compares the samples of a batch, so that its gradient is of all of them at once: take a "
            f"reward of each sample alone, or {instead} values alone"
        )
