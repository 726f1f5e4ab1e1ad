"""Policy gradients on finite MDPs by the same functions as the diffusion trainers, held against dynamic programming.

A softmax policy over tables of logits; many independent runs at once. Rows are episodes, run after run: the run is the
group of functional.returns.advantages, so that its "group" baseline is leave-one-out within a run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import scipy.stats
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.functional.credit import (
    differential,
    differential_td_errors,
    discount_factors,
    discounted_reward_to_go,
    gae,
    td_targets,
    updated_average_reward,
)
from pgdlab.functional.returns import advantages
from pgdlab.functional.surrogates import ppo_clip, reinforce
from pgdlab.oracle.tables.mdp import policy_kl
from pgdlab.oracle.tables.problems import Average, Discounted, Finite, Problem
from pgdlab.oracle.tables.textbook import large_grid, random_mdp, small_grid, taxicab


@dataclass(frozen=True)
class Batch:
    """Rows: episodes or pieces. column: the table of each step. rewards: less the weighted KL of the step."""

    run: Int[Tensor, " N"]
    column: Int[Tensor, " H1"]
    states: Int[Tensor, "N H1"]
    actions: Int[Tensor, "N H"]
    rewards: Float[Tensor, "N H"]

    def look_up(self, table: Tensor, steps: int) -> Tensor:
        """table[run, step's column, state] of the first steps: (N, steps, ...)."""
        return table[self.run[:, None], self.column[:steps], self.states[:, :steps]]


def draw(probabilities: Float[Tensor, "N C"], generator: torch.Generator) -> Int[Tensor, " N"]:
    """One category a row, by inverting the distribution function."""
    u = torch.rand(len(probabilities), 1, dtype=probabilities.dtype, generator=generator)
    return (probabilities.cumsum(1) <= u).sum(1).clamp(max=probabilities.shape[1] - 1)


def sample(
    problem: Problem, policy: Float[Tensor, "R T S A"], first: Int[Tensor, " N"], generator: torch.Generator
) -> Batch:
    """Follows each run's policy from the given states."""
    mdp, steps = problem.mdp, problem.horizon
    run = torch.arange(len(policy)).repeat_interleave(len(first) // len(policy))
    column = torch.zeros(steps + 1, dtype=torch.long) if problem.stationary else torch.arange(steps + 1)
    states, actions = [first], []
    for h in range(steps):
        actions.append(draw(policy[run, column[h], states[h]], generator))
        states.append(draw(mdp.transition[states[h], actions[h]], generator))
    s, a = torch.stack(states, 1), torch.stack(actions, 1)
    batch = Batch(run, column, s, a, mdp.reward[s[:, :-1], a])
    if not problem.weight:
        return batch
    kl = batch.look_up(policy_kl(policy, problem.even), steps)
    return Batch(run, column, s, a, batch.rewards - problem.weight * kl)


# ---- learning


@dataclass
class Critic:
    """values: V (or the differential value), runs by tables by states; average: rbar of each run."""

    values: Float[Tensor, "R T S"]
    average: Float[Tensor, " R"]

    def regress(self, batch: Batch, targets: Float[Tensor, "N H"], rate: float) -> None:
        """V <- V + rate (mean target of the state's visits - V); what was not visited stays."""
        tables, states = self.values.shape[1:]
        row = (batch.run[:, None] * tables + batch.column[:-1]) * states + batch.states[:, :-1]
        flat, row = self.values.view(-1), row.flatten()
        count = torch.zeros_like(flat).index_add(0, row, torch.ones_like(targets).flatten())
        total = torch.zeros_like(flat).index_add(0, row, targets.flatten())
        flat += rate * torch.where(count > 0, total / count.clamp(min=1) - flat, 0.0)


@dataclass(frozen=True, kw_only=True)
class Learner(ABC):
    """rate: Adam's on the logits, falling to 0 in a line.

    clip: None for one REINFORCE step a batch, else nats, for `passes` steps of PPO.
    """

    name: str
    rate: float = 0.1
    clip: float | None = None
    passes: int = 1

    @abstractmethod
    def credit(self, problem: Problem, batch: Batch, critic: Critic) -> Float[Tensor, "N H"]:
        """The factor of log pi(a_h|s_h); a critic learns from the batch on the way."""

    def loss(self, problem: Problem, batch: Batch, logits: Tensor, old: Tensor, credit: Tensor) -> Tensor:
        """The sum over runs of the mean over episodes of KL cost minus surrogate."""
        log_policy = logits.log_softmax(-1)
        steps, own = problem.horizon, batch.actions[..., None]
        ratio = (batch.look_up(log_policy, steps) - batch.look_up(old, steps)).gather(2, own)[..., 0]
        gain = reinforce(ratio.flatten(), credit.flatten())
        if self.clip is not None:
            gain = ppo_clip(ratio.flatten(), credit.flatten(), -self.clip, self.clip)
        loss = -gain.sum()
        if problem.weight:
            kl = batch.look_up(policy_kl(log_policy.exp(), problem.even), steps)
            loss = loss + problem.weight * (kl * discount_factors(steps, problem.gamma)).sum()
        return loss * len(logits) / len(batch.run)


@dataclass(frozen=True, kw_only=True)
class Reinforce(Learner):
    """Monte-Carlo returns: G_0 for every step, or gamma^h G_h, less a baseline   (Sutton & Barto 2018, sec. 13.3, 13.4).

    total: the whole return for every step. discount_states False drops gamma^h: usual, and a biased gradient.
    """

    baseline: Literal["none", "group"] = "none"
    total: bool = False
    discount_states: bool = True

    def credit(self, problem: Problem, batch: Batch, critic: Critic) -> Float[Tensor, "N H"]:
        returns = discounted_reward_to_go(batch.rewards, problem.gamma)
        if self.total:
            returns = returns[:, :1].expand_as(returns)
        measured = torch.ones_like(batch.run, dtype=torch.bool)
        advantage, _ = advantages(returns, measured, batch.run, self.baseline)
        if self.total or not self.discount_states:
            return advantage
        return advantage * discount_factors(problem.horizon, problem.gamma)


@dataclass(frozen=True, kw_only=True)
class ActorCritic(Learner):
    """GAE from a learned V, which is regressed on lambda-returns   (Sutton & Barto 2018, sec. 13.5; 13.6 if continuing).

    lam 0: TD(0) errors and targets; 1: Monte-Carlo. critic_rate: the step of V and rbar.
    """

    lam: float
    critic_rate: float = 0.3

    def credit(self, problem: Problem, batch: Batch, critic: Critic) -> Float[Tensor, "N H"]:
        values = batch.look_up(critic.values, problem.horizon + 1)
        rewards = batch.rewards
        if problem.continuing:
            average = critic.average[batch.run]
            errors = differential_td_errors(rewards, values, average)
            moved = updated_average_reward(average, errors, self.critic_rate)
            critic.average = moved.reshape(len(critic.average), -1).mean(1)
            rewards = differential(rewards, average)
        terminated = not problem.stationary
        advantage = gae(rewards, values, problem.gamma, self.lam, terminated)
        critic.regress(batch, td_targets(rewards, values, problem.gamma, self.lam, terminated), self.critic_rate)
        return advantage * discount_factors(problem.horizon, problem.gamma)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Per run: iterations of so many episodes (or pieces); the exact J every few iterations and at the end."""

    runs: int = 16
    episodes: int = 32
    iterations: int = 300
    every: int = 5


def learn(problem: Problem, learner: Learner, plan: Plan, generator: torch.Generator) -> Float[Tensor, "E R"]:
    """The exact J of every run's policy, every `plan.every` iterations."""
    states, tables = len(problem.mdp.start), 1 if problem.stationary else problem.horizon
    logits = torch.zeros(plan.runs, tables, *problem.mdp.reward.shape, dtype=torch.float64, requires_grad=True)
    critic = Critic(logits.new_zeros(plan.runs, tables + (tables > 1), states), logits.new_zeros(plan.runs))
    optimizer = torch.optim.Adam([logits], lr=learner.rate)
    restart = problem.mdp.start.expand(plan.runs * plan.episodes, -1)
    first, curve = draw(restart, generator), []
    for iteration in range(plan.iterations + 1):
        old = logits.detach().log_softmax(-1)
        if iteration % plan.every == 0:
            curve.append(torch.stack([problem.objective(policy) for policy in old.exp()]))
        batch = sample(problem, old.exp(), first, generator)
        credit = learner.credit(problem, batch, critic)
        optimizer.param_groups[0]["lr"] = learner.rate * (1 - iteration / plan.iterations)
        for _ in range(learner.passes):
            optimizer.zero_grad()
            learner.loss(problem, batch, logits, old, credit).backward()
            optimizer.step()
        first = batch.states[:, -1] if problem.continuing else draw(restart, generator)
    return torch.stack(curve)


# ---- the certificate


@dataclass(frozen=True, kw_only=True)
class Row:
    """One algorithm on one problem; J and gap are means over runs, low to high is the gap's 95% interval.

    gap = (J* - J) / (J* - J of the even policy). queries_10, queries_5: transitions that a run sampled until its gap was
    first under 10% and 5%, the median over runs; None where half of them or more never were (censored).
    """

    problem: str
    algorithm: str
    objective: float
    optimum: float
    gap: float
    low: float
    high: float
    queries_10: float | None
    queries_5: float | None


PROBLEMS = (
    Finite(name="small grid, 6 steps", mdp=small_grid(), horizon=6),
    Finite(name="random, KL weight 0.5", mdp=random_mdp(6, 3, torch.Generator().manual_seed(0)), horizon=5, weight=0.5),
    Discounted(name="large grid, gamma 0.9", mdp=large_grid(), gamma=0.9, horizon=40),
    Average(name="taxicab, average reward", mdp=taxicab(), horizon=10),
)
CRITICS = (
    ActorCritic(name="actor-critic, TD(0)", lam=0.0),
    ActorCritic(name="actor-critic, GAE(0.9)", lam=0.9),
    ActorCritic(name="actor-critic, Monte Carlo", lam=1.0),
)
EPISODIC = (
    Reinforce(name="REINFORCE", total=True),
    Reinforce(name="REINFORCE, baseline", total=True, baseline="group"),
    Reinforce(name="reward-to-go", baseline="none"),
    Reinforce(name="reward-to-go, baseline", baseline="group"),
    Reinforce(name="PPO, baseline", baseline="group", clip=0.2, passes=4, rate=0.05),
)
UNDISCOUNTED = Reinforce(name="reward-to-go, baseline, no gamma^h", baseline="group", discount_states=False)


def certify_tables(seed: int = 0, plan: Plan | None = None) -> list[Row]:
    """Every algorithm on every problem that it applies to; the same rows for the same seed."""
    rows = []
    for problem in PROBLEMS:
        learners: tuple[Learner, ...] = CRITICS if problem.continuing else (*EPISODIC, *CRITICS)
        for learner in (*learners, UNDISCOUNTED) if problem.gamma < 1 else learners:
            rows.append(certify(problem, learner, plan or Plan(), torch.Generator().manual_seed(seed)))
    return rows


def certify(problem: Problem, learner: Learner, plan: Plan, generator: torch.Generator) -> Row:
    """One row."""
    curve, best = learn(problem, learner, plan, generator), problem.optimum().objective
    gaps = (best - curve) / (best - problem.objective(problem.even))
    spread = float(scipy.stats.t.ppf(0.975, plan.runs - 1)) * gaps[-1].std().item() / plan.runs**0.5
    gap, evaluated = gaps[-1].mean().item(), plan.every * plan.episodes * problem.horizon
    return Row(
        problem=problem.name, algorithm=learner.name, objective=curve[-1].mean().item(), optimum=best, gap=gap,
        low=gap - spread, high=gap + spread, queries_10=queries_under(0.1, gaps, evaluated),
        queries_5=queries_under(0.05, gaps, evaluated),
    )  # fmt: skip


def queries_under(level: float, gaps: Float[Tensor, "E R"], evaluated: int) -> float | None:
    """Median over runs of the queries at the first evaluation with a gap under the level; one every `evaluated`."""
    under = gaps < level
    first = torch.where(under.any(0), under.double().argmax(0).double(), torch.inf)
    median = evaluated * first.sort().values[len(first) // 2].item()
    return None if math.isinf(median) else median
