"""D3PO: direct preference optimisation on the densities of the chain, of two trajectories from one start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.rollout.noise import RowNoise, SampleNoise
from pgdlab.rollout.sampler import Extras
from pgdlab.trainers.chain_pairs import Actions, ChainPairs
from pgdlab.trainers.interaction import Interaction, OneShot, cost, summarise, training_request
from pgdlab.trainers.prompts import prompt_rewards
from pgdlab.world import World


@dataclass(frozen=True)
class OneStart(RowNoise):
    """The noise of samples whose neighbours, 2 k and 2 k + 1, begin with the same numbers."""

    own: SampleNoise

    def __len__(self) -> int:
        return len(self.own)

    def steps(self, start: int, stop: int, steps: int, shape: tuple[int, ...]) -> Iterator[Float[Tensor, "B *D"]]:
        rows, noise = self.own.index[start:stop], self.own.noise
        first = next(noise.steps(self.own.iteration, range(rows.start // 2 * 2, rows.stop, 2), 1, shape))
        yield first.repeat_interleave(2, 0)[rows.start % 2 :][: len(rows)]
        after = noise.steps(self.own.iteration, rows, steps, shape)
        next(after)
        yield from after


@dataclass(frozen=True, kw_only=True)
class D3PO(ChainPairs):
    """-log sigmoid(beta (log w(winner) - log w(loser))) a step (Yang et al. 2023, arXiv:2311.13231, eq. 11), or with the steps
    summed inside, over those with noise. Neighbours of a group begin with the same noise; the one worth more is preferred.

    steps: "sum", whose minimum is the attainable optimum at lambda = beta temperature, or "each", as published, where every step
    alone explains the preference. clamp: of w, to 1 - clamp and 1 + clamp, as published (.1): no gradient beyond; null: none.
    """

    steps: Literal["sum", "each"] = "sum"
    clamp: float | None = None
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clamp is not None and not 0 < self.clamp < 1:
            raise ValueError(f"clamp is {self.clamp}; it must be between 0 and 1, or null")

    @property
    def together(self) -> int:
        return 2

    def reduced(self, log_ratio: Float[Tensor, "R K 2"]) -> Float[Tensor, "R K 2"]:
        if self.clamp is None:
            return log_ratio
        return log_ratio.clamp(math.log1p(-self.clamp), math.log1p(self.clamp))

    @torch.no_grad()
    def collect(self, world: World, iteration: int) -> Actions:
        extras = Extras(estimates=world.reward.needs_estimates(), states=True)
        request = training_request(world, iteration, (), extras)
        assert isinstance(request.noise, SampleNoise)
        collected = self.interaction.collect(world, replace(request, noise=OneStart(request.noise)))
        trajectory, rewards, index = collected.trajectory, collected.rewards, request.noise.index
        total, measured = rewards.total.double().reshape(-1, 2), rewards.measured.reshape(-1, 2).all(1)
        odds = total[:, 0] - total[:, 1]
        u = world.noise.uniform(iteration, index, 1)[::2, 0].to(odds)
        ahead = u < (odds / self.temperature).sigmoid() if self.temperature else odds > 0
        pair = (measured & (odds != 0)).nonzero()[:, 0]
        winner = 2 * pair + (~ahead[pair]).long()
        rows = torch.stack([winner, 4 * pair + 1 - winner], -1)  # T, 2
        h = torch.tensor(world.policy.stochastic_steps, device=rows.device)
        state = rows[:, None] * trajectory.states.shape[1] + h[:, None]
        step, cond = h.expand(len(pair), -1), trajectory.cond[winner]
        if self.steps == "each":
            state, step, cond = state.reshape(-1, 1, 2), step.reshape(-1, 1), cond.repeat_interleave(len(h), 0)
        prompts = prompt_rewards(world, collected)
        logs = summarise(world, collected) | (prompts.logs if prompts else {})
        logs["pairs"] = float(self.numbered(world, len(pair))[1])
        first, terms = self.numbered(world, len(state))
        return Actions(
            points=trajectory.states.flatten(0, 1), state=state, action=state + 1, step=step, cond=cond,
            share=torch.ones(len(cond), device=cond.device), first=first, total=terms, iteration=iteration, logs=logs,
            prompts=prompts, **cost(world, collected),
        )  # fmt: skip
