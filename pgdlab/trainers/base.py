"""The seam of training algorithms: collect an experience, cut it into minibatches and passes, state the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.values import Value
from pgdlab.domains.base import Domain
from pgdlab.memory import rows_that_fit
from pgdlab.noise import Noise
from pgdlab.penalties.base import Penalty
from pgdlab.plan import Plan
from pgdlab.rewards.base import Reward, begun_ahead
from pgdlab.rewards.guard import alone
from pgdlab.rollout import dtype_of


@dataclass(frozen=True)
class Processes:
    """The processes that share the work. gather: (n, ...) of each -> (size n, ...) in order of rank."""

    rank: int = 0
    size: int = 1
    gather: Callable[[Tensor], Tensor] = alone

    def share(self, total: int) -> range:
        """The indices of 0..total-1 that this process owns: equal, contiguous parts."""
        if total % self.size:
            raise ValueError(f"{total} samples do not divide among {self.size} processes")
        part = total // self.size
        return range(self.rank * part, (self.rank + 1) * part)


@dataclass
class World:
    """What an algorithm works with. critic: the value that it learns beside the policy, if it does. once: the first update
    follows its rollout at once and is differentiated once (SteeringModule), so that it can use sampling's own graph."""

    domain: Domain
    policy: Policy
    reference: Policy
    reward: Reward
    heldout: Reward | None
    penalty: Penalty
    plan: Plan
    noise: Noise
    processes: Processes = field(default_factory=Processes)
    critic: Value | None = None
    once: bool = False

    @property
    def device(self) -> torch.device:
        """Where the policy is, and so everything else."""
        return self.policy.device

    def to(self, device: torch.device) -> World:
        """Every part that has weights, moved; sizes of passes that the plan leaves open are chosen for that device."""
        for part in (self.policy, self.reference, self.reward, self.heldout, self.penalty, self.critic):
            if part is not None:
                part.to(device)
        plan = self.plan
        if not (plan.rollout_batch and plan.pass_size):
            x = torch.zeros(2, *self.policy.space.shape, dtype=dtype_of(self.policy), device=device)
            most = rows_that_fit(self.policy, x, torch.tensor(self.domain.prompts[:1] * 2, device=device))
            # a slow reward looks at a batch while the next one is sampled
            batch = -(-plan.samples // 4) if begun_ahead(self.reward) else most
            batch = plan.rollout_batch or min(batch, most)
            self.plan = replace(plan, rollout_batch=batch, pass_size=plan.pass_size or most)
        return self


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
    def updates(self, plan: Plan) -> int:
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
