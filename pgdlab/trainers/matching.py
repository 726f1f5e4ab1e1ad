"""Matching: the estimates on noised final samples follow their advantage, and are held to the reference's."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.credit.critic import Critic, Perceptron
from pgdlab.diffusion.policy import Policy
from pgdlab.functional.returns import advantages
from pgdlab.trainers.base import Loss
from pgdlab.trainers.denoising import NoisyBatch, Samples, noisy
from pgdlab.trainers.estimates import Estimates, step_of
from pgdlab.trainers.interaction import groups_of
from pgdlab.trainers.own_samples import OwnSamples
from pgdlab.world import World

Target = Literal["noise", "v"]


@dataclass(frozen=True, kw_only=True)
class Matched(Samples):
    """weight: the advantage in the group; group: which one that is, in order, from 0."""

    group: Int[Tensor, " N"]


@dataclass(frozen=True, kw_only=True)
class Matching(OwnSamples):
    """Minimises E[match(A) + coefficient w_h ||x0hat - x0hat_pre||^2], x_h a final sample noised to a step h of the sampler, A
    its reward less that of its group and less critic(x_h), which is fitted to what is left: E[A | x_h] = 0. Every match has
    the gradient of A w_h ||x_0 - x0hat||^2 where the policy is the one that sampled, and so one fixed point,

        x0hat = x0hat_pre + Cov(r, x_0 | x_h) / coefficient   under the policy's own samples, whatever the w_h are.

    coefficient: lambda, reward units a nat; at 0 there is no optimum. critic: null leaves the group's baseline alone, and then no
    optimum where E[A | x_h] < -coefficient. target: w_h is (alpha / sigma)^2, the error of the noise, or 1 / sigma^2, that of
    v. decay: of the old policy, which samples, at the beginning of an iteration; 0: it is the policy.
    """

    coefficient: float = 0.1
    critic: Critic | None = field(default_factory=Perceptron)
    target: Target = "noise"
    decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coefficient < 0 or not 0 <= self.decay < 1:
            raise ValueError(
                f"coefficient is {self.coefficient}, decay {self.decay}; they must be at least 0, and decay below 1"
            )

    @abstractmethod
    def match(self, at: Estimates, advantage: Float[Tensor, " P"], largest: Tensor) -> Float[Tensor, " P"]:
        """What is minimised, without the KL. largest: the largest |A| of the iteration, before the critic."""

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if world.plan.group == 1:
            raise ValueError("plan.group is 1: a sample is compared with its group; set plan.group to 2 or more")

    def equip(self, world: World) -> World:
        critic = self.critic.build(world) if self.critic else None
        return replace(world.with_old(), critic=critic)

    def kept(self, world: World) -> dict[str, Tensor]:
        return dict(world.old.copies(world.policy)) if self.decay and world.old else {}

    def collect(self, world: World, iteration: int) -> Matched:
        """Of the measured samples."""
        samples, measured = self.drawn(world, iteration, self.decay)
        groups = groups_of(world)
        gain, _ = advantages(samples.weight[:, None], measured, groups, "group")
        same = {f.name: getattr(samples, f.name) for f in fields(Samples)}
        same |= {"x0": samples.x0[measured], "cond": samples.cond[measured], "weight": gain[measured, 0]}
        if self.coefficient and self.critic is None:
            unheld = (same["weight"] < -self.coefficient).double().mean().item()
            same["logs"] = samples.logs | {"unheld": unheld}
        return Matched(**same, group=groups[measured])

    def drawn_times(self, policy: Policy, u: Float[Tensor, " B"]) -> Tensor:
        return policy.times[(u * policy.steps).long().to(policy.device)].to(u.device)

    def estimates(self, x0: Tensor, x: Tensor, piece: NoisyBatch, world: World) -> tuple[Estimates, int]:
        """Of samples x0 noised to x, and how many network rows they took."""
        t, cond, denoiser, rows = piece.t, piece.cond, world.policy.denoiser, len(x0)
        now = denoiser(x, t, cond)
        old, pre = now.detach(), now.detach()
        with torch.no_grad():
            if self.updates > 1 or self.decay:
                assert world.old is not None, "equip() makes it"
                old, rows = world.old.denoiser(x, t, cond), rows + len(x0)
            if self.coefficient:
                pre, rows = world.reference.denoiser(x, t, cond), rows + len(x0)
        alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
        weight = ((alpha if self.target == "noise" else 1) / sigma).square() / world.policy.space.dof(cond)
        distance = partial(world.policy.space.squared_distance, cond=cond)
        return Estimates(x0, now, old, pre, weight, distance, piece.block), rows

    def loss(self, experience: Samples, piece: NoisyBatch, world: World) -> Loss:
        x0, gain = experience.x0[piece.rows], experience.weight[piece.rows]
        x = noisy(world.policy.denoiser, x0, piece.t, piece.noise.to(x0.dtype))
        at, rows = self.estimates(x0, x, piece, world)
        total, count = torch.zeros_like(gain), float(len(x0))
        kl = at.error(at.now, at.pre)
        logs = {"matching_kl": (kl.detach().sum(), count), "moved": (at.error(at.now, at.old).detach().sum(), count)}
        if world.critic is not None:
            value = world.critic(x, step_of(world.policy, piece.t), piece.cond).double()
            off = (value - gain).square()
            total, gain = off / 2, gain - value.detach()
            logs["critic_loss"] = (off.detach().sum(), count)
        total = total + self.match(at, gain, experience.weight.abs().max()) + self.coefficient * kl
        return Loss(total.sum() / piece.count, rows, logs)
