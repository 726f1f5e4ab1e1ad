"""Best-of-n: of n samples, the one with the highest reward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.guidance.base import Guidance, Source, Steered
from pgdlab.rollout.noise import Noise, RowNoise
from pgdlab.trainers.interaction import OneShot
from pgdlab.world import World


def rounds(samples: int, slots: int) -> list[int]:
    """How many slots get a further candidate in each round: `samples` in all, every slot the same number or one more, and
    at least one."""
    return [min(left, slots) for left in range(max(samples, slots), 0, -slots)]


@torch.no_grad()
def candidates(source: Source, noise: RowNoise, ratio: bool = False) -> Steered:
    """A sample for each of the first slots, one a row of the noise. ratio: with densities relative to the base's."""
    found = OneShot().collect(source.world, source.request(noise, source.cond[: len(noise)], ratio))
    value = found.rewards.total.masked_fill(~found.rewards.measured, -math.inf)
    return Steered(found.trajectory, value, found.rewards.queries, found.evaluations)


@dataclass(frozen=True, kw_only=True)
class BestOfN(Guidance):
    """The candidate with the highest reward, as many a slot as the queries pay for. Candidate k of slot i takes the noise
    (iteration k, index i). Of equal candidates the first one stays, and one that cannot be measured never replaces another.
    Its density is n p(x) F(r(x))^(n-1), F the distribution of rewards: no tilt for any lambda.
    """

    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        best: Steered | None = None
        slots = len(source.cond)
        figures = {} if source.tuned else {"kl_bound_nats": kl_bound(queries, slots)}
        for k, count in enumerate(rounds(queries, slots)):
            new = candidates(source, source.noise.of(k, range(count)))
            best = new if best is None else best.taking(new, new.value > best.value[: len(new.value)])
            yield replace(best, figures=figures)


def best_of_n(world: World, cond: Int[Tensor, " N"], noise: Noise, samples: int) -> Iterator[Steered]:
    """`samples` samples of the base spread over the N slots; what is kept after each round."""
    return BestOfN().steer(Source(world, world.reference, cond, noise), samples)


def kl_bound(samples: int, slots: int) -> float:
    """An upper bound, in nats, on KL(kept sample || sample of the base): log n - (n - 1) / n for n candidates, with equality
    where no two rewards are equal (Beirami et al. 2024, arXiv:2401.01879), averaged over the slots."""
    counts = rounds(samples, slots)
    each = [(len(counts), counts[-1]), (len(counts) - 1, slots - counts[-1])]
    return sum(share * selection_bound(n) for n, share in each if share) / slots


def selection_bound(n: int) -> float:
    """The bound of one choice among n independent candidates, whatever it is made by."""
    return math.log(n) - (n - 1) / n
