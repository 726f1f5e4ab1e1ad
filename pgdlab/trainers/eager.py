"""The eager policy gradient: whole samples, not single steps, are made likelier."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from pgdlab.rollout.trajectory import Pairs, pick
from pgdlab.trainers.denoising import unguided
from pgdlab.trainers.experience import Experience
from pgdlab.trainers.policy_gradient import PolicyGradient, Terms
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Eager(PolicyGradient):
    """sum_h log p(x_0|x_h) A_h: REINFORCE with the log-likelihood of the final sample, given the states that led to it, in
    the place of the step's   (GDPO: Liu et al. 2024, arXiv:2402.16302, eq. 9). log p(x_0|x_h) is minus Denoiser.loss().

    Biased: not the gradient of J. It has no density of the steps, so no path KL and no initial distribution; either is
    refused. One update per rollout.
    """

    def refuse(self, world: World) -> None:
        super().refuse(world)
        unguided(world)
        if world.policy.trains_initial or len(world.penalties):
            raise ValueError(
                "the eager gradient is not of the chain's densities, so it has no path KL and no gradient for the initial "
                "distribution: set initial=standard penalty=none"
            )

    def differentiates_sampling(self, world: World, pairs: int) -> bool:
        return False  # sampling estimates, and does not score, the sample

    def step_loss(self, experience: Experience, pairs: Pairs, world: World) -> Terms:
        """Sum over the pairs of -A log p(x_0|x_h)."""
        trajectory, policy = experience.trajectory, world.policy
        x, x0 = trajectory.at(pairs.state), trajectory.sample[pairs.row]
        off = policy.denoiser.loss(x, x0, policy.times[pairs.step], pairs.cond)
        advantage = pick(experience.advantage, pairs.index).to(off.dtype)
        return (advantage * off).double().sum(), {"denoising_loss": (off.detach().sum(), float(len(off)))}

    def initial_loss(self, experience: Experience, rows: Int[Tensor, " R"], world: World) -> Terms:
        raise AssertionError("refuse() keeps runs out that train the initial distribution")
