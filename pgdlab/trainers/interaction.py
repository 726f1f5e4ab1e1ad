"""What an iteration collects from, and what is said of it: conditions, episodes, means over the samples, counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.functional.returns import dead_rows
from pgdlab.rewards.base import Outcome, RewardError, StepRewards, part_mean, prefetching
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Extras
from pgdlab.rollout.trajectory import Trajectory, initial_kl
from pgdlab.world import World


def draw_conditions(world: World, iteration: int) -> Int[Tensor, " N"]:
    """The conditions of all processes' samples: one prompt a group, every prompt equally often, in random order."""
    plan, prompts = world.plan, torch.tensor(world.domain.train_conditions)
    groups, generator = plan.samples // plan.group, world.noise.generator(iteration, 2)
    rounds = [torch.randperm(len(prompts), generator=generator) for _ in range(-(-groups // len(prompts)))]
    return prompts[torch.cat(rounds)[:groups]].repeat_interleave(plan.group).to(world.device)


def in_turn(conditions: Sequence[int], count: int) -> Int[Tensor, " N"]:
    """The conditions one after another, from the first again after the last: the same number of each, whatever the seed."""
    return torch.tensor(conditions)[torch.arange(count) % len(conditions)]


def ahead(world: World) -> Callable[[Trajectory], None] | None:
    """What a rollout shows its batches to, so that slow rewards work while the next one is sampled; None without such."""
    slow = prefetching(world.reward)

    def watch(batch: Trajectory) -> None:
        decoded = world.domain.decode(batch.sample)
        for part in slow:
            part.submit(decoded, batch.cond)

    return watch if slow else None


def outcome(world: World, trajectory: Trajectory) -> Outcome:
    """What the reward sees: everything decoded once. Raises RewardError for samples that are not finite: decoded, they might
    look like bad ones."""
    if not trajectory.sample.isfinite().all():
        raise RewardError("the policy's samples are not finite: is the learning rate too high?")
    estimates = trajectory.estimates
    decode = world.domain.decode
    seen = [decode(estimates[:, h]) for h in range(estimates.shape[1])]
    steps = len(trajectory.stored_at) - 1
    return Outcome(decode(trajectory.sample), trajectory.cond, steps, seen.__getitem__ if seen else None)


def summarise(
    world: World, trajectory: Trajectory, seen: Outcome, paid: StepRewards, groups: Int[Tensor, " N"]
) -> dict[str, float]:
    """Means over all processes' measured samples; formulas in docs/metrics.md."""
    gather = world.processes.gather
    measured = gather(paid.measured)
    total = gather(paid.total.double())
    # a process whose samples all failed knows no parts; what is gathered must be the same and in order everywhere
    known = gather(torch.tensor([len(paid.parts)], device=world.device)) == len(paid.parts)
    parts = {f"reward/{n}": gather(paid.parts[n].double()) for n in sorted(paid.parts)} if known.all() else {}
    means = {name: part_mean(part, measured) for name, part in parts.items()}
    columns = {}
    if trajectory.kl.shape[1]:
        columns["path_kl_nats"] = trajectory.kl.sum(1).double()
    if world.policy.trains_initial:
        columns["initial_kl_nats"] = initial_kl(world.policy, world.reference, trajectory.cond).double()
    logs = {name: math.nan if mean is None else mean for name, mean in means.items()}
    logs |= {name: gather(column)[measured].mean().item() for name, column in columns.items()}
    if world.heldout is not None:
        held = guarded(world.heldout, seen, max_failed=1.0)
        logs["heldout"] = gather(held.total.double())[gather(held.measured)].mean().item()
    logs["reward"] = total[measured].mean().item()
    logs["reward_std"] = total[measured].std().item()
    logs["failed"] = 1 - measured.double().mean().item()
    logs["dead_groups"] = dead_rows(total[:, None], measured, groups)[:, 0].double().mean().item()
    if trajectory.kl.shape[1] or not world.policy.trains_denoiser:
        logs["kl_nats"] = logs.get("path_kl_nats", 0.0) + logs.get("initial_kl_nats", 0.0)
    return logs


def queries(world: World, paid: StepRewards) -> int:
    """Rows that the reward has scored, over all processes."""
    return int(world.processes.gather(torch.tensor([paid.queries], device=world.device)).sum())


def evaluations(world: World, extras: Extras) -> int:
    """Network rows of one iteration's rollout, over all processes: policy and reference (guidance counts once)."""
    steps, stochastic = world.policy.steps, len(world.policy.stochastic_steps)
    reference = steps if extras.estimates else (stochastic if extras.reference else 0)
    deterministic = 0 if extras.estimates else steps - stochastic
    return world.plan.samples * (stochastic + reference + deterministic)
