"""The linear-quadratic regulator with Gaussian noise: exact costs, and exact optima with and without a KL to a base policy.

x' = A x + B a + w, w ~ N(0, W), x_0 ~ N(0, S_0); step t costs x'^T Q x' + a^T R a of the state that it leads to, times gamma^t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SETTLED, MOST = 1e-13, 100_000  # relative change of the value that ends the recursion without a horizon, and its steps


def matrix(rows: Sequence[Sequence[float]]) -> Float[Tensor, "N M"]:
    """Rows of numbers, in fp64."""
    return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class Solution:
    """A linear-Gaussian policy a ~ N(gains[t] x, covariances[t]) and its exact cost to go x^T square[t] x + constant[t]. One
    entry a step, and of the values one more; without a horizon one of each."""

    gains: Float[Tensor, "T A S"]
    covariances: Float[Tensor, "T A A"]
    square: Float[Tensor, "T1 S S"]
    constant: Float[Tensor, " T1"]

    def cost(self, start: Float[Tensor, "S S"]) -> float:
        """Of a state drawn from N(0, start)."""
        return ((self.square[0] * start).sum() + self.constant[0]).item()

    def cost_from(self, x: Float[Tensor, "B S"], t: int = 0) -> Float[Tensor, " B"]:
        """Of states at step t."""
        return torch.einsum("bi,ij,bj->b", x, self.square[t], x) + self.constant[t]


@dataclass(frozen=True)
class Charged:
    """lam KL(N(gain x, C) || base) of one step: base N(own x, precision^{-1})."""

    own: Float[Tensor, "A S"]
    precision: Float[Tensor, "A A"]
    lam: float

    def of(self, gain: Float[Tensor, "A S"], covariance: Float[Tensor, "A A"]) -> tuple[Tensor, Tensor]:
        """Its part that is square in x, and the constant one."""
        off = gain - self.own
        nats = (self.precision * covariance).sum() - len(covariance) - torch.logdet(self.precision @ covariance)
        return self.lam / 2 * off.T @ self.precision @ off, self.lam / 2 * nats


Rule = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # H and F of a step -> gain and covariance of the action


@dataclass(frozen=True)
class Regulator:
    """The problem, fp64. horizon: steps after which the process has ended; None: it goes on for ever, and gamma is below 1."""

    a: Float[Tensor, "S S"]
    b: Float[Tensor, "S A"]
    q: Float[Tensor, "S S"]
    r: Float[Tensor, "A A"]
    w: Float[Tensor, "S S"]
    horizon: int | None = None
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.horizon is None and not 0 <= self.gamma < 1:
            raise ValueError(f"gamma is {self.gamma}; without a horizon it must be from 0 to below 1")

    def optimum(self, noise: Float[Tensor, "A A"] | None = None) -> Solution:
        """The best gains, K = -H^{-1} F (Riccati's recursion), of policies whose action has this covariance (none if None)."""
        fixed = torch.zeros_like(self.r) if noise is None else noise
        return self.solve(lambda h, f: (-torch.linalg.solve(h, f), fixed))

    def of(self, gain: Float[Tensor, "A S"], covariance: Float[Tensor, "A A"]) -> Solution:
        """The cost of the policy N(gain x, covariance), the same at every step."""
        return self.solve(lambda h, f: (gain, covariance))

    def tilted(self, gain: Float[Tensor, "A S"], covariance: Float[Tensor, "A A"], lam: float) -> Solution:
        """The optimum of E[sum_t gamma^t (cost_t + lam KL(pi(.|x_t) || N(gain x_t, covariance)))]: pi ~ base exp(-Q / lam), with
        precision C^{-1} + 2 H / lam. The KL is in the values   (Levine 2018, arXiv:1805.00909, sec. 2, with the base in the
        place of a uniform prior)."""
        base = Charged(gain, torch.linalg.inv(covariance), lam)

        def tilt(h: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
            own = torch.linalg.inv(base.precision + 2 * h / lam)
            return own @ (base.precision @ gain - 2 * f / lam), own

        return self.solve(tilt, base)

    def solve(self, rule: Rule, charged: Charged | None = None) -> Solution:
        """From the last step to the first; without a horizon until nothing changes. Raises ValueError where it grows."""
        steps: list[tuple[Tensor, Tensor]] = []
        values = [(torch.zeros_like(self.q), self.q.new_zeros(()))]
        for _ in range(MOST if self.horizon is None else self.horizon):
            step, value = self.before(rule, charged, *values[-1])
            settled = all(torch.allclose(x, y, rtol=SETTLED, atol=0) for x, y in zip(value, values[-1], strict=True))
            steps, values = [*steps, step], [*values, value]
            if self.horizon is None and settled:
                break
            if self.horizon is None:
                steps, values = [], values[-1:]
        if not steps or not values[-1][0].isfinite().all():
            raise ValueError("the cost grows without bounds: no such policy holds the state, or gamma is too near 1")
        gains, spreads = zip(*reversed(steps), strict=True)
        squares, constants = zip(*reversed(values), strict=True)
        return Solution(torch.stack(gains), torch.stack(spreads), torch.stack(squares), torch.stack(constants))

    def before(self, rule: Rule, charged: Charged | None, square: Tensor, constant: Tensor) -> tuple[Any, Any]:
        """Gain and covariance of a step, and the value before it, given the value after it. The step's cost to go is a^T H a +
        2 a^T F x + x^T G x + tr(M W) + gamma constant, M = Q + gamma square."""
        m = self.q + self.gamma * square
        h, f, g = self.r + self.b.T @ m @ self.b, self.b.T @ m @ self.a, self.a.T @ m @ self.a
        gain, spread = rule(h, f)
        value = g + f.T @ gain + gain.T @ f + gain.T @ h @ gain
        rest = (h * spread).sum() + (m * self.w).sum() + self.gamma * constant
        more = charged.of(gain, spread) if charged else (torch.zeros_like(value), torch.zeros_like(rest))
        return (gain, spread), (value + more[0], rest + more[1])
