"""Rewards of intermediate states, through the frozen reference's x0 estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pgdlab.rewards.base import Outcome, Reward, Score, StepRewards


def estimate_score(reward: Reward, outcome: Outcome, h: int) -> Score:
    """The reward of state h: of its x0 estimate, and for h = H of the sample itself."""
    if h == outcome.steps:
        return reward.scored(outcome.sample, outcome.cond)
    if outcome.estimate is None:
        raise ValueError(f"{type(reward).__name__} looks at intermediate states: the outcome came without estimates")
    return reward.scored(outcome.estimate(h), outcome.cond)


class EveryStep(Reward):
    """weight * reward of the state that every action leads to: r_h = weight * reward(x0hat(s_{h+1})), the sample itself
    at the last. score() is the wrapped reward's. Parts: those of the final sample, and "final", its value.
    """

    def __init__(self, *, reward: Reward, weight: float = 1.0) -> None:
        super().__init__()
        self.reward, self.weight = reward, weight

    def needs_estimates(self) -> bool:
        return True

    def score(self, sample: Any, cond: Tensor) -> Score:
        return self.reward.scored(sample, cond)

    def forward(self, outcome: Outcome) -> StepRewards:
        scores = [estimate_score(self.reward, outcome, h + 1) for h in range(outcome.steps)]
        values = self.weight * torch.stack([s.value.double() for s in scores], 1)
        measured = torch.stack([s.measured for s in scores]).all(0)
        parts = {**scores[-1].parts, "final": scores[-1].value}
        return StepRewards(values, torch.zeros_like(values[:, 0]), measured, parts)


class Shaped(Reward):
    """r_h + Phi(s_{h+1}) - Phi(s_h), Phi(s_H) = 0: the optimal policy stays the same
    (Ng, Harada & Russell 1999, "Policy invariance under reward transformations", theorem 1).

    Phi(s_h) is the potential's value of the x0 estimate of state h. The actions together lose Phi(s_0), which no action
    can change; `initial` returns it, so that the initial distribution sees the unshaped return.
    """

    def __init__(self, *, reward: Reward, potential: Reward, weight: float = 1.0) -> None:
        super().__init__()
        self.reward, self.potential, self.weight = reward, potential, weight

    def needs_estimates(self) -> bool:
        return True

    def score(self, sample: Any, cond: Tensor) -> Score:
        return self.reward.scored(sample, cond)

    def forward(self, outcome: Outcome) -> StepRewards:
        paid = self.reward(outcome)
        scores = [estimate_score(self.potential, outcome, h) for h in range(outcome.steps)]
        phi = self.weight * torch.stack([s.value.double() for s in scores], 1)
        following = torch.cat([phi[:, 1:], torch.zeros_like(phi[:, :1])], 1)
        measured = torch.stack([paid.measured, *[s.measured for s in scores]]).all(0)
        return replace(paid, values=paid.values + following - phi, initial=paid.initial + phi[:, 0], measured=measured)
