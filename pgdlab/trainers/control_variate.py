"""A learned reward as a control variate: its gradient is carried back along the trajectories, what it misses is left to PPO."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.credit.critic import Critic, Perceptron
from pgdlab.credit.learned_reward import LearnedReward, explained
from pgdlab.credit.reward_to_go import Credited, returns_table
from pgdlab.functional import surrogates
from pgdlab.functional.returns import Baseline, advantages
from pgdlab.rollout.sweep import Adjoints, Sweep
from pgdlab.rollout.trajectory import Pairs, pick
from pgdlab.trainers.experience import Experience
from pgdlab.trainers.interaction import Collected, Interaction, OneShot, groups_of
from pgdlab.trainers.pathwise import Pathwise, Pulled
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class ControlVariate(Pathwise):
    """grad E[r - cost] = E[sum_h grad log pi_h (r - f)] + grad E[f - cost], f a regression of earlier rewards on their samples:
    the first part by PPO's surrogate of what f misses, the second by the chain rule through the sampler (DRaFT's sweep). Unbiased
    whatever f is, because the iteration's own rewards are not in it; where f explains them, nothing of the score's noise is left.
    (After Q-Prop: Gu et al. 2017, arXiv:1611.02247; control variates of Grathwohl et al. 2018, arXiv:1711.00123.)

    The reward needs no gradient, and decoding none. model: of f. memory: scored samples that f is fitted to, the last ones; fits:
    its updates an iteration; rate: their learning rate. clip, epochs, minibatches: as PPO.
    """

    needs_slope: ClassVar[bool] = False

    baseline: Baseline = "leave_one_out"
    clip: float = 0.2
    epochs: int = 2
    minibatches: int = 4
    model: Critic = field(default_factory=Perceptron)
    memory: int = 4096
    fits: int = 100
    rate: float = 0.003
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("clip", "memory", "fits", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if world.policy.trains_initial or not world.policy.trains_denoiser:
            raise ValueError(
                "the control variate is of the denoiser's steps: set initial=standard, and train the denoiser"
            )

    def equip(self, world: World) -> World:
        like = torch.zeros(world.policy.space.shape, device=world.device)
        model = LearnedReward(self.model.build(world), like, self.memory, self.fits, 256, self.rate)
        return replace(super().equip(world), critic=model.to(world.device))

    def kept(self, world: World) -> dict[str, Tensor]:
        return {f"learned_reward.{name}": x for name, x in self.learned(world).state_dict().items()}

    def learned(self, world: World) -> LearnedReward:
        """f."""
        assert isinstance(world.critic, LearnedReward), "equip() makes it"
        return world.critic

    def credited(self, world: World, collected: Collected) -> tuple[Credited, Float[Tensor, "N H1"], float]:
        """Of what f misses; the cost of later steps goes the way of f."""
        rewards, trajectory, gather = collected.rewards, collected.trajectory, world.processes.gather
        guess = self.learned(world).at(trajectory.sample, trajectory.cond)
        table, measured = returns_table(rewards) - guess[:, None], gather(rewards.measured)
        advantage, scale = advantages(gather(table), measured, groups_of(world), self.baseline)
        earned, told = gather(rewards.total.double())[measured], gather(guess)[measured]
        return Credited(table, None, table[:, :0], {"reward_explained": explained(earned, told)}), advantage, scale

    def adjoints(self, world: World, collected: Collected, down_to: int) -> Adjoints:
        trajectory, penalties = collected.trajectory, world.penalties
        cost = penalties.loss_term if penalties.needs_reference() else None
        sweep = Sweep(policy=world.policy, reference=world.reference, lean=False, cost=cost)
        slope = self.learned(world).slope(trajectory.sample, trajectory.cond)
        return sweep.carry(trajectory, slope, down_to=down_to, capacity=world.capacity)

    def completed(self, experience: Experience, collected: Collected, world: World) -> Pulled:
        """Then f hears the iteration's rewards, for the next one."""
        done = super().completed(experience, collected, world)
        trajectory, rewards, gather = collected.trajectory, collected.rewards, world.processes.gather
        sample, cond, reward = gather(trajectory.sample), gather(trajectory.cond), gather(rewards.total.double())
        kept, draws = experience.measured.to(reward.device), world.noise.generator(experience.iteration, 6)
        self.learned(world).learn(sample[kept], cond[kept], reward[kept], draws)
        return done

    def gain(self, experience: Experience, pairs: Pairs, score: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        trajectory = experience.trajectory
        log_ratio = score - pick(trajectory.log_prob, pairs.index)
        advantage = pick(experience.advantage, pairs.index).to(score.dtype)
        return surrogates.ppo_clip(log_ratio, advantage, -self.clip, self.clip)
