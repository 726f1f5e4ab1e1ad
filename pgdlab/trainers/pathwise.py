"""Pathwise gradients: the reward's gradient, carried back along stored trajectories, is what each action is trained on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.credit.reward_to_go import Credit, RewardToGo
from pgdlab.functional.gaussian import kl_same_std
from pgdlab.functional.returns import Baseline, Scale
from pgdlab.penalties.path_kl import KLPenalty
from pgdlab.rollout.sweep import Adjoints, Sweep
from pgdlab.rollout.trajectory import Pairs, initial_kl, pick, replay
from pgdlab.trainers.base import refuse_rounding
from pgdlab.trainers.experience import Experience
from pgdlab.trainers.interaction import Collected, Interaction
from pgdlab.trainers.policy_gradient import PolicyGradient, Terms
from pgdlab.trainers.reward_gradient import Differentiated, WithGradient, refuse_flat
from pgdlab.world import World


@dataclass(frozen=True)
class Pulled(Experience):
    """pull: what the objective gains per unit that an action moves, a_{h+1} of the trained steps, in reward units per unit of the
    data; first: a_0."""

    pull: Float[Tensor, "B K *D"] = field(kw_only=True)
    first: Float[Tensor, "B *D"] = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Pathwise(PolicyGradient):
    """Descends sum_h cost(KL_h) - <a_{h+1}, m_h> at the sampled states, m_h the mean of step h and a_{h+1} a constant, and
    lambda_0 KL(rho || rho_pre) - <a_0, s_0> with s_0 = mean + std z at the sampled z. What a is tells the trainers apart."""

    keeps_states: ClassVar[bool] = True
    needs_slope: ClassVar[bool] = True  # of the reward
    baseline: Baseline = field(default="none", init=False, repr=False)
    scale: Scale = field(default="none", init=False, repr=False)
    credit: Credit = field(default_factory=RewardToGo, init=False, repr=False)
    interaction: Interaction = field(default_factory=WithGradient, init=False, repr=False)

    @abstractmethod
    def adjoints(self, world: World, collected: Collected, down_to: int) -> Adjoints:
        """Of this process's rows, back to the state of step `down_to`."""

    def swept(self, sweep: Sweep, world: World, collected: Collected, down_to: int) -> Adjoints:
        """Those of a sweep that begins with the gradient of the samples' rewards."""
        assert isinstance(collected, Differentiated)
        return sweep.carry(collected.trajectory, collected.gradient, down_to=down_to, capacity=world.capacity)

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if self.needs_slope:
            refuse_flat(world)
        refuse_rounding(world.plan, "this trainer carries gradients back through the steps, and rounding has none")
        if not world.plan.trained_steps.noise_elsewhere:
            raise ValueError(
                "plan.trained_steps takes the noise from the other steps, whose network would move without a gradient: take "
                "steps whose noise stays, such as RandomSteps or Window"
            )
        odd = [p for p in world.penalties.each() if not (isinstance(p, KLPenalty) and p.form == "A")]
        if odd:
            raise ValueError(
                f"penalty {type(odd[0]).__name__} acts through returns or ratios, which this trainer does not have: it takes "
                "path_kl and constraint in their form A, or none"
            )

    def differentiates_sampling(self, world: World, pairs: int) -> bool:
        return False  # sampling's graph is of densities, the loss is of means

    def completed(self, experience: Experience, collected: Collected, world: World) -> Pulled:
        down_to = 0 if world.policy.trains_initial else min(collected.trajectory.trained)
        found, gather = self.adjoints(world, collected, down_to), world.processes.gather
        norm = gather(found.first.flatten(1).norm(dim=1).double())[experience.measured].mean().item()
        queries, rows = gather(torch.tensor([[found.queries, found.rows]], device=world.device)).sum(0).tolist()
        same = {f.name: getattr(experience, f.name) for f in fields(Experience)}
        same |= {"queries": experience.queries + queries, "evaluations": experience.evaluations + rows}
        same |= {"logs": experience.logs | {"adjoint_norm": norm}}
        return Pulled(**same, pull=found.after, first=found.first)

    def step_loss(self, experience: Experience, pairs: Pairs, world: World) -> Terms:
        trajectory, penalties = experience.trajectory, world.penalties
        assert isinstance(experience, Pulled)
        g, score = replay(world.policy, trajectory, pairs)
        moved = g.mean - trajectory.at(pairs.action)  # a constant, which keeps the sum small
        loss = -(pick(experience.pull, pairs.index) * moved).flatten(1).sum(1, dtype=torch.float64)
        if penalties.needs_reference():
            mean = pick(trajectory.reference_mean, pairs.index)
            loss = loss + penalties.loss_term(kl_same_std(g.mean, mean, g.std, world.policy.space, pairs.cond))
        return (loss - self.gain(experience, pairs, score)).sum(), {}

    def gain(self, experience: Experience, pairs: Pairs, score: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """What is maximised besides, of the log-probabilities of the pairs' actions."""
        return torch.zeros_like(score)

    def initial_loss(self, experience: Experience, rows: Int[Tensor, " R"], world: World) -> Terms:
        trajectory, policy = experience.trajectory, world.policy
        assert isinstance(experience, Pulled)
        cond, sampled = trajectory.cond[rows], trajectory.initial[rows]
        rho = policy.initial(cond)
        moved = rho.sample(((sampled - rho.mean) / rho.std).detach()) - sampled
        gain = (experience.first[rows] * moved).flatten(1).sum(1, dtype=torch.float64)
        cost = world.penalties.initial_loss_term(initial_kl(policy, world.reference, cond))
        return (cost - gain).double().sum(), {}
