"""Metropolis: a Markov chain over the noise of whole paths, whose law is the tilt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.guidance.base import Source, Steered, Tilt
from pgdlab.guidance.best_of_n import candidates, rounds
from pgdlab.guidance.noises import Kept, drawn
from pgdlab.guidance.soft_best_of_n import gumbel


@dataclass(frozen=True, kw_only=True)
class Metropolis(Tilt):
    """The noise z of a whole path moves by z' = sqrt(1 - step^2) z + step xi, which leaves N(0, I) as it is, and is accepted with
    probability min(1, exp((r' - r) / lam)): preconditioned Crank-Nicolson (Cotter et al. 2013, arXiv:1202.0709; as a
    sampler of rewarded diffusion: Yoon et al. 2025, arXiv:2506.01320). T_full is its law, at any eta, 0 too, whatever the number
    of steps; what is left of the start fades with the moves. A slot is a chain, a move costs it one query.

    step: 1 draws anew every time. first: candidates of the soft best-of-n that a chain begins with; None: a quarter of them all.
    """

    step: float = 0.5
    first: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step <= 1:
            raise ValueError(f"step is {self.step}; it must be above 0 and at most 1")
        if self.first is not None and self.first < 1:
            raise ValueError(f"first is {self.first}; it must be at least 1: a chain begins somewhere")

    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.refuse(source)
        slots = len(source.cond)
        counts = rounds(queries, slots)
        first = max(1, len(counts) // 4) if self.first is None else self.first
        z = drawn(source, 0, slots)
        kept = candidates(source, Kept(z), self.ratio)
        log_w = self.log_weight(kept)
        best = log_w + gumbel(source.noise, 0, slots).to(log_w)
        accepted = tried = 0
        yield kept
        for k, count in enumerate(counts[1:], 1):
            fresh = drawn(source, k, count)
            other = fresh if k < first else math.sqrt(1 - self.step**2) * z[:count] + self.step * fresh
            new = candidates(source, Kept(other), self.ratio)
            weight = self.log_weight(new)
            if k < first:
                key = weight + gumbel(source.noise, k, count).to(weight)
                take = key > best[:count]
                best[:count] = torch.maximum(best[:count], key)
            else:
                take = self.accepts(source, k, log_w[:count], weight)
                accepted, tried = accepted + int(take.sum()), tried + count
            kept = kept.taking(new, take)
            rows = take.nonzero().squeeze(1)
            log_w[rows] = weight[rows]
            z[rows.to(z.device)] = other[rows.to(z.device)]
            yield replace(kept, figures={"moves": tried / slots, "accepted": accepted / tried if tried else None})

    def accepts(
        self, source: Source, k: int, log_w: Float[Tensor, " N"], proposed: Float[Tensor, " N"]
    ) -> Bool[Tensor, " N"]:
        """Which moves are made. One that cannot be measured is not, one away from what could not be measured is."""
        u = source.noise.uniform(k, range(len(log_w)), 1)[:, 0].to(log_w)
        return proposed.isfinite() & ((u.log() < proposed - log_w) | ~log_w.isfinite())
