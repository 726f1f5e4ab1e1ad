"""Pairs of samples of which one was preferred: of the policy's own that a reward compares, or of files."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.preferences.gallery import rows_of
from pgdlab.preferences.public import read
from pgdlab.trainers.denoising import Samples
from pgdlab.trainers.interaction import Collected, cost, summarise
from pgdlab.trainers.prompts import prompt_rewards
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Paired(Samples):
    """x0: the preferred sample of each pair, loser: the other one. share: of the vote that x0 has, 1, or 1/2 for a tie."""

    loser: Float[Tensor, "N *D"]
    share: Float[Tensor, " N"]


def compared(world: World, collected: Collected, temperature: float, iteration: int) -> Paired:
    """Neighbours of a group, the one with the larger reward preferred (temperature 0) or with the odds of reward / temperature.
    Those that were not both measured, or are worth the same, are left out."""
    gather, trajectory = world.processes.gather, collected.trajectory
    total, measured = gather(collected.rewards.total.double()), gather(collected.rewards.measured)
    sample, cond = gather(trajectory.sample), gather(trajectory.cond)
    place = torch.arange(len(total), device=total.device).reshape(-1, world.plan.group)
    first, second = (place[:, k : world.plan.group // 2 * 2 : 2].flatten() for k in (0, 1))
    odds, g = total[first] - total[second], world.noise.generator(iteration)
    kept = measured[first] & measured[second] & (odds != 0)
    noise = torch.rand(len(odds), generator=g, dtype=torch.float64).to(odds.device)
    ahead = noise < (odds / temperature).sigmoid() if temperature else odds > 0
    winner, loser = torch.where(ahead, first, second)[kept], torch.where(ahead, second, first)[kept]
    prompts, share = prompt_rewards(world, collected), torch.ones(len(winner), device=sample.device)
    logs = summarise(world, collected) | {"pairs": float(len(winner))} | (prompts.logs if prompts else {})
    paid = cost(world, collected)
    return Paired(
        sample[winner], cond[winner], share, iteration, logs, **paid, prompts=prompts, loser=sample[loser], share=share
    )


@functools.lru_cache(maxsize=2)
def pairs_of(files: tuple[str, ...], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pairs of files of task=annotate: preferred samples, conditions, the others, shares. Raises ValueError where they are
    none of samples of this shape, or compare prompts."""
    pairs = read(files, "pairs")
    sample, cond = rows_of(pairs.sources, shape)
    ahead = pairs.share >= 0.5
    winner = torch.where(ahead, pairs.rows[:, 0], pairs.rows[:, 1])
    loser = torch.where(ahead, pairs.rows[:, 1], pairs.rows[:, 0])
    if bool((cond[winner] != cond[loser]).any()):
        raise ValueError(
            f"{' and '.join(files)} compares samples of different prompts: which is better says nothing of either prompt"
        )
    return (
        sample[winner],
        cond[winner],
        sample[loser],
        torch.where(ahead, pairs.share, 1 - pairs.share).to(sample.dtype),
    )
