"""What penalties are told of data: samples of the base or of the domain, with their rewards, once in a run."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pgdlab.domains.base import labelled
from pgdlab.penalties.base import DataSource, Known
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.guard import guarded
from pgdlab.trainers.interaction import Collected, reference_samples
from pgdlab.world import World


def valued(world: World, collected: Collected, first: bool) -> tuple[Collected, dict[str, int]]:
    """The trajectories with what their returns count as (Penalty.utility), paid for the last action; and the queries and network
    evaluations of the data, which count in a run's first iteration."""
    source, penalties, paid = world.penalties.data_source(), world.penalties, {"queries": 0, "evaluations": 0}
    if source is None:
        return collected, paid
    if not penalties.asked:
        known, penalties.asked = scored(world, *source)
        penalties.learn(known)
    if first:
        drawn = source[1] * world.policy.steps if source[0] == "reference" else 0
        paid = {"queries": penalties.asked, "evaluations": drawn}
    rewards, cond = collected.rewards, collected.trajectory.cond
    values = torch.zeros_like(rewards.values)
    values[:, -1] = penalties.utility(rewards.total.double(), cond).masked_fill(~rewards.measured, 0.0)
    return replace(collected, rewards=replace(rewards, values=values, initial=torch.zeros_like(rewards.initial))), paid


def scored(world: World, source: DataSource, count: int) -> tuple[Known, int]:
    """Samples, each process scoring a part of them, without those that were not measured; and the queries of all processes."""
    sample, cond = reference_samples(world, count) if source == "reference" else training_data(world, count)
    gather, index = world.processes.gather, world.processes.share(len(sample))
    mine = slice(index.start, index.stop)
    outcome = Outcome(world.domain.decoder(sample[mine]), cond[mine], world.policy.steps)
    rewards = guarded(world.reward, outcome, world.plan.max_failed, gather)
    measured, total = gather(rewards.measured), gather(rewards.total.double())
    queries = int(gather(torch.tensor([rewards.queries], device=world.device)).sum())
    return Known(sample[measured], cond[measured], total[measured]), queries


def training_data(world: World, count: int) -> tuple[Tensor, Tensor]:
    """Of the domain's training data, under the conditions that are trained."""
    sample, cond = labelled(world.domain).data("train")
    chosen = torch.isin(cond, torch.tensor(world.domain.train_conditions)).nonzero().flatten()
    order = torch.randperm(len(chosen), generator=world.noise.generator(0, 5))[: count - count % world.processes.size]
    return sample[chosen[order]].to(world.device), cond[chosen[order]].to(world.device)


def own_loss(world: World, generator: torch.Generator) -> tuple[Tensor, int]:
    """What penalties add to an update by themselves: this process's part, and its network rows."""
    processes = world.processes
    return world.penalties.own_loss(world.policy, world.reference, generator, processes.rank, processes.size)
