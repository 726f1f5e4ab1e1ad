"""Trust regions: how far one iteration may move the policy, and how far the policy may be from the reference."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.penalties.base import Around, Penalty
from pgdlab.penalties.path_kl import PathKL


class TrustRegion(Around):
    """Steps whose exact KL(pi_h || pi_h^old) at their state is above `limit` nats take no part in the surrogate, whatever
    the sign of their advantage; old is the policy that sampled them.

    The condition is that of trust-region PPO (Wang et al. 2019, "Truly proximal policy optimization", arXiv:1903.07940,
    sec. 4.2), which the ratio's clip only stands in for. It acts from the second update of a rollout on. penalty: what
    else is charged; its differentiated cost goes on for masked steps, and rho is not masked.
    """

    def __init__(self, *, penalty: Penalty, limit: float = 0.05) -> None:
        super().__init__(penalty)
        if limit <= 0:
            raise ValueError(f"limit is {limit}; it is a positive number of nats of one step")
        self.limit = limit

    def needs_means(self) -> bool:
        return True

    def trusted(self, kl: Float[Tensor, " P"]) -> Bool[Tensor, " P"]:
        return (kl <= self.limit) & super().trusted(kl)


class KLConstraint(Around):
    """max E[sum r] subject to path KL + KL(rho || rho_pre) <= limit nats, by dual ascent on the logarithm of its multiplier

    log lambda <- log lambda + rate (KL / limit - 1), once an iteration; the policy ascends r - lambda KL (PathKL).

    The multiplier is that of the Lagrangian r - lambda (KL - limit), as the temperature in Haarnoja et al. 2018
    (arXiv:1812.05905, sec. 5); in its logarithm it stays positive, and goes to 0 where the constraint does not bind. An
    iteration changes it by at most a factor e. multiplier: lambda at the start, reward units per nat.
    """

    def __init__(
        self, *, limit: float = 5.0, multiplier: float = 0.05, rate: float = 0.05, form: Literal["A", "B"] = "A"
    ) -> None:
        if min(limit, multiplier, rate) <= 0:
            raise ValueError(f"limit is {limit}, multiplier {multiplier}, rate {rate}; all three are above 0")
        super().__init__(PathKL(coefficient=multiplier, form=form))
        self.limit, self.rate = limit, rate

    def update(self, kl: float) -> None:
        assert isinstance(self.penalty, PathKL)
        self.penalty.coefficient.mul_(math.exp(min(1.0, self.rate * (kl / self.limit - 1))))
