"""The common part of all policy-gradient algorithms: rollout, reward, credit, replay."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.credit.critic import fit_loss
from pgdlab.credit.reward_to_go import Credit, RewardToGo, returns_table
from pgdlab.diffusion.values import Value
from pgdlab.functional.gaussian import kl_same_std, log_prob
from pgdlab.functional.returns import Baseline, Scale, advantages
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.rollout.trajectory import Pairs, initial_kl, pair_indices, pick, replay, split
from pgdlab.trainers.base import Algorithm, Loss, refuse_ode
from pgdlab.trainers.experience import Experience, Piece
from pgdlab.trainers.interaction import ahead, draw_conditions, evaluations, outcome, queries, summarise
from pgdlab.trainers.nearness import final_costs, reference_evaluations, trust
from pgdlab.world import World

Ratio = Literal["density", "per_dimension"]


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Algorithm):
    """Maximises E[sum_h surrogate_h] minus the penalty.

    baseline, scale: see functional.returns.advantages. ratio: per_dimension divides log-ratios by the degrees of freedom,
    as the peers do: the weight is then w^(1/D), which is no importance weight and biased below 1. epochs: passes over an
    iteration's trajectories. minibatches: optimiser steps an epoch, each on a random part of the trajectories with all
    their trained steps. credit: what returns are made of.
    """

    baseline: Baseline = "leave_one_out"
    scale: Scale = "none"
    ratio: Ratio = "density"
    epochs: int = 1
    minibatches: int = 1
    credit: Credit = field(default_factory=RewardToGo)

    @abstractmethod
    def surrogate(self, log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """To be maximised; also used for rho, whose log-ratio is that of s_0."""

    @abstractmethod
    def diagnostics(self, log_ratio: Float[Tensor, " P"]) -> dict[str, tuple[Tensor, float]]:
        """What to log of the ratios: name -> (sum, count)."""

    def updates_per_iteration(self, plan: object) -> int:
        return self.epochs * self.minibatches

    def build_critic(self, world: World) -> Value | None:
        return self.credit.build_critic(world)

    def differentiates_sampling(self, world: World, pairs: int) -> bool:
        """Whether the graph of sampling takes the place of a replay: the one update is that of the policy which sampled, and
        all `pairs` of this process, rows times trained steps, fit in one pass."""
        return (
            world.once
            and self.updates_per_iteration(world.plan) == 1
            and 0 < pairs <= world.plan.pass_size
            and not world.penalty.needs_means()
        )

    def release(self, experience: Experience) -> None:
        experience.trajectory.drop_graph()

    def refuse(self, world: World) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it is at least 1")
        if not 1 <= self.minibatches <= world.plan.samples:
            raise ValueError(f"minibatches is {self.minibatches}; it is at least 1, at most plan.samples")
        world.processes.share(world.plan.samples)
        refuse_ode(world.policy)
        self.credit.refuse(world)
        if world.penalty.needs_means() and self.updates_per_iteration(world.plan) == 1:
            text = "one update per rollout: the policy is the one that sampled, no step is outside a trust region"
            warnings.warn(text, stacklevel=2)

    @torch.no_grad()
    def collect(self, world: World, iteration: int) -> Experience:
        plan, policy, shuffle = world.plan, world.policy, world.noise.generator(iteration, 1)
        index = world.processes.share(plan.samples)
        groups = torch.arange(plan.samples, device=world.device) // plan.group
        trained = plan.trained_steps.select(policy.stochastic_steps, shuffle) if policy.trains_denoiser else []
        compared = world.penalty.needs_reference() and policy.trains_denoiser  # a frozen denoiser's KL is 0
        pairs = len(index) * len(trained)
        graph = self.differentiates_sampling(world, pairs)
        extras = Extras(compared, world.reward.needs_estimates(), means=world.penalty.needs_means(), graph=graph)
        cond = draw_conditions(world, iteration)
        trajectory = rollout(
            policy, world.reference, world.noise, iteration, index, cond[index.start : index.stop], trained,
            plan.rollout_batch, extras, ahead(world),
        )  # fmt: skip
        if graph and not trajectory.has_graph:  # memory ran out: not again
            world.plan = plan = replace(plan, pass_size=pairs - 1)
        seen = outcome(world, trajectory)
        gather = world.processes.gather
        paid = guarded(world.reward, seen, plan.max_failed, gather)
        measured = gather(paid.measured)
        logs = summarise(world, trajectory, seen, paid, groups)
        world.penalty.update(logs.get("kl_nats", 0.0))  # now: returns and losses are to share one coefficient
        credited = self.credit.assign(world, trajectory, paid)
        earned, table = gather(returns_table(paid)), gather(credited.table)
        advantage, scalar = advantages(table, measured, groups, self.baseline, self.scale, earned)
        if world.penalty.references():
            advantage = advantage - final_costs(world, trajectory).masked_fill(~measured, 0.0)[:, None]
        local = advantage[index.start : index.stop]
        order = torch.stack([torch.randperm(plan.samples, generator=shuffle) for _ in range(self.epochs)])
        return Experience(
            trajectory=trajectory, advantage=local[:, [h + 1 for h in trained]], initial_advantage=local[:, 0],
            objective_scale=scalar, measured=measured.cpu(), index=index, order=order,
            step_scale=plan.trained_steps.scale(len(policy.stochastic_steps), len(trained)) if trained else 1.0,
            cost_weight=credited.weight, targets=credited.targets,
            logs=logs | credited.logs | world.penalty.logs(), queries=queries(world, paid),
            evaluations=evaluations(world, extras) + (0 if iteration else reference_evaluations(world)),
        )  # fmt: skip

    def passes(self, experience: Experience, update: int, world: World) -> list[Piece]:
        epoch, part = divmod(update, self.minibatches)
        index, trajectory = experience.index, experience.trajectory
        chosen = np.array_split(experience.order[epoch].numpy(), self.minibatches)[part]
        chosen = chosen[experience.measured.numpy()[chosen]]
        here = chosen[(chosen >= index.start) & (chosen < index.stop)] - index.start
        if not len(here):
            return []
        rows = torch.from_numpy(here).to(world.device, non_blocking=True)
        if not world.policy.trains_denoiser:
            return [Piece(None, rows, len(chosen))]
        parts = split(pair_indices(rows, len(trajectory.trained)), world.plan.pass_size)
        first = rows if world.policy.trains_initial else None
        return [Piece(trajectory.pairs(p), None if i else first, len(chosen)) for i, p in enumerate(parts)]

    def loss(self, experience: Experience, piece: Piece, world: World) -> Loss:
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
        if pairs is not None and world.critic is not None:
            off, more = fit_loss(world.critic, experience.trajectory, experience.targets, pairs)
            terms.append(off / (piece.count * len(experience.trajectory.trained)))
            logs |= more
        rows = 0 if pairs is None or experience.trajectory.has_graph else len(pairs.index)
        return Loss(sum(terms[1:], terms[0]), rows, logs)

    def step_loss(
        self, experience: Experience, pairs: Pairs, world: World
    ) -> tuple[Tensor, dict[str, tuple[Tensor, float]]]:
        """Sum over the pairs of penalty cost minus surrogate."""
        trajectory, penalty = experience.trajectory, world.penalty
        sampled = pick(trajectory.log_prob, pairs.index)
        g, score = (None, sampled) if trajectory.has_graph else replay(world.policy, trajectory, pairs)
        log_ratio = self.reduced(score - sampled.detach(), world, pairs.cond)
        gain = self.surrogate(log_ratio, pick(experience.advantage, pairs.index).to(score.dtype))
        logs = self.diagnostics(log_ratio.detach())
        if g is not None and penalty.needs_means():
            inside, more = trust(world, trajectory, pairs, g)
            gain, logs = gain.masked_fill(~inside, 0.0), logs | more
        if not penalty.needs_reference():
            return -gain.sum(dtype=torch.float64), logs
        if g is None:
            kl = trajectory.kl[pairs.row, pairs.step]
        else:
            mean = pick(trajectory.reference_mean, pairs.index)
            kl = kl_same_std(g.mean, mean, g.std, world.policy.space, pairs.cond)
        cost = penalty.cost(kl)
        if experience.cost_weight is not None:
            cost = cost * experience.cost_weight[pairs.index % len(trajectory.trained)]
        return (cost - gain).sum(dtype=torch.float64), logs

    def reduced(self, log_ratio: Float[Tensor, " P"], world: World, cond: Tensor) -> Float[Tensor, " P"]:
        """The log-ratio that the surrogate sees."""
        if self.ratio == "density":
            return log_ratio
        return log_ratio / world.policy.space.dof(cond)

    def initial_loss(
        self, experience: Experience, rows: Int[Tensor, " R"], world: World
    ) -> tuple[Tensor, dict[str, tuple[Tensor, float]]]:
        """Sum over the rows of rho's penalty cost minus its surrogate."""
        trajectory, policy = experience.trajectory, world.policy
        cond = trajectory.cond[rows]
        score = log_prob(policy.initial(cond), trajectory.initial[rows], policy.space, cond)
        advantage = experience.initial_advantage[rows].to(score.dtype)
        log_ratio = self.reduced(score - trajectory.initial_log_prob[rows], world, cond)
        cost = world.penalty.initial_cost(initial_kl(policy, world.reference, cond))
        loss = (cost - self.surrogate(log_ratio, advantage)).double().sum()
        return loss, self.diagnostics(log_ratio.detach())
