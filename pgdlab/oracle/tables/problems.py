"""Criteria on finite MDPs, each with its exact optimum and the exact J of any policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.oracle.tables.mdp import (
    MDP,
    Optimum,
    average_objective,
    backward_induction,
    discounted_objective,
    finite_objective,
    policy_iteration,
    policy_kl,
    relative_value_iteration,
    soft_backward_induction,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem(ABC):
    """An MDP with its criterion.

    horizon: steps of an episode, or of a piece of a continuing task. weight: of the KL to the even policy, per nat.
    """

    name: str
    mdp: MDP
    horizon: int
    gamma: float = 1.0
    weight: float = 0.0
    stationary: ClassVar[bool] = True
    continuing: ClassVar[bool] = False

    @property
    def even(self) -> Float[Tensor, "S A"]:
        """The policy that learning starts from, and the reference of a KL."""
        return torch.full_like(self.mdp.reward, 1 / self.mdp.reward.shape[1])

    @abstractmethod
    def optimum(self) -> Optimum:
        """By dynamic programming."""

    @abstractmethod
    def objective(self, policy: Float[Tensor, "*T S A"]) -> Float[Tensor, ""]:
        """The exact J of a policy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finite(Problem):
    """E[sum_{h<H} gamma^h (r_h - weight KL(pi_h || even)(s_h))], one table of the policy a step."""

    stationary: ClassVar[bool] = False

    def optimum(self) -> Optimum:
        if self.weight:
            return soft_backward_induction(self.mdp, self.horizon, self.even, self.weight, self.gamma)
        return backward_induction(self.mdp, self.horizon, self.gamma)

    def objective(self, policy: Float[Tensor, "*T S A"]) -> Float[Tensor, ""]:
        return finite_objective(self.mdp, policy, self.horizon, self.gamma, self.weight * policy_kl(policy, self.even))


@dataclass(frozen=True, kw_only=True, eq=False)
class Discounted(Problem):
    """E[sum_h gamma^h r_h], gamma < 1; episodes are cut off, not ended, after horizon steps."""

    def optimum(self) -> Optimum:
        return policy_iteration(self.mdp, self.gamma)

    def objective(self, policy: Float[Tensor, "*T S A"]) -> Float[Tensor, ""]:
        return discounted_objective(self.mdp, policy, self.gamma)


@dataclass(frozen=True, kw_only=True, eq=False)
class Average(Problem):
    """lim E[sum_{h<n} r_h] / n; every row is one endless episode, seen piece by piece."""

    continuing: ClassVar[bool] = True

    def optimum(self) -> Optimum:
        return relative_value_iteration(self.mdp)

    def objective(self, policy: Float[Tensor, "*T S A"]) -> Float[Tensor, ""]:
        return average_objective(self.mdp, policy)
