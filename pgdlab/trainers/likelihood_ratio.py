"""Policy gradients through the log-ratio of densities, log pi(a|s) / pi_old(a|s), of replayed steps and of rho."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.functional.gaussian import Gaussian, kl_same_std, log_prob
from pgdlab.rollout.trajectory import Pairs, Trajectory, initial_kl, pick, replay
from pgdlab.trainers.experience import Experience
from pgdlab.trainers.policy_gradient import PolicyGradient, Terms
from pgdlab.world import World

Ratio = Literal["density", "per_dimension"]


@dataclass(frozen=True, kw_only=True)
class LikelihoodRatio(PolicyGradient):
    """Maximises E[sum_h surrogate(log w_h, A_h)] minus the penalties, w = pi(a|s) / pi_old(a|s).

    ratio: per_dimension divides log-ratios by the degrees of freedom, as the peers do: the weight is then w^(1/D), which is
    no importance weight and biased below 1.
    """

    ratio: Ratio = "density"

    @abstractmethod
    def surrogate(self, log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """To be maximised; also used for rho, whose log-ratio is that of s_0."""

    @abstractmethod
    def diagnostics(self, log_ratio: Float[Tensor, " P"]) -> dict[str, tuple[Tensor, float]]:
        """Logs of the ratios: name -> (sum, count)."""

    def step_loss(self, experience: Experience, pairs: Pairs, world: World) -> Terms:
        trajectory, penalties = experience.trajectory, world.penalties
        sampled = pick(trajectory.log_prob, pairs.index)
        g, score = (None, sampled) if trajectory.has_graph else replay(world.policy, trajectory, pairs)
        log_ratio = self.reduced(score - sampled.detach(), world, pairs.cond)
        gain = self.surrogate(log_ratio, pick(experience.advantage, pairs.index).to(score.dtype))
        logs = self.diagnostics(log_ratio.detach())
        if g is not None and penalties.needs_old():
            inside, more = trusted(world, trajectory, pairs, g)
            gain, logs = gain.masked_fill(~inside, 0.0), logs | more
        if not penalties.needs_reference():
            return -gain.sum(dtype=torch.float64), logs
        if g is None:
            kl = trajectory.kl[pairs.row, pairs.step]
        else:
            mean = pick(trajectory.reference_mean, pairs.index)
            kl = kl_same_std(g.mean, mean, g.std, world.policy.space, pairs.cond)
        cost = penalties.loss_term(kl)
        if experience.cost_weight is not None:
            cost = cost * experience.cost_weight[pairs.index % len(trajectory.trained)]
        return (cost - gain).sum(dtype=torch.float64), logs

    def reduced(self, log_ratio: Float[Tensor, " P"], world: World, cond: Tensor) -> Float[Tensor, " P"]:
        """The log-ratio that the surrogate sees."""
        if self.ratio == "density":
            return log_ratio
        return log_ratio / world.policy.space.dof(cond)

    def initial_loss(self, experience: Experience, rows: Int[Tensor, " R"], world: World) -> Terms:
        trajectory, policy = experience.trajectory, world.policy
        cond = trajectory.cond[rows]
        score = log_prob(policy.initial(cond), trajectory.initial[rows], policy.space, cond)
        advantage = experience.initial_advantage[rows].to(score.dtype)
        log_ratio = self.reduced(score - trajectory.initial_log_prob[rows], world, cond)
        cost = world.penalties.initial_loss_term(initial_kl(policy, world.reference, cond))
        loss = (cost - self.surrogate(log_ratio, advantage)).double().sum()
        return loss, self.diagnostics(log_ratio.detach())


@torch.no_grad()
def trusted(
    world: World, trajectory: Trajectory, pairs: Pairs, g: Gaussian
) -> tuple[Bool[Tensor, " P"], dict[str, tuple[Tensor, float]]]:
    """Which pairs are inside the trust region; for the logs the exact KL to the policy that sampled, and who is outside."""
    assert world.old is not None, "PolicyGradient.equip makes it"
    old, _ = replay(world.old, trajectory, pairs)
    moved = kl_same_std(g.mean, old.mean, g.std, world.policy.space, pairs.cond)
    inside, n = world.penalties.trusted(moved), float(len(moved))
    return inside, {"old_kl_nats": (moved.double().sum(), n), "untrusted": ((~inside).sum(), n)}
