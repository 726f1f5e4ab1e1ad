"""The seam of training algorithms: collect an experience, cut it into minibatches and passes, state the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from pgdlab.diffusion.policy import ODE, Policy
from pgdlab.rollout.plan import Plan
from pgdlab.trainers.prompts import PromptRewards
from pgdlab.world import World


@runtime_checkable
class Counted(Protocol):
    """The part of an experience that is logged: figures of the iteration and of its prompts, and what it cost, over all
    processes."""

    @property
    def logs(self) -> dict[str, float]: ...
    @property
    def queries(self) -> int: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def prompts(self) -> PromptRewards | None: ...


Experience = TypeVar("Experience", bound=Counted)
MicroBatch = TypeVar("MicroBatch")


@dataclass(frozen=True)
class Loss:
    """value: to be minimised, summed over this pass and already divided by global counts, so that passes and processes
    add up. logs: name -> (sum, count), added up likewise. rows: what the network was evaluated on."""

    value: Tensor
    rows: int = 0
    logs: dict[str, tuple[Tensor, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC, Generic[Experience, MicroBatch]):
    """One iteration: collect(), then for every update k the micro-batches of its minibatch, each with a loss().

    dropout: whether the network is trained with its dropout on; never where a ratio of densities is taken. of_samples: whether
    it aims at a law of final samples and no KL of the path is its price: that KL is then a bound of theirs, often many times
    too large.
    """

    dropout: ClassVar[bool] = False
    of_samples: ClassVar[bool] = False

    @abstractmethod
    def updates_per_iteration(self, plan: Plan) -> int:
        """Optimiser steps an iteration."""

    @abstractmethod
    def refuse(self, world: World) -> None:
        """Raises ValueError, before a run begins, where the world asks for what this algorithm cannot give."""

    def equip(self, world: World) -> World:
        """The world with what this algorithm keeps next to the policy (a critic, the old policy): nothing by default."""
        return world

    def kept(self, world: World) -> dict[str, Tensor]:
        """What neither trains nor can be made again from what does, by name: checkpoints hold it too. Nothing by default."""
        return {}

    def trained(self, world: World) -> dict[str, nn.Module]:
        """The modules that are trained, by the name that has their learning rate (optimizer.rates)."""
        parts = {"denoiser": world.policy.denoiser, "initial": world.policy.initial, "critic": world.critic}
        return {
            name: part
            for name, part in parts.items()
            if part is not None and any(p.requires_grad for p in part.parameters())
        }

    @abstractmethod
    def collect(self, world: World, iteration: int) -> Experience:
        """The iteration's experience."""

    @abstractmethod
    def release(self, experience: Experience) -> None:
        """After memory has run out: lets go of what can be computed again."""

    @abstractmethod
    def micro_batches(self, experience: Experience, update: int, world: World) -> list[MicroBatch]:
        """This process's part of minibatch `update`, cut in pieces that fit one forward and backward. May be empty."""

    @abstractmethod
    def loss(self, experience: Experience, piece: MicroBatch, world: World) -> Loss:
        """The loss of one micro-batch."""


def refuse_ode(policy: Policy) -> None:
    """Raises ValueError where the denoiser is to be trained on its samples under a sampler without noise: it has no
    policy gradient there, and rollouts take deterministic steps with the frozen reference."""
    if not policy.trains_denoiser or policy.stochastic_steps:
        return
    if policy.steps == 1 and policy.kernel != ODE:
        raise ValueError(
            "policy.steps is 1, and the only step is the one to the sample, which has no noise: the denoiser has no policy "
            "gradient. Set policy.steps above 1, or train the initial distribution alone (policy=frozen initial=diagonal)"
        )
    raise ValueError(
        "the sampler has no stochastic step (eta 0), so the denoiser has no policy gradient: set policy.kernel.eta "
        "above 0 (and policy.kernel.quiet below the sigmas of its steps), or train the initial distribution alone "
        "(policy=frozen initial=diagonal)"
    )


def refuse_rounding(plan: Plan, why: str) -> None:
    """Raises ValueError where states are to be rounded."""
    if plan.bf16_states:
        raise ValueError(f"plan.bf16_states is true, but {why}: leave it false")


def refuse_idle_guidance(world: World) -> None:
    """Raises ValueError where guidance extrapolates between two estimates that are one and the same."""
    if world.policy.denoiser.guided and set(world.domain.train_conditions) == {world.domain.conditioning.unconditional}:
        raise ValueError(
            "policy.guidance compares with the estimate under no condition, and domain.train_conditions has no other: "
            "set policy.guidance=1, or name conditions"
        )
