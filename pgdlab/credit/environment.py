"""Credit of a closed loop: GAE over the environment's steps, shared by the denoising steps of each action."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.credit.actor_critic import explained
from pgdlab.credit.critic import Critic, Observed
from pgdlab.credit.reward_to_go import Credit, Credited
from pgdlab.diffusion.values import ObservationValue
from pgdlab.functional.credit import episodic_gae
from pgdlab.rewards.base import StepRewards
from pgdlab.rollout.trajectory import Trajectory, initial_kl
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Environment(Credit):
    """A_t = sum_{j >= t} (gamma l)^(j-t) delta_j over the chunks of an episode, delta_t = r_t - c_t + gamma V(o_t) - V(s_t), V on
    the observation (functional.credit.episodic_gae); denoising step k of chunk t gets gamma_denoise^(steps after it) A_t
    (DPPO: Ren et al. 2024, arXiv:2409.00588, sec. 4). o_t is the observation that chunk t leads to, before any reset.

    gamma: a chunk; gamma_lambda: l. c_t is what penalties charge for chunk t: step k of it answers for what later steps and
    chunks are charged, and its own is differentiated. rho is an action too, and is not discounted by gamma_denoise.
    """

    critic: Critic = field(default_factory=Observed)
    gamma: float = 0.99
    gamma_lambda: float = 0.95
    gamma_denoise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("gamma", "gamma_lambda", "gamma_denoise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    def refuse(self, world: World) -> None:
        if world.domain.decoder.gives != "actions":
            raise ValueError(
                f"credit is over an environment's steps, and domain={world.domain.name} has none: leave it out"
            )

    def equip(self, world: World) -> World:
        return replace(world, critic=self.critic.build(world))

    def assign(self, world: World, trajectory: Trajectory, rewards: StepRewards) -> Credited:
        episodes, value = rewards.episodes, world.critic
        assert episodes is not None, "refuse()"
        assert isinstance(value, ObservationValue), "equip()"
        table, cost = episodes.table, self.charged(world, trajectory)
        with torch.no_grad():
            now, after = (value.at(cond).double() for cond in (trajectory.cond, episodes.after))
        paid = rewards.values.double().sum(1) - cost.sum(1)
        ended, cut = (table(x.to(paid.device)) for x in (episodes.terminated, episodes.truncated))
        paid = paid.where(rewards.measured, now - self.gamma * after)  # of a failure: no error
        gained = episodic_gae(
            table(paid), table(now), table(after), ended, cut, self.gamma, self.gamma_lambda
        ).flatten()
        target = now + gained
        # of its own chunk an action answers for what return_cost says; gained has all of it
        own = gained[:, None] + cost.sum(1, keepdim=True) - world.penalties.return_cost(trajectory)
        trained = list(trajectory.trained)
        weight = self.gamma_denoise ** torch.arange(len(trained) - 1, -1, -1, dtype=torch.float64, device=own.device)
        credited = torch.zeros_like(own)
        credited[:, 0], credited[:, [h + 1 for h in trained]] = own[:, 0], own[:, [h + 1 for h in trained]] * weight
        targets = target[:, None].expand(-1, max(1, len(trained)))
        gathered = (world.processes.gather(x) for x in (target[:, None], now[:, None], rewards.measured))
        return Credited(credited, weight, targets, {"critic_explained": explained(*gathered)}, spread=gained)

    def charged(self, world: World, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        """What penalties charge for rho and for each step. The exact KL of rho is among it: later chunks' is a cost of now's."""
        cost = world.penalties.step_cost(trajectory)
        if world.policy.trains_initial:
            with torch.no_grad():
                nats = initial_kl(world.policy, world.reference, trajectory.cond)
                cost[:, 0] += world.penalties.initial_loss_term(nats).double()
        return cost
