"""Best-of-n: of n samples of the base, the one with the highest reward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import Extras
from pgdlab.rollout.trajectory import TENSORS, Trajectory
from pgdlab.trainers.interaction import OneShot, Request
from pgdlab.world import World


@dataclass(frozen=True)
class Best:
    """The best of each of N slots so far. value: (N,) its reward, -inf where no candidate could be measured. queries,
    evaluations: reward queries and network rows so far."""

    trajectory: Trajectory
    value: Float[Tensor, " N"]
    queries: int
    evaluations: int


def rounds(samples: int, slots: int) -> list[int]:
    """How many slots get a further candidate in each round: `samples` in all, every slot the same number or one more, and
    at least one."""
    return [min(left, slots) for left in range(max(samples, slots), 0, -slots)]


@torch.no_grad()
def best_of_n(world: World, cond: Int[Tensor, " N"], noise: Noise, samples: int) -> Iterator[Best]:
    """`samples` samples of the base spread over the N slots; what is kept after each round.

    Candidate k of slot i takes the noise (iteration k, index i). Of equal candidates the first one stays, and one that
    cannot be measured never replaces another. Raises RewardError as training does.
    """
    base, extras = world.reference, Extras(estimates=world.reward.needs_estimates())
    best: Best | None = None
    for k, count in enumerate(rounds(samples, len(cond))):
        request = Request(
            policy=base, reference=base, noise=noise.of(k, range(count)), cond=cond[:count], extras=extras
        )
        found = OneShot().collect(world, request)
        value = found.rewards.total.masked_fill(~found.rewards.measured, -math.inf)
        new = Best(found.trajectory, value, found.rewards.queries, found.evaluations)
        best = new if best is None else better(best, new)
        yield best


def better(best: Best, new: Best) -> Best:
    """The first rows of best, replaced where the new candidate is worth more; costs add up."""
    rows = (new.value > best.value[: len(new.value)]).nonzero().squeeze(1)
    tensors = {name: getattr(best.trajectory, name).clone() for name in TENSORS}
    for name, x in tensors.items():
        x[rows] = getattr(new.trajectory, name)[rows]
    value = best.value.index_copy(0, rows, new.value[rows])
    queries, evaluated = best.queries + new.queries, best.evaluations + new.evaluations
    return Best(replace(best.trajectory, **tensors), value, queries, evaluated)


def kl_bound(samples: int, slots: int) -> float:
    """An upper bound, in nats, on KL(kept sample || sample of the base): log n - (n - 1) / n for n candidates, with equality
    where no two rewards are equal (Beirami et al. 2024, arXiv:2401.01879), averaged over the slots."""
    counts = rounds(samples, slots)
    each = [(len(counts), counts[-1]), (len(counts) - 1, slots - counts[-1])]
    return sum(share * (math.log(n) - (n - 1) / n) for n, share in each if share) / slots
