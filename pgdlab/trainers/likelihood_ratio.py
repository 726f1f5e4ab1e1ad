"""Policy gradients through the log-ratio of densities, log pi(a|s) / pi_old(a|s), of replayed steps and of rho."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.functional.gaussian import Gaussian, kl_same_std, log_prob
from pgdlab.rollout.trajectory import Pairs, Trajectory, initial_kl, pick, replay
from pgdlab.trainers.experience import Experience
from pgdlab.trainers.policy_gradient import PolicyGradient, Terms
from pgdlab.world import World

Ratio = Literal["density", "per_dimension", "guard"]


@dataclass(frozen=True, kw_only=True)
class LikelihoodRatio(PolicyGradient):
    """Maximises E[sum_h surrogate(log w_h, A_h)] minus the penalties, w = pi(a|s) / pi_old(a|s).

    ratio: per_dimension divides log-ratios by the degrees of freedom, as the peers do: the weight is then w^(1/D), which is
    no importance weight and biased below 1. guard takes exp(mean_d eps_d (m - m_old)_d) for it, eps the noise that was drawn, and
    divides the surrogate by the step's length in sigma (GRPO-Guard: Wang et al. 2025, arXiv:2510.22319, eq. 8): of a flow alone.
    At pi = pi_old its gradient is the policy gradient of each step times std_h / (D dt_h).
    """

    ratio: Ratio = "density"

    @abstractmethod
    def surrogate(self, log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """To be maximised; also used for rho, whose log-ratio is that of s_0."""

    @abstractmethod
    def diagnostics(self, log_ratio: Float[Tensor, " P"]) -> dict[str, tuple[Tensor, float]]:
        """Logs of the ratios: name -> (sum, count)."""

    def compares_old(self, world: World) -> bool:
        return self.ratio == "guard" or super().compares_old(world)

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if self.ratio == "guard" and (world.policy.trains_initial or not world.policy.denoiser.schedule.straight):
            raise ValueError(
                "trainer.ratio=guard weighs the steps of a flow by their length: take a base that is one, as oracle/flow, and "
                "initial=standard; or trainer.ratio=density"
            )

    def step_loss(self, experience: Experience, pairs: Pairs, world: World) -> Terms:
        trajectory, penalties = experience.trajectory, world.penalties
        sampled, advantage = pick(trajectory.log_prob, pairs.index), pick(experience.advantage, pairs.index)
        g, score = (None, sampled) if trajectory.has_graph else replay(world.policy, trajectory, pairs)
        log_ratio, advantage = score - sampled.detach(), advantage.to(score.dtype)
        moved = None if g is None or not self.compares_old(world) else moved_since(world, trajectory, pairs, g)
        if self.ratio == "guard" and moved is not None:
            log_ratio, advantage = guarded(world, pairs, log_ratio + moved, advantage)
        log_ratio = self.reduced(log_ratio, world, pairs.cond)
        gain, logs = self.surrogate(log_ratio, advantage), self.diagnostics(log_ratio.detach())
        if moved is not None:
            inside = penalties.trusted(moved.detach(), (log_ratio.detach() * advantage) > 0)
            gain, n = gain.masked_fill(~inside, 0.0), float(len(moved))
            logs |= {"old_kl_nats": (moved.detach().double().sum(), n), "untrusted": ((~inside).sum(), n)}
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


def moved_since(world: World, trajectory: Trajectory, pairs: Pairs, g: Gaussian) -> Float[Tensor, " P"]:
    """The exact KL of each step to the policy that sampled it, in nats."""
    assert world.old is not None, "PolicyGradient.equip makes it"
    with torch.no_grad():
        old, _ = replay(world.old, trajectory, pairs)
    return kl_same_std(g.mean, old.mean, g.std, world.policy.space, pairs.cond)


def guarded(
    world: World, pairs: Pairs, log_ratio: Float[Tensor, " P"], advantage: Float[Tensor, " P"]
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Log-ratios without their negative mean, in units of the data, and advantages over the steps' lengths in sigma."""
    policy = world.policy
    sigma = policy.denoiser.schedule.sigma(policy.times)
    length = (sigma[:-1] - sigma[1:])[pairs.step]
    return log_ratio * policy.std[pairs.step].to(log_ratio), advantage / length.to(advantage)
