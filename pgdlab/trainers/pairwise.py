"""The base of trainers that learn from pairs: how much better than the reference the network explains either sample."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.rollout.sampler import Extras
from pgdlab.trainers.base import Loss, refuse_ode
from pgdlab.trainers.denoising import DenoisingAlgorithm, NoisyBatch, Samples, in_blocks, noisy
from pgdlab.trainers.interaction import Interaction, OneShot, training_request
from pgdlab.trainers.paired import Paired, compared, pairs_of
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Pairwise(DenoisingAlgorithm):
    """g(x) = weight(t) (l_ref(x_t) - l(x_t)): how much better than the reference the network denoises x, at a time and with a
    noise that both samples of a pair share. l is Denoiser.loss, a mean over dimensions.

    pairs: files of task=annotate, whose samples are learned from as they are (offline); none: neighbours of a group of the
    policy's own samples, the one with the larger reward preferred, with the odds of a reward in units of `temperature` above 0.
    times: so many drawn a pair, each of which explains the preference alone; or "all", the sampler's own, summed. weight: `eps`
    is alpha^2, which makes l the squared error of the noise; `v` is 1.
    """

    pairs: tuple[str, ...] = ()
    temperature: float = 0.0
    times: int | Literal["all"] = 1
    weight: Literal["eps", "v"] = "eps"
    updates: int = 8
    batch: int = 64
    drop: float = 0.0
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times != "all" and self.times < 1:
            raise ValueError(f"times is {self.times}; it must be at least 1, or all")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0, in reward units")
        if self.pairs and self.temperature:
            raise ValueError(
                "temperature is of a reward that compares the policy's own samples; pairs of a file have their answers"
            )

    @abstractmethod
    def contrast(
        self, winner: Float[Tensor, "P K"], loser: Float[Tensor, "P K"], share: Float[Tensor, " P"]
    ) -> tuple[Tensor, Tensor]:
        """The losses of P pairs, given g at K times, and the log odds (P, ...) that they stand for."""

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if world.policy.trains_initial or len(world.penalties):
            raise ValueError(
                "learning from pairs trains the denoiser and takes no penalty (trainer.beta holds it near the base): set "
                "initial=standard penalty=none"
            )
        if self.pairs:
            pairs_of(tuple(self.pairs), tuple(world.policy.space.shape))
            return
        refuse_ode(world.policy)
        world.processes.share(world.plan.samples)
        if world.plan.group < 2:
            raise ValueError("pairs are made of samples of one group: set plan.group to 2 or more")

    @torch.no_grad()
    def collect(self, world: World, iteration: int) -> Paired:
        if self.pairs:
            table = pairs_of(tuple(self.pairs), tuple(world.policy.space.shape))
            x0, cond, loser, share = (part.to(world.device) for part in table)
            return Paired(x0, cond, share, iteration, loser=loser, share=share)
        extras = Extras(estimates=world.reward.needs_estimates())
        collected = self.interaction.collect(world, training_request(world, iteration, (), extras))
        return compared(world, collected, self.temperature, iteration)

    def micro_batches(self, experience: Samples, update: int, world: World) -> list[NoisyBatch]:
        """As in the base, with the times of a pair one after another."""
        if not len(experience.x0):
            return []
        g, size, rows = (
            world.noise.generator(experience.iteration, 10 + update),
            self.batch,
            self.rows(experience, update, world),
        )
        if self.times == "all":
            t = world.policy.times[: world.policy.steps].cpu().expand(size, -1)
        else:
            many = size * self.times
            spread = (torch.arange(many) + torch.rand(many, generator=g)) / many
            t = world.policy.denoiser.schedule.spread(spread).reshape(self.times, size).T
        count, pair = t.shape[1], torch.arange(size).repeat_interleave(t.shape[1])
        noise = torch.randn(size * count, *experience.x0.shape[1:], generator=g)
        cond, hidden = experience.cond.cpu()[rows[pair]], torch.rand(size, generator=g) < self.drop
        return in_blocks(world, rows[pair], t.flatten(), noise, cond, pair, hidden, size, width=2)

    def loss(self, experience: Samples, piece: NoisyBatch, world: World) -> Loss:
        assert isinstance(experience, Paired)
        x0 = torch.cat([experience.x0[piece.rows], experience.loser[piece.rows]])
        t, cond, denoiser = piece.t.repeat(2), torch.cat([piece.cond, piece.cond]), world.policy.denoiser
        x = noisy(denoiser, x0, t, piece.noise.to(x0.dtype).repeat(2, *(1,) * (x0.ndim - 1)))
        with torch.no_grad():
            before = world.reference.denoiser.loss(x, x0, t, cond)
        gain = before - denoiser.loss(x, x0, t, cond)
        gain = gain * denoiser.schedule.alpha(t).to(gain) ** 2 if self.weight == "eps" else gain
        count = world.policy.steps if self.times == "all" else self.times
        winner, loser = gain.reshape(2, -1, count)
        share = experience.share[piece.rows[::count]].to(gain)
        each, odds = self.contrast(winner, loser, share)
        pairs, decided = float(len(share)), share != 0.5
        right = (odds > 0).to(gain).reshape(len(share), -1).mean(1)[decided]
        logs = {
            "preference_accuracy": (right.sum(), float(len(right))), "log_odds": (odds.detach().sum() / odds[0].numel(), pairs),
            "winner_gain": (winner.detach().mean(1).sum(), pairs), "loser_gain": (loser.detach().mean(1).sum(), pairs),
        }  # fmt: skip
        return Loss(each.sum() / piece.count, 2 * len(x0), logs)
