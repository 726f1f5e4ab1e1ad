"""Checks of the rewards before a run trains: what they pay, for the same samples again, and how fast."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from pgdlab.functional.returns import ROUNDED, dead_rows
from pgdlab.rewards.base import Outcome, ShapeError, StepRewards
from pgdlab.rewards.guard import RewardError, guarded
from pgdlab.rollout.noise import Noise
from pgdlab.trainers.closed_loop import ClosedLoop, rows_of
from pgdlab.trainers.interaction import Request
from pgdlab.training.findings import Check
from pgdlab.world import World

EPISODES = 4  # of an environment that are tried


def reward(world: World, outcome: Outcome, sampling: float, group: int) -> Iterator[Check]:
    """Finite, the same twice and in any order, not equal in every group, and not slower than the policy.

    group: rows that share a condition. sampling: samples a second of the policy.
    """
    limit, rows = world.plan.max_failed, len(outcome)
    started = time.perf_counter()
    try:
        first = guarded(world.reward, outcome, limit)
        rate = rows / (time.perf_counter() - started)
        again = guarded(world.reward, outcome, limit)
    except RewardError as error:
        yield Check("reward", "failed", str(error))
        return
    measured, total = first.measured, first.total[:, None]
    same = torch.equal(first.values, again.values) and torch.equal(measured, again.measured)
    message = f"mean {total[measured].mean():.3f}, {int(measured.sum())} of {len(outcome)} measured"
    cause = "the same samples were paid otherwise the second time: is the scorer random?"
    yield Check("reward", "ok" if same else "failed", message if same else f"{message}; {cause}")
    yield from _order(world, outcome, first)
    groups = torch.arange(rows, device=world.device) // (group if group > 1 else rows)
    yield _groups(total, measured, groups, "groups" if group > 1 else "batches")
    slow = "; the reward is the bottleneck" if rate < sampling else ""
    speed = f"reward {rate:,.0f} samples/s, policy {sampling:,.0f} samples/s{slow}"
    yield Check("throughput", "warning" if slow else "ok", speed)


def environment(world: World, noise: Noise) -> Iterator[Check]:
    """Finite, the same twice under the same seeds, and not equal in every episode."""
    rows = rows_of(world, EPISODES)
    request = Request(
        policy=world.policy, reference=world.reference, noise=noise.of(0, range(rows)), cond=torch.zeros(rows)
    )
    try:
        first, again = (ClosedLoop().collect(world, request).rewards for _ in range(2))
    except RewardError as error:
        yield Check("environment", "failed", str(error))
        return
    returns = first.judged[0]
    message = f"mean return {returns.mean():.3f} of {EPISODES} episodes"
    cause = "the same actions under the same seeds were paid otherwise the second time: what is random in it is not its seed's"
    same = torch.equal(first.values, again.values)
    yield Check("environment", "ok" if same else "failed", message if same else f"{message}; {cause}")
    if (returns == returns[0]).all():
        yield Check("returns", "warning", "all episodes are paid the same; there is nothing to learn from yet")


def _order(world: World, outcome: Outcome, first: StepRewards) -> Iterator[Check]:
    """Whether samples are paid the same where they come alone: values in a wrong order train toward noise."""
    if world.reward.compares():
        return
    start, stop = 1, len(outcome) // 2 + 1  # not symmetric: rows in reverse must not fall on themselves
    try:
        again = guarded(world.reward, outcome.rows(start, stop), world.plan.max_failed)
    except RewardError as error:
        yield Check("order", "warning", f"a part of the samples alone: {error}")
        return
    both = first.measured[start:stop] & again.measured
    if not torch.allclose(again.values[both], first.values[start:stop][both], rtol=1e-4, atol=1e-6):
        message = "samples are paid otherwise where others are not beside them: does the scorer mix up its rows?"
        yield Check("order", "warning", message)


def _groups(total: Tensor, measured: Tensor, groups: Tensor, kind: str) -> Check:
    """Whether rewards differ within groups; what best-of-n would gain is of the size of their spread.

    kind: what the groups are called: batches where every sample is a group of its own.
    """
    dead, near = (dead_rows(total, measured, groups, floor).double().mean().item() for floor in (ROUNDED, 1e-3))
    message = f"{dead:.0%} of {kind} have equal rewards"
    if dead == 1:
        return Check("groups", "warning", f"{message}; there is nothing to learn from yet")
    if near == 1:
        narrow = f"in {near:.0%} they differ by less than a thousandth: a base without diversity cannot be steered"
        return Check("groups", "warning", f"{message}; {narrow}")
    return Check("groups", "ok", message)


def heldout(world: World, outcome: Outcome) -> Iterator[Check]:
    """A held-out reward is only looked at: where it fails the run goes on without it."""
    if world.heldout is None:
        return
    try:
        held = guarded(world.heldout, outcome, world.plan.max_failed)
    except RewardError as error:
        yield Check("held-out", "failed" if isinstance(error, ShapeError) else "warning", str(error))
        return
    mean = held.total[held.measured].mean()
    yield Check("held-out", "ok", f"mean {mean:.3f}, {int(held.measured.sum())} of {len(outcome)} measured")
