"""The common part of all policy gradients: collect, credit, cut into micro-batches, add up the losses."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.credit.critic import fit_at_rows, fit_loss
from pgdlab.credit.reward_to_go import Credit, Credited, RewardToGo, returns_table
from pgdlab.functional.returns import Baseline, Scale, advantages
from pgdlab.rollout.plan import Plan, Steps
from pgdlab.rollout.sampler import Extras
from pgdlab.rollout.trajectory import Pairs, pair_indices, split
from pgdlab.trainers.base import Algorithm, Loss, refuse_idle_guidance, refuse_ode, refuse_rounding
from pgdlab.trainers.closed_loop import interaction_of, refuse_closed_loop
from pgdlab.trainers.data import own_loss, valued
from pgdlab.trainers.experience import Experience, MicroBatch
from pgdlab.trainers.interaction import (
    Collected,
    Interaction,
    OneShot,
    cost,
    groups_of,
    sample_costs,
    summarise,
    training_request,
)
from pgdlab.trainers.prompts import prompt_rewards
from pgdlab.world import World

Terms = tuple[Tensor, dict[str, tuple[Tensor, float]]]  # a sum of losses, and what to log: name -> (sum, count)


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Algorithm[Experience, MicroBatch]):
    """Maximises E[sum_h surrogate_h] minus the penalties.

    baseline, scale: see functional.returns.advantages. credit: what returns are made of. keeps_states: whether the states of all
    steps are kept, trained or not.
    """

    keeps_states: ClassVar[bool] = False

    baseline: Baseline = "leave_one_out"
    scale: Scale = "none"
    credit: Credit = field(default_factory=RewardToGo)

    epochs = 1  # passes over an iteration's trajectories
    minibatches = 1  # optimiser steps an epoch, each on a random part of the trajectories with all their trained steps
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    @abstractmethod
    def step_loss(self, experience: Experience, pairs: Pairs, world: World) -> Terms:
        """Sum over the pairs of penalty cost minus surrogate."""

    @abstractmethod
    def initial_loss(self, experience: Experience, rows: Int[Tensor, " R"], world: World) -> Terms:
        """Sum over the rows of rho's penalty cost minus its surrogate."""

    def steps(self, plan: Plan) -> Steps:
        """Which steps are trained."""
        return plan.trained_steps

    def completed(self, experience: Experience, collected: Collected, world: World) -> Experience:
        """The experience with what else the losses need."""
        return experience

    def updates_per_iteration(self, plan: Plan) -> int:
        return self.epochs * self.minibatches

    def compares_old(self, world: World) -> bool:
        """Whether updates compare each step with the policy that sampled it (World.old)."""
        return world.penalties.needs_old()

    def equip(self, world: World) -> World:
        world = self.credit.equip(world)
        return world.with_old() if self.compares_old(world) else world

    def differentiates_sampling(self, world: World, pairs: int) -> bool:
        """Whether the graph of sampling takes the place of a replay: the one update is that of the policy which sampled, and
        all `pairs` of this process, rows times trained steps, fit in one pass."""
        alone = self.updates_per_iteration(world.plan) == 1 and not self.compares_old(world)
        alone = alone and world.environment is None  # whose rollout is of many parts
        return alone and world.capacity.graph and 0 < pairs <= world.capacity.pass_size

    def release(self, experience: Experience) -> None:
        experience.trajectory.drop_graph()

    def refuse(self, world: World) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 1")
        if not 1 <= self.minibatches <= world.plan.samples:
            raise ValueError(f"minibatches is {self.minibatches}; it must be at least 1, at most plan.samples")
        world.processes.share(world.plan.samples)
        refuse_ode(world.policy)
        if not world.policy.trains_denoiser:
            refuse_rounding(world.plan, "the denoiser is not trained, so that no states of the steps are kept")
        else:  # a window that does not fit
            self.steps(world.plan).of(0, world.policy.stochastic_steps, torch.Generator())
        refuse_idle_guidance(world)
        world.penalties.refuse(world.policy.trains_initial)
        self.refuse_lone_samples(world.plan)
        self.credit.refuse(world)
        refuse_closed_loop(world)
        if world.penalties.needs_old() and self.updates_per_iteration(world.plan) == 1:
            text = "one update per rollout: the policy is the one that sampled, no step is outside a trust region"
            warnings.warn(text, stacklevel=2)

    def refuse_lone_samples(self, plan: Plan) -> None:
        """Raises ValueError where every sample is compared with itself alone: all advantages are then 0."""
        grouped = self.baseline == "group" or self.scale == "group_std"
        if plan.group == 1 and grouped:
            raise ValueError(
                "plan.group is 1: a group's baseline or spread (trainer.baseline=group, trainer.scale=group_std) compares "
                "the samples of a group, and one alone has advantage 0; set plan.group to 2 or more"
            )
        if plan.samples == 1 and self.baseline != "none":
            raise ValueError(f"plan.samples is 1: trainer.baseline={self.baseline} has no other sample to compare with")

    @torch.no_grad()
    def collect(self, world: World, iteration: int) -> Experience:
        plan, policy, shuffle = world.plan, world.policy, world.noise.generator(iteration, 1)
        steps = self.steps(plan)
        trained = steps.of(iteration, policy.stochastic_steps, shuffle) if policy.trains_denoiser else []
        index = world.processes.share(plan.samples)
        pairs = len(index) * len(trained)
        graph = self.differentiates_sampling(world, pairs)
        compared = world.penalties.needs_reference() and policy.trains_denoiser  # a frozen denoiser's KL is 0
        extras = Extras(
            compared, world.reward.needs_estimates(), graph=graph, states=self.keeps_states, half=plan.bf16_states
        )
        request = training_request(world, iteration, trained, extras)
        if trained and not steps.noise_elsewhere:
            request = request.with_noise_at(trained)
        collected = interaction_of(world, self.interaction).collect(world, request)
        if graph and not collected.trajectory.has_graph:  # memory ran out: not again
            world.capacity.pass_size = pairs - 1
        logs, prompts = summarise(world, collected), prompt_rewards(world, collected)
        logs |= prompts.logs if prompts else {}
        paid = cost(world, collected, first=not iteration)
        collected, more = valued(world, collected, first=not iteration)
        world.penalties.adapt(logs.get("kl_nats", 0.0))  # now: returns and losses are to share one coefficient
        credited, advantage, scale = self.credited(world, collected)
        local = advantage[index.start : index.stop]
        order = torch.stack([torch.randperm(plan.samples, generator=shuffle) for _ in range(self.epochs)])
        experience = Experience(
            trajectory=collected.trajectory, advantage=local[:, [h + 1 for h in trained]], initial_advantage=local[:, 0],
            objective_scale=scale, measured=world.processes.gather(collected.rewards.measured).cpu(), index=index,
            step_scale=steps.scale(len(policy.stochastic_steps), len(trained)) if trained else 1.0,
            cost_weight=credited.weight, targets=credited.targets, order=order,
            logs=logs | credited.logs | world.penalties.logs(), prompts=prompts,
            iteration=iteration, **{name: paid[name] + more[name] for name in paid},
        )  # fmt: skip
        return self.completed(experience, collected, world)

    def credited(self, world: World, collected: Collected) -> tuple[Credited, Float[Tensor, "N H1"], float]:
        """The credit of this process's rows, all processes' advantages (column 0 rho's), and the objective's scale."""
        rewards, gather = collected.rewards, world.processes.gather
        credited, measured = self.credit.assign(world, collected.trajectory, rewards), gather(rewards.measured)
        table = gather(credited.table)
        earned = gather(
            returns_table(rewards) if credited.spread is None else credited.spread[:, None].expand_as(credited.table)
        )
        advantage, scale = advantages(table, measured, groups_of(world), self.baseline, self.scale, earned)
        if world.penalties.reference_samples():
            costs = sample_costs(world, collected.trajectory)
            advantage = advantage - costs.masked_fill(~measured, 0.0)[:, None]
        return credited, advantage, scale

    def micro_batches(self, experience: Experience, update: int, world: World) -> list[MicroBatch]:
        epoch, part = divmod(update, self.minibatches)
        index, trajectory = experience.index, experience.trajectory
        chosen = np.array_split(experience.order[epoch].numpy(), self.minibatches)[part]
        chosen = chosen[experience.measured.numpy()[chosen]]
        here = chosen[(chosen >= index.start) & (chosen < index.stop)] - index.start
        draws = world.noise.generator(experience.iteration, 10 + update) if world.penalties.data_source() else None
        if not len(here):
            return [MicroBatch(None, None, max(1, len(chosen)), draws)] if draws else []
        rows = torch.from_numpy(here).to(world.device, non_blocking=True)
        if not world.policy.trains_denoiser:
            return [MicroBatch(None, rows, len(chosen))]
        parts = split(pair_indices(rows, len(trajectory.trained)), world.capacity.pass_size)
        first = rows if world.policy.trains_initial else None
        pieces = [MicroBatch(trajectory.pairs(p), None if i else first, len(chosen)) for i, p in enumerate(parts)]
        return [replace(pieces[0], own=draws), *pieces[1:]]

    def loss(self, experience: Experience, piece: MicroBatch, world: World) -> Loss:
        terms: list[Tensor] = []
        logs: dict[str, tuple[Tensor, float]] = {}
        scale, pairs = experience.objective_scale / piece.count, piece.pairs
        if pairs is not None:
            steps, logs = self.step_loss(experience, pairs, world)
            terms.append(steps * (scale * experience.step_scale))
        if piece.rows is not None:
            first, more = self.initial_loss(experience, piece.rows, world)
            terms.append(first * scale)
            logs |= {f"initial_{name}": entry for name, entry in more.items()}
        at = piece.rows if pairs is None else pairs
        if world.critic is not None and at is not None and experience.targets.shape[1]:
            given = world.critic, experience.trajectory, experience.targets
            off, more = fit_loss(*given, at) if isinstance(at, Pairs) else fit_at_rows(*given, at)
            terms.append(off / (piece.count * max(1, len(experience.trajectory.trained))))
            logs |= more
        own = 0
        if piece.own is not None:
            more_loss, own = own_loss(world, piece.own)
            terms.append(more_loss * experience.objective_scale)
        replays = 0 if pairs is None or experience.trajectory.has_graph else 2 if self.compares_old(world) else 1
        rows = own + (0 if pairs is None else replays * len(pairs.index))
        return Loss(sum(terms[1:], terms[0]), rows, logs)
