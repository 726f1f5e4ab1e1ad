"""Soft best-of-n: one of n samples, drawn with weights exp(r / lam)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.guidance.base import Source, Steered, Tilt, means
from pgdlab.guidance.best_of_n import candidates, kl_bound, rounds
from pgdlab.guidance.particles import evidence
from pgdlab.rollout.noise import Noise


@dataclass(frozen=True, kw_only=True)
class SoftBestOfN(Tilt):
    """Of n candidates a slot, on the noise of best-of-n, one with probability proportional to exp(r / lam): importance
    resampling (Rubin 1987; Verdun et al. 2025, arXiv:2505.03156), off T_full by O(1/n). No candidate but the kept one is stored:
    the highest log w + g, g Gumbel numbers, is such a draw (Gumbel 1954)."""

    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.refuse(source)
        slots = len(source.cond)
        counts = rounds(queries, slots)
        kept: Steered | None = None
        for k, count in enumerate(counts):
            new = candidates(source, source.noise.of(k, range(count)), self.ratio)
            log_w = self.log_weight(new)
            key = log_w + gumbel(source.noise, k, count).to(log_w)
            if kept is None:
                kept, best, sums = new, key, torch.stack([log_w, 2 * log_w])
            else:
                kept = kept.taking(new, key > best[:count])
                best[:count] = torch.maximum(best[:count], key)
                sums[:, :count] = torch.logaddexp(sums[:, :count], torch.stack([log_w, 2 * log_w]))
            n = torch.tensor([k + 1 if slot < count else k for slot in range(slots)]).to(log_w)
            bound = {} if source.tuned else {"kl_bound_nats": kl_bound(sum(counts[: k + 1]), slots)}
            yield replace(kept, figures=self.figures(kept, sums, n) | bound)

    def figures(
        self, kept: Steered, sums: Float[Tensor, "2 N"], n: Float[Tensor, " N"]
    ) -> dict[str, float | int | None]:
        """Of summary.json. sums: logs of the sums of w and w^2; n: candidates of each slot."""
        known = ~sums[0].isneginf()
        ess = (2 * sums[0] - sums[1]).exp()[known]
        found = evidence((sums[0] - n.log())[known], kept.value.double()[known], self.temperature)
        return {"ess": means(ess)[0], "lost_slots": int((~known).sum()), **found}


def gumbel(noise: Noise, k: int, slots: int) -> Float[Tensor, " N"]:
    """Gumbel numbers of candidate k of every slot."""
    u = noise.uniform(k, range(slots), 1)[:, 0].clamp(min=math.ulp(0.0))
    return -(-u.log()).log()
