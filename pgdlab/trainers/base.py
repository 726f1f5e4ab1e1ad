"""The seam of training algorithms: collect an experience, cut it into minibatches and passes, state the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.values import Value
from pgdlab.rollout.plan import Plan
from pgdlab.world import World


@dataclass(frozen=True)
class Loss:
    """value: to be minimised, summed over this pass and already divided by global counts, so that passes and processes
    add up. logs: name -> (sum, count), added up likewise. rows: what the network was evaluated on."""

    value: Tensor
    rows: int = 0
    logs: dict[str, tuple[Tensor, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC):
    """One iteration: collect(), then for every update k the passes of its minibatch, each with a loss().

    dropout: whether the network is trained with its dropout on; never where a ratio of densities is taken.
    """

    dropout: ClassVar[bool] = False

    @abstractmethod
    def updates_per_iteration(self, plan: Plan) -> int:
        """Optimiser steps an iteration."""

    def build_critic(self, world: World) -> Value | None:
        """The untrained value that is to be learned beside the policy, if any."""
        return None

    @abstractmethod
    def refuse(self, world: World) -> None:
        """Raises ValueError, before a run begins, where the world asks for what this algorithm cannot give."""

    @abstractmethod
    def collect(self, world: World, iteration: int) -> Any:
        """The iteration's experience; it has `logs: dict[str, float]`, `queries` and `evaluations`, all global."""

    @abstractmethod
    def release(self, experience: Any) -> None:
        """After memory has run out: lets go of what can be computed again."""

    @abstractmethod
    def passes(self, experience: Any, update: int, world: World) -> list[Any]:
        """This process's part of minibatch `update`, cut in pieces that fit one forward and backward. May be empty."""

    @abstractmethod
    def loss(self, experience: Any, piece: Any, world: World) -> Loss:
        """The loss of one piece."""


def refuse_ode(policy: Policy) -> None:
    """Raises ValueError where the denoiser is to be trained on its samples under a sampler without noise: it has no
    policy gradient there, and rollouts take deterministic steps with the frozen reference."""
    if policy.trains_denoiser and not policy.stochastic_steps:
        raise ValueError(
            "the sampler has no stochastic step (eta 0), so the denoiser has no policy gradient: set policy.kernel.eta "
            "above 0, or train the initial distribution alone (policy=frozen initial=diagonal)"
        )
