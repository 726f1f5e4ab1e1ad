"""A limit on the path KL, whose multiplier is learned."""

from __future__ import annotations

import math

from pgdlab.penalties.path_kl import Form, KLPenalty


class KLConstraint(KLPenalty):
    """max E[sum r] subject to path KL + KL(rho || rho_pre) <= limit nats, by dual ascent on the logarithm of its multiplier

    log lambda <- log lambda + rate (KL / limit - 1), once an iteration; the policy ascends r - lambda KL (KLPenalty).

    The multiplier is that of the Lagrangian r - lambda (KL - limit), as the temperature in Haarnoja et al. 2018
    (arXiv:1812.05905, sec. 5); in its logarithm it stays positive, and goes to 0 where the constraint does not bind. An
    iteration changes it by at most a factor e. multiplier: lambda at the start, reward units per nat.
    """

    def __init__(self, *, limit: float = 5.0, multiplier: float = 0.05, rate: float = 0.05, form: Form = "A") -> None:
        if min(limit, multiplier, rate) <= 0:
            raise ValueError(f"limit is {limit}, multiplier {multiplier}, rate {rate}; all three must be above 0")
        super().__init__(multiplier, None, form)
        self.limit, self.rate = limit, rate

    def adapt(self, kl: float) -> None:
        self.coefficient.mul_(math.exp(min(1.0, self.rate * (kl / self.limit - 1))))
