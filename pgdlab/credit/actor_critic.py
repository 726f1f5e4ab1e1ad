"""Actor-critic: advantages from a learned value of states. A way of giving credit: the surrogate is any trainer's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.credit.critic import Critic, Perceptron, at_trained
from pgdlab.credit.reward_to_go import Credit, Credited
from pgdlab.functional.credit import discount_factors, gae, td_targets
from pgdlab.rewards.base import StepRewards
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.world import World


def between(values: Float[Tensor, "B H"], trained: tuple[int, ...]) -> Float[Tensor, "B K1"]:
    """Sums of columns: before the first trained step, then from each trained step to the next one (the last one to the end)."""
    total = torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], 1)
    bounds = [0, *trained, values.shape[1]]
    return total[:, bounds[1:]] - total[:, bounds[:-1]]


def explained(returns: Float[Tensor, "B K"], values: Float[Tensor, "B K"], measured: Bool[Tensor, " B"]) -> float:
    """1 - Var[G - V] / Var[G], variances over the measured rows, summed over the steps; 0 where all returns are equal."""
    total, left = (x[measured].var(0).sum() for x in (returns, returns - values))
    return (1 - left / total).item() if total > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class ActorCritic(Credit):
    """A_h = sum_{j >= h} (gamma l)^(j-h) delta_j, delta_h = r_h - c_h + gamma V(s_{h+1}) - V(s_h): GAE (Schulman et al.
    2016, arXiv:1506.02438, eq. 16) on the regularised MDP, c_h what the penalty charges for step h, V(s_H) = 0.

    advantage_lambda: l; 1 is unbiased whatever V is, 0 the TD error. target_lambda: what V is fitted to, 1 Monte-Carlo
    returns, 0 r_h - c_h + gamma V(s_{h+1}), else the lambda-return. gamma: rewards and penalty of step h count gamma^h.
    weighted_states: the gamma^h of the true gradient on step h's terms; without it the gradient is biased (Nota & Thomas
    2020, arXiv:1906.07073). rho is the action before step 0: it gets the lambda-return of s_0 and never V(s_0) as baseline.
    Steps that are not trained belong to the trained one before them. Docs: docs/trainers/actor_critic.md has the derivations.
    """

    critic: Critic = field(default_factory=Perceptron)
    advantage_lambda: float = 1.0
    target_lambda: float = 1.0
    gamma: float = 1.0
    weighted_states: bool = True

    def __post_init__(self) -> None:
        for name, low in (("advantage_lambda", 0.0), ("target_lambda", 0.0), ("gamma", 1e-3)):
            if not low <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from {low} to 1")

    def refuse(self, world: World) -> None:
        if not world.policy.trains_denoiser:
            raise ValueError(
                "the denoiser is frozen, so there is no step for a critic to be a baseline of (and rho's must not depend "
                "on s_0): use trainer=ppo or trainer=reinforce, or train the denoiser"
            )

    def equip(self, world: World) -> World:
        return replace(world, critic=self.critic.build(world))

    def assign(self, world: World, trajectory: Trajectory, rewards: StepRewards) -> Credited:
        trained, cost = list(trajectory.trained), world.penalties.step_cost(trajectory)
        assert world.critic is not None, "equip() makes it"
        value = at_trained(world.critic, trajectory, world.capacity.pass_size)
        # everything in units of the start: with gamma^h r_h and gamma^h V_h the recursions are those of gamma 1, whatever
        # steps are trained, and the advantage of step h carries the gamma^h of the gradient
        factors = discount_factors(cost.shape[1] - 1, self.gamma).to(value.device)
        earned = between((rewards.values.double() - cost[:, 1:]) * factors, trajectory.trained)
        first, steps, scaled = earned[:, 0], earned[:, 1:], value * factors[trained]
        states = torch.cat([scaled, torch.zeros_like(first)[:, None]], 1)
        advantage = gae(steps, states, 1.0, self.advantage_lambda, True)
        weight = factors[trained] if self.weighted_states else torch.ones_like(factors[trained])
        table = cost.new_zeros(cost.shape)
        # (1 - l) V(s_0) + l G^l_0, G^l_0 = V(s_0) + A_0
        rho = scaled[:, 0] + self.advantage_lambda * advantage[:, 0]
        table[:, 0] = rewards.initial.double() - cost[:, 0] + first + rho
        table[:, [h + 1 for h in trained]] = advantage / factors[trained] * weight
        targets = td_targets(steps, states, 1.0, self.target_lambda, True) / factors[trained]
        returns = td_targets(steps, states, 1.0, 1.0, True) / factors[trained]
        gathered = (world.processes.gather(x) for x in (returns, value, rewards.measured))
        return Credited(table, weight, targets, {"critic_explained": explained(*gathered)})
