"""lambda by a target: what the tilt of the base is to have, instead of how hot it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

FIGURES = ("kl", "ess", "reward")
SPAN, HALVINGS = 30.0, 60  # of log lambda around the rewards' standard deviation, both ways


class Settling(NamedTuple):
    """A lambda that was found, and the reward queries and network rows that it cost."""

    lam: float | None = None
    queries: int = 0
    evaluations: int = 0


@dataclass(frozen=True, kw_only=True)
class Target:
    """The lambda at which samples of the base, weighed by w = exp(r / lambda), have a given figure, by bisection on its log. The
    figure is a mean over conditions, and one of

        kl       E_w[r] / lambda - log mean(w), which is KL(T_full || base), nats: particles hold log n - 1.5 of them
        ess      mean(w)^2 / mean(w^2), the share of the samples that count
        reward   E_w[r]

    samples: of the base, on noise of their own, for all conditions together; they are part of the budget.
    """

    kl: float | None = None
    ess: float | None = None
    reward: float | None = None
    samples: int = 256

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in FIGURES if getattr(self, name) is not None}
        if len(given) != 1:
            raise ValueError(f"a target is one of {', '.join(FIGURES)}; {' and '.join(given) or 'none'} is given")
        if self.kl is not None and not 0 < self.kl < math.inf:
            raise ValueError(f"kl is {self.kl}; it must be above 0, in nats")
        if self.ess is not None and not 0 < self.ess < 1:
            raise ValueError(f"ess is {self.ess}; it must be a share of the samples, above 0 and below 1")
        if self.samples < 2:
            raise ValueError(f"samples is {self.samples}; it must be at least 2")

    @property
    def figure(self) -> tuple[str, float]:
        """What it is about, and how much of it."""
        return next((name, getattr(self, name)) for name in FIGURES if getattr(self, name) is not None)

    def solve(self, reward: Float[Tensor, " P"], cond: Int[Tensor, " P"]) -> float:
        """lambda of the base's rewards under their conditions. Raises ValueError for a target that none has."""
        groups = [reward[cond == c].double() for c in cond.unique()]
        spread = reward.double().std().item() if len(reward) > 1 else 0.0
        if not spread > 0:
            raise ValueError(f"the {len(reward)} rewards of the base are all equal: no lambda is better than another")
        name, aim = self.figure
        sign = 1 if name == "ess" else -1  # KL and reward fall as lambda rises

        def figure(log_lam: float) -> float:
            return sum(tilt(group, math.exp(log_lam))[name] for group in groups) / len(groups)

        low, high = math.log(spread) - SPAN, math.log(spread) + SPAN
        ends = sorted((figure(low), figure(high)))
        if not ends[0] < aim < ends[1]:
            raise ValueError(
                f"guidance.lam.{name} is {aim:g}, and the rewards of {len(reward)} samples of the base have {ends[0]:.3g} to "
                f"{ends[1]:.3g} for any lambda: take one between, or raise guidance.lam.samples"
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if sign * (figure(middle) - aim) < 0 else (low, middle)
        return math.exp((low + high) / 2)


def tilt(reward: Float[Tensor, " P"], lam: float) -> dict[str, float]:
    """The figures of samples that are weighed by exp(r / lam)."""
    log_w = reward / lam
    log_z = log_w.logsumexp(0) - math.log(len(reward))
    weight = log_w.softmax(0)
    mean = weight @ reward
    nats = weight @ (weight * len(reward)).clamp(min=1e-300).log()  # E_w[r] / lam - log Z, without their difference
    return {
        "kl": nats.item(), "ess": (2 * log_z - ((2 * log_w).logsumexp(0) - math.log(len(reward)))).exp().item(),
        "reward": mean.item(),
    }  # fmt: skip
