"""The seam of penalties: a cost that is differentiated, and a part that is subtracted from returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pgdlab.rollout.trajectory import Trajectory

Draw = Callable[
    [int], tuple[Tensor, Tensor]
]  # that many samples of the reference, evenly over the prompts, and their conds


class Penalty(nn.Module, ABC):
    """The gradient of E[cost] under the policy's own state distribution needs both parts.

    The four hooks at the end are for penalties that look at the sampling policy or at final samples; most need none.
    """

    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether the rollout must compute the reference's means."""

    @abstractmethod
    def charge(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        """What each step costs: column 0 rho, column h + 1 step h. The value of a state is E[sum_{j >= h} r_j - charge_j].
        fp64, nats times the coefficient."""

    @abstractmethod
    def shape(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        """What is subtracted from the returns: column 0 from rho's, column h + 1 from action h's. fp64, nats times
        the coefficient."""

    @abstractmethod
    def cost(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """What is added to the loss of a step, given its exact KL (nats, with gradient)."""

    @abstractmethod
    def initial_cost(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What is added to the loss of rho, given KL(rho || rho_pre) (nats, with gradient)."""

    @abstractmethod
    def update(self, kl: float) -> None:
        """Told the mean KL of an iteration's trajectories (rho's included, nats)."""

    @abstractmethod
    def logs(self) -> dict[str, float]:
        """Current coefficients."""

    def needs_means(self) -> bool:
        """Whether the rollout must keep the sampling policy's means at trained steps."""
        return False

    def trusted(self, kl: Float[Tensor, " P"]) -> Bool[Tensor, " P"]:
        """Which steps' surrogates count, given the exact KL of each step to the policy that sampled it (nats)."""
        return torch.ones_like(kl, dtype=torch.bool)

    def references(self) -> int:
        """How many samples of the reference final() draws, once in a run; with 0 it is not called."""
        return 0

    def final(self, sample: Float[Tensor, "N *D"], cond: Tensor, draw: Draw) -> Float[Tensor, " N"]:
        """What every process's final samples cost, as an advantage: with its own baseline, subtracted from that of all
        actions that led there. fp64."""
        return torch.zeros(len(sample), dtype=torch.float64, device=sample.device)


class NoPenalty(Penalty):
    """Nothing: no reference pass is made."""

    def needs_reference(self) -> bool:
        return False

    def charge(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        rows, steps = len(trajectory.cond), len(trajectory.stored_at) - 1
        return trajectory.initial_log_prob.new_zeros(rows, steps + 1).double()

    def shape(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        return self.charge(trajectory)

    def cost(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return kl.new_zeros(kl.shape)

    def initial_cost(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return kl.new_zeros(kl.shape)

    def update(self, kl: float) -> None:
        pass

    def logs(self) -> dict[str, float]:
        return {}


class Around(Penalty):
    """A penalty around another one, which keeps everything that is not changed here."""

    def __init__(self, penalty: Penalty) -> None:
        super().__init__()
        self.penalty = penalty

    def needs_reference(self) -> bool:
        return self.penalty.needs_reference()

    def charge(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        return self.penalty.charge(trajectory)

    def shape(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        return self.penalty.shape(trajectory)

    def cost(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.penalty.cost(kl)

    def initial_cost(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.penalty.initial_cost(kl)

    def update(self, kl: float) -> None:
        self.penalty.update(kl)

    def logs(self) -> dict[str, float]:
        return self.penalty.logs()

    def needs_means(self) -> bool:
        return self.penalty.needs_means()

    def trusted(self, kl: Float[Tensor, " P"]) -> Bool[Tensor, " P"]:
        return self.penalty.trusted(kl)

    def references(self) -> int:
        return self.penalty.references()

    def final(self, sample: Float[Tensor, "N *D"], cond: Tensor, draw: Draw) -> Float[Tensor, " N"]:
        return self.penalty.final(sample, cond, draw)
