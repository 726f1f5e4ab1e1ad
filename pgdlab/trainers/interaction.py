"""Interaction: conditions -> rollout -> decode -> reward, for trainers, best-of-n, the checks and evaluation alike."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.returns import dead_rows
from pgdlab.processes import Processes, is_cut
from pgdlab.rewards.base import Outcome, RewardError, StepRewards, joined, part_mean, prefetching
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.noise import Noise, RowNoise, Stream
from pgdlab.rollout.sampler import SAMPLES, Extras, Plain, Sampler, rollout
from pgdlab.rollout.trajectory import Trajectory, initial_kl
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who samples, on which noise, under which conditions (B, ...), and what is kept of it: see pgdlab.rollout.sampler.

    reference: takes deterministic steps and is compared with. processes: over whose rewards failures are counted.
    """

    policy: Policy
    reference: Policy
    noise: RowNoise
    cond: Tensor
    trained: Sequence[int] = ()
    extras: Extras = SAMPLES
    sampler: Sampler = field(default_factory=Plain)
    processes: Processes = field(default_factory=Processes)

    def with_noise_at(self, steps: Sequence[int]) -> Request:
        """The same samples with noise at these steps alone; the policy takes the others too."""
        extras = self.extras._replace(tuned_deterministic=True)
        return replace(self, policy=self.policy.with_noise_at(steps), extras=extras)


@dataclass(frozen=True)
class Collected:
    """This process's trajectories, their samples as rewards see them, and their rewards. evaluations: network rows that the
    policy and the reference took here (guidance counts once). reward_seconds: that the rewards took."""

    trajectory: Trajectory
    outcome: Outcome
    rewards: StepRewards
    evaluations: int
    reward_seconds: float = 0.0


class Interaction(ABC):
    """The way from conditions to rewards. A frozen dataclass."""

    @abstractmethod
    def collect(self, world: World, request: Request) -> Collected:
        """Samples and scores. Raises RewardError where too many samples could not be scored, or are not finite."""


@dataclass(frozen=True, kw_only=True)
class OneShot(Interaction):
    """One chain a condition, one reward a chain."""

    def collect(self, world: World, request: Request) -> Collected:
        trajectory, outcome = self.sample(world, request)
        started = time.perf_counter()
        rewards = guarded(world.reward, outcome, world.plan.max_failed, request.processes.gather)
        return Collected(trajectory, outcome, rewards, evaluations(request), time.perf_counter() - started)

    def sample(self, world: World, request: Request) -> tuple[Trajectory, Outcome]:
        """Without the rewards. A batch is decoded before the next one is sampled, so that slow rewards begin with it."""
        decoded: list[Any] = []
        slow = prefetching(world.reward)

        def watch(batch: Trajectory) -> None:
            require_finite(batch, request.policy, request.reference)
            decoded.append(world.domain.decoder(batch.sample))
            for part in slow:
                part.submit(decoded[-1], batch.cond)

        trajectory = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=world.capacity.rollout_batch,
            trained=request.trained, extras=request.extras, sampler=request.sampler, watch=watch,
            fewer=world.capacity.sample_fewer,
        )  # fmt: skip
        return trajectory, outcome_of(world, trajectory, joined(decoded))


def require_finite(trajectory: Trajectory, policy: Policy, reference: Policy) -> None:
    """Raises RewardError for samples that are not finite: decoded, they might look like bad ones. Says whether it is training
    that has brought the policy there: at its first steps an untrained one estimates what the reference does."""
    if trajectory.sample.isfinite().all():
        return
    if is_cut(policy):  # other processes may have no such sample, and take no part in a pass
        raise RewardError("the policy's samples are not finite: is the learning rate too high, or the base broken?")
    at, cond = torch.zeros(1, dtype=torch.long, device=policy.device), trajectory.cond[:1].to(policy.device)
    x = trajectory.initial[:1].to(policy.device)
    own, base = ((p.initial(cond).mean, p.estimate(x, at, cond)) for p in (policy, reference))
    if all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(own, base, strict=True)):
        raise RewardError(
            "the samples are not finite, and the policy is the base's, untrained: look at its scheduler_config.json, its "
            "weights, policy.guidance and runtime.precision"
        )
    raise RewardError("the policy's samples are not finite: is the learning rate too high?")


def outcome_of(world: World, trajectory: Trajectory, decoded: Any) -> Outcome:
    """Trajectories as rewards see them, given their decoded samples; x0 estimates are decoded here."""
    estimates = trajectory.estimates
    seen = [world.domain.decoder(estimates[:, h]) for h in range(estimates.shape[1])]
    return Outcome(decoded, trajectory.cond, trajectory.steps, seen.__getitem__ if seen else None)


def decoded(world: World, trajectory: Trajectory) -> Outcome:
    """Trajectories as rewards see them: their samples, decoded."""
    require_finite(trajectory, world.policy, world.reference)
    return outcome_of(world, trajectory, world.domain.decoder(trajectory.sample))


def training_request(
    world: World, iteration: int, trained: Sequence[int], extras: Extras, decay: float = 0.0
) -> Request:
    """This process's part of an iteration's samples, of the policy as it is; from now on it is the old one, which keeps `decay`
    of what it was."""
    if world.old is not None:
        world.old.follow(world.policy, decay)
    index = world.processes.share(world.plan.samples)
    return Request(
        policy=world.policy, reference=world.reference, noise=world.noise.of(iteration, index),
        cond=draw_conditions(world, iteration)[index.start : index.stop], trained=trained, extras=extras,
        processes=world.processes,
    )  # fmt: skip


