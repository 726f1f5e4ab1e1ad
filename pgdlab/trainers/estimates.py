"""What a matching compares: noised samples, and their estimates by the policies that count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy


@dataclass(frozen=True)
class Estimates:
    """Of P noised samples: x0 itself, and its estimates by the policy now, the one that sampled, and the reference. weight: of
    each time, over the degrees of freedom. block: which rows are compared with one another, numbers below P."""

    x0: Float[Tensor, "P *D"]
    now: Float[Tensor, "P *D"]
    old: Float[Tensor, "P *D"]
    pre: Float[Tensor, "P *D"]
    weight: Float[Tensor, " P"]
    distance: Callable[[Tensor, Tensor], Tensor]
    block: Int[Tensor, " P"]

    def error(self, x: Float[Tensor, "P *D"], y: Float[Tensor, "P *D"]) -> Float[Tensor, " P"]:
        """weight ||x - y||^2, a mean over the degrees of freedom."""
        return self.weight * self.distance(x, y)

    @property
    def log_ratio(self) -> Float[Tensor, " P"]:
        """l_old - l, l = weight ||x_0 - x0hat||^2: what stands for log p(x_0) / p_old(x_0) at this time and noise."""
        return self.error(self.x0, self.old) - self.error(self.x0, self.now)

    def total(self, x: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """For every row the sum over its block."""
        return x.new_zeros(len(x)).index_add(0, self.block, x)[self.block]


def step_of(policy: Policy, t: Tensor) -> Int[Tensor, " P"]:
    """The steps that begin at times t (P,)."""
    return (t[:, None] == policy.times[:-1]).long().argmax(1)