def draw_conditions(world: World, iteration: int) -> Int[Tensor, " N"]:
    """The conditions of all processes' samples: one a group, every one equally often, in random order."""
    plan, conditions = world.plan, torch.tensor(world.domain.train_conditions)
    groups, generator = plan.samples // plan.group, world.noise.generator(iteration, 2)
    rounds = [torch.randperm(len(conditions), generator=generator) for _ in range(-(-groups // len(conditions)))]
    return conditions[torch.cat(rounds)[:groups]].repeat_interleave(plan.group).to(world.device)


def in_turn(conditions: Sequence[int], count: int) -> Int[Tensor, " N"]:
    """The conditions one after another, from the first again after the last: the same number of each, whatever the seed. Where
    there are more than count, some of all of them, evenly apart: lists are often sorted."""
    total = len(conditions)
    return torch.tensor(conditions)[torch.arange(count) * max(total, count) // count % total]


def groups_of(world: World) -> Int[Tensor, " N"]:
    """The group of each of an iteration's samples."""
    return torch.arange(world.plan.samples, device=world.device) // world.plan.group


def summarise(world: World, collected: Collected) -> dict[str, float]:
    """Means over all processes' measured samples; formulas in docs/metrics.md."""
    trajectory, rewards, gather = collected.trajectory, collected.rewards, world.processes.gather
    measured = gather(rewards.measured)
    total = gather(rewards.total.double())
    # a process whose samples all failed knows no parts; what is gathered must be the same and in order everywhere
    known = gather(torch.tensor([len(rewards.parts)], device=world.device)) == len(rewards.parts)
    parts = {f"reward/{n}": gather(rewards.parts[n].double()) for n in sorted(rewards.parts)} if known.all() else {}
    means = {name: part_mean(part, measured) for name, part in parts.items()}
    columns = {}
    if trajectory.kl.shape[1]:
        columns["path_kl_nats"] = trajectory.kl.sum(1).double()
    if world.policy.trains_initial:
        columns["initial_kl_nats"] = initial_kl(world.policy, world.reference, trajectory.cond).double()
    logs = {name: math.nan if mean is None else mean for name, mean in means.items()}
    logs |= {name: gather(column)[measured].mean().item() for name, column in columns.items()}
    if world.heldout is not None:
        held = guarded(world.heldout, collected.outcome, max_failed=1.0)
        logs["heldout"] = gather(held.total.double())[gather(held.measured)].mean().item()
    logs["reward"] = total[measured].mean().item()
    logs["reward_std"] = total[measured].std().item()
    logs["failed"] = 1 - measured.double().mean().item()
    took = torch.tensor([collected.reward_seconds], dtype=torch.float64, device=world.device)
    logs["reward_seconds"] = gather(took).max().item()  # of the slowest process: the others wait for it
    logs["dead_groups"] = dead_rows(total[:, None], measured, groups_of(world))[:, 0].double().mean().item()
    if rewards.episodes is not None:
        logs |= rewards.episodes.figures(gather, world.device)
    if trajectory.kl.shape[1] or not world.policy.trains_denoiser:
        logs["kl_nats"] = logs.get("path_kl_nats", 0.0) + logs.get("initial_kl_nats", 0.0)
    return logs


def cost(world: World, collected: Collected, first: bool = False) -> dict[str, int]:
    """Reward queries and network evaluations of an iteration, over all processes. first: those of the reference samples that
    penalties draw once are among them."""
    own = torch.tensor([[collected.rewards.queries, collected.evaluations]], device=world.device)
    queries, rows = world.processes.gather(own).sum(0).tolist()
    once = world.penalties.reference_samples() * world.policy.steps if first else 0
    return {"queries": queries, "evaluations": rows + once}


def evaluations(request: Request) -> int:
    """Network rows of a rollout: policy and reference (guidance counts once)."""
    policy, extras = request.policy, request.extras
    steps, stochastic = policy.steps, len(policy.stochastic_steps)
    reference = steps if extras.estimates else (stochastic if extras.reference else 0)
    # the policy's own, or the reference's, whose estimates are counted already
    deterministic = 0 if extras.estimates and not extras.tuned_deterministic else steps - stochastic
    return len(request.noise) * (stochastic + reference + deterministic)


def sample_costs(world: World, trajectory: Trajectory) -> Float[Tensor, " N"]:
    """Cost of all processes' final samples, as an advantage (Penalty.sample_cost)."""
    gather = world.processes.gather
    sample, cond = gather(trajectory.sample), gather(trajectory.cond)
    return world.penalties.sample_cost(sample, cond, lambda count: reference_samples(world, count))


def reference_samples(world: World, count: int) -> tuple[Float[Tensor, "N *D"], Int[Tensor, " N"]]:
    """Final samples of the reference, conditions in turn, on noise that nothing else sees; each process draws a part."""
    index, cond = world.processes.share(count), in_turn(world.domain.train_conditions, count).to(world.device)
    noise, mine = Noise(world.noise.seed, Stream.REFERENCE).of(0, index), cond[index.start : index.stop]
    drawn = rollout(world.reference, world.reference, noise, mine, batch=world.capacity.rollout_batch)
    return world.processes.gather(drawn.sample), cond
